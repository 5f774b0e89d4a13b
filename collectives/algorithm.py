"""The registry: each collective's algorithms by name, in the order of the table. `auto` is what
bench.tune measured as best here, or a choice that is reasonable everywhere."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from collectives import allgather, alltoall, hierarchical, quantized, reduce_scatter, sendrecv
from collectives import allreduce_multimem as multimem
from collectives.allreduce_copy_engine import RING_COPY_ENGINE, TWO_SHOT_COPY_ENGINE
from collectives.allreduce_one_shot import PULL, PUSH
from collectives.allreduce_packets import LL, MOST_LL_BYTES, SENTINEL
from collectives.allreduce_ring import RING
from collectives.allreduce_two_shot import DIRECT, TWO_SHOT
from collectives.allreduce_two_shot import PUSH as TWO_SHOT_PUSH
from collectives.collective import Traffic
from collectives.operation import (
    MOST_CHAINED_BYTES,
    Algorithm,
    Bound,
    Case,
    Operation,
    TunedChoice,
    World,
)

FAR_NS = 380.0
STATES_NS = 100.0, 225.0, FAR_NS, 512.0  # round trips of a flag between two cores, as measured
SAME_STATE_RATIO = 1.5  # of two round trips in one state; the last two defaults are one state
REACH = 8  # beyond this factor from all sizes that were tuned `auto` takes its default

# `auto` chooses among these, and a default run measures them.
EXACT: dict[str, tuple[Algorithm, ...]] = {
    "all_reduce": (
        LL,
        SENTINEL,
        PUSH,
        PULL,
        TWO_SHOT,
        TWO_SHOT_PUSH,
        DIRECT,
        RING,
        multimem.ONE_SHOT,
        multimem.TWO_SHOT,
        TWO_SHOT_COPY_ENGINE,
        RING_COPY_ENGINE,
    ),
    "all_gather": allgather.ALGORITHMS,
    "reduce_scatter": reduce_scatter.ALGORITHMS,
    "alltoall": alltoall.ALGORITHMS,
    "sendrecv": sendrecv.ALGORITHMS,
}
# Measured only where the command line names them.
ON_REQUEST: dict[str, tuple[Algorithm, ...]] = {
    "all_reduce": quantized.ALGORITHMS,
}
# These and the library perform a collective between hosts.
BETWEEN_HOSTS: dict[str, tuple[Algorithm, ...]] = {
    "all_reduce": (hierarchical.ALL_REDUCE, hierarchical.WHOLE, hierarchical.FLAT),
    "all_gather": (hierarchical.ALL_GATHER, hierarchical.FLAT),
    "reduce_scatter": (hierarchical.REDUCE_SCATTER, hierarchical.FLAT),
    "alltoall": (hierarchical.FLAT,),
    "sendrecv": (hierarchical.FLAT,),
}


@dataclass(frozen=True)
class Cores:
    """What the defaults of CPUs depend on: how long a flag takes there and back, and CpuDevice's
    facts about caches."""

    trip_ns: float
    hold_a_mebibyte: bool = False
    share_a_cache: bool = False


def choose(
    size_bytes: int,
    ranks: int,
    cores: Cores,
    registered: bool,
    in_place: bool = False,
    chained: bool = False,
) -> str:
    """The default all-reduce of CPUs: limits that were measured (docs/experiments/performance.md).

    Registered, direct sums save a pass, but store into lines that the peer has read: two ranks gain
    from 1 MiB on, or, around the caches of cores without a common one, from 64 KiB on. Between
    far cores shorter messages and all of a chain go through slabs, where places change hands, and
    those of other chains while a core holds their buffers. In place a rank has just read the lines
    that it stores into, so direct sums win, but not short ones of far cores with large caches."""
    is_far = cores.trip_ns >= FAR_NS
    slabs_hold = size_bytes <= 32 << 10 and cores.hold_a_mebibyte and not cores.share_a_cache
    if registered and in_place and not (slabs_hold and is_far and ranks == 2):
        return "two_shot_direct"
    if ranks > 2:
        return choose_for_many(size_bytes, ranks, cores, registered)
    over_slabs = choose_copied(size_bytes, cores)
    if not registered:
        return over_slabs
    most_held = 256 << 10 if cores.hold_a_mebibyte else 128 << 10
    short_bytes, far_bytes = (most_held, math.inf) if chained else (0, 64 << 10)
    if size_bytes <= short_bytes or (is_far and size_bytes < far_bytes):
        return f"{over_slabs}+slabs"
    if size_bytes < 1 << 20 and (cores.share_a_cache or not is_far):
        return "two_shot" + "+128K" * (is_far and size_bytes >= 512 << 10)
    # Without a cache in common, or beyond it, stores go around the caches.
    return (
        "two_shot_direct"
        + "+nt" * (is_far or size_bytes > 8 << 20)
        + "+ntr" * (size_bytes > 16 << 20 and not is_far)
    )


def choose_copied(size_bytes: int, cores: Cores) -> str:
    """The default of two ranks whose buffers are not registered. A second step costs a trip: one
    step is faster up to 256 B for each ns of the trip."""
    if size_bytes <= 256 * cores.trip_ns:
        return "one_shot_pull"
    cut_from_bytes = 2 << 20 if cores.hold_a_mebibyte else 512 << 10
    return "two_shot" + "+ntr" * (size_bytes >= 16 << 20) + "+128K" * (size_bytes >= cut_from_bytes)


def choose_for_many(size_bytes: int, ranks: int, cores: Cores, registered: bool) -> str:
    """The default of more than two ranks. They were measured on two cores only: each step may wait
    for a core. Cores that hold a mebibyte store slowly into lines that several peers have read. So
    a rank gives each peer a place of its own, or its stores go around the caches."""
    is_far, holds = cores.trip_ns >= FAR_NS, cores.hold_a_mebibyte
    copied = choose_copied_for_many(size_bytes, ranks, cores)
    if not registered:
        return copied
    if is_far:
        if size_bytes < (1 << 20 if holds else 4 << 20):
            return f"{copied}+slabs"
        return "two_shot_push+nt" if holds and size_bytes < 8 << 20 else "two_shot_direct+nt"
    if size_bytes <= (128 << 10 if holds else 32 << 10):
        return f"{copied}+slabs"
    if size_bytes < ranks << 17:
        return "two_shot_push"
    return "two_shot_direct" + "+nt" * (size_bytes > 8 << 20)


def choose_copied_for_many(size_bytes: int, ranks: int, cores: Cores) -> str:
    """The default of more than two ranks whose buffers are not registered."""
    is_far, holds = cores.trip_ns >= FAR_NS, cores.hold_a_mebibyte
    if holds and (is_far or ranks <= 4) and size_bytes * ranks <= 1 << 20:
        return "one_shot_push" if size_bytes * (ranks - 1) <= 128 << 10 else "two_shot_push"
    if size_bytes <= 32 << 10:
        return "one_shot_pull"
    if holds and is_far:
        return "two_shot+ntr" if size_bytes >= 8 << 20 else "two_shot+nt"
    if is_far and ranks <= 4 and size_bytes <= 4 << 20:
        return "two_shot_push"
    if size_bytes >= 16 << 20:
        return "two_shot+ntr"
    return "two_shot" + "+128K" * (holds and ranks > 4 and size_bytes >= 1 << 20)


def choose_through_host(size_bytes: int, ranks: int, registered: bool) -> str:
    """The default over host memory: a push and a pull both cross PCIe once as stores and once as
    reads. Two ranks push, because a read is a round trip, and a push leaves only reads of the
    reader's own slab. More ranks pull: a push stores a copy for each peer. None takes packets, as
    LL over host memory hung RCCL on gfx12 (ROCm/rocm-systems pull request 7183)."""
    if size_bytes * (ranks - 1) > 128 << 10:
        return "two_shot"
    return "one_shot_push" if ranks == 2 and not registered else "one_shot_pull"


def choose_on_gpus(size_bytes: int, ranks: int, registered: bool) -> str:
    """The default all-reduce of GPUs, which store into a peer faster than they read from it:
    packets spare a flag and double the bytes, one_shot_push spares a step and sends most bytes.
    Neither uses registered buffers."""
    sent_bytes = size_bytes * (ranks - 1)
    if registered:
        return "one_shot_pull" if sent_bytes <= 128 << 10 else "two_shot_push"
    if size_bytes <= MOST_LL_BYTES and sent_bytes <= 64 << 10:
        return "one_shot_ll"
    return "one_shot_push" if sent_bytes <= 512 << 10 else "two_shot_push"


def choose_message(size_bytes: int, trip_ns: float, registered: bool, answered: bool) -> str:
    """The default of a message between CPUs. Over registered buffers it needs a flag more. Near,
    long messages store around the caches, with an answer sooner: 1.04 to 1.2 times as fast."""
    if registered:
        through = trip_ns == FAR_NS and sendrecv.READ_ALONE_BYTES < size_bytes <= 8 << 20
        return "direct_pull" + "+slabs" * through
    goes_around = trip_ns < FAR_NS and size_bytes >= (16 << 20 if answered else 32 << 20)
    return "direct_push+ntr" if goes_around else "direct_pull"


def choose_direct(size_bytes: int, registered: bool) -> str:
    """The default on CPUs of all-gather, reduce-scatter and all-to-all: the fewest stores, in short
    chunks if a segment exceeds a cache."""
    return "direct_pull" + "+128K" * (not registered and size_bytes >= 4 << 20)


def default_choices(world: World, case: Case, reduces_all: bool) -> Mapping[float, str]:
    """By a flag's round trip in ns; on GPUs only one."""
    ranks, registered = world.communicator.size, case.variant == "registered"
    size_bytes = case.segment_bytes
    if world.device.is_cpu and reduces_all:
        caches = world.device.holds_a_mebibyte, world.device.shares_a_cache
        return {
            trip_ns: choose(
                size_bytes,
                ranks,
                Cores(trip_ns, *caches),
                registered,
                case.in_place,
                case.mode == "chained",
            )
            for trip_ns in STATES_NS
        }
    if world.device.is_cpu and case.collective.name == "sendrecv":
        answered = case.shape["way"] == "ping_pong"
        return {
            trip_ns: choose_message(size_bytes, trip_ns, registered, answered)
            for trip_ns in STATES_NS
        }
    if world.device.is_cpu:
        return dict.fromkeys(STATES_NS, choose_direct(size_bytes, registered))
    if not reduces_all:
        return {FAR_NS: "direct_pull" if registered else "direct_push"}
    choose_far = choose_through_host if world.memory == "host_staged" else choose_on_gpus
    return {FAR_NS: choose_far(size_bytes, ranks, registered)}


def same_state(rtt_a_ns: float, rtt_b_ns: float) -> bool:
    """Whether two round trips of a flag, perhaps of two launches, show one state of the link."""
    return max(rtt_a_ns, rtt_b_ns) <= SAME_STATE_RATIO * min(rtt_a_ns, rtt_b_ns)


def untuned_states(states_ns: Iterable[float], tuned_ns: Iterable[float]) -> list[float]:
    """Those of no state that was tuned, nor of one that shares a state with such a one."""
    states_ns, tuned_ns = list(states_ns), list(tuned_ns)
    met_ns = [a for a in states_ns if any(same_state(a, b) for b in tuned_ns)]
    return [a for a in states_ns if not any(same_state(a, b) for b in met_ns)]


def nearest_state(states_ns: Iterable[float], trip_ns: float) -> float:
    """The state of the link, by its round trip, that is nearest to this round trip."""
    return min(states_ns, key=lambda state_ns: abs(math.log(state_ns / trip_ns)))


def choices_for(
    choices: Sequence[TunedChoice], case: Case, ranks: int, memory: str, hosts: int = 1
) -> list[TunedChoice]:
    """The best algorithm for the case's mode in each tuned state of the link, at the nearest size
    that was tuned over this kind of memory."""
    is_long = case.mode == "chained" and case.segment_bytes > MOST_CHAINED_BYTES
    if case.variant == "registered" and (case.in_place or is_long):  # bench.tune measures neither
        return []
    key = case.collective.name, ranks, case.variant, memory, hosts
    comparable = [
        choice
        for choice in choices
        if choice.mode in ("any", case.mode)
        and key == (choice.collective, choice.ranks, choice.variant, choice.memory, choice.hosts)
    ]
    sizes = [choice.size_bytes for choice in comparable]
    if not sizes or not min(sizes) / REACH <= case.segment_bytes <= max(sizes) * REACH:
        return []
    states: list[list[TunedChoice]] = []
    for choice in sorted(comparable, key=lambda choice: choice.link_rtt_ns):
        if not states or not same_state(states[-1][0].link_rtt_ns, choice.link_rtt_ns):
            states.append([])
        states[-1].append(choice)
    return [
        min(state, key=lambda choice: abs(math.log(choice.size_bytes / case.segment_bytes)))
        for state in states
    ]


def choosing_among(algorithms: Sequence[Algorithm], reduces_all: bool = False) -> Algorithm:
    """`auto`: binds the tuned choice for each state of the link, or the default."""
    by_name = {algorithm.name: algorithm for algorithm in algorithms}

    def bind_named(world: World, case: Case, name: str) -> Bound:
        # Without stores around the caches into the receive buffer. Peers need not know of them.
        plain = "+".join(word for word in name.split("+") if word != "ntr")
        if case.in_place and case.collective.reduces:  # these lines have just been read
            name = plain
        bound = named(by_name, name).bind(world, case)
        if isinstance(bound, Operation):
            return replace(bound, chosen=name)
        return bind_named(world, case, plain) if plain != name else bound  # it may fit

    def operations(world: World, case: Case, names: Mapping[float, str]) -> dict[float, Operation]:
        bound = {name: bind_named(world, case, name) for name in dict.fromkeys(names.values())}
        return {
            state_ns: operation
            for state_ns, name in names.items()
            if isinstance(operation := bound[name], Operation)
        }

    def bind(world: World, case: Case) -> Bound:
        ranks, between = world.communicator, world.node and hierarchical.FLAT.name in by_name
        tuned = choices_for(world.choices, case, ranks.size, world.memory, ranks.hosts)
        by_link = operations(world, case, {each.link_rtt_ns: each.algorithm for each in tuned})
        names = (
            {FAR_NS: hierarchical.choose(world, case)}
            if between
            else default_choices(world, case, reduces_all)
        )
        if by_link:  # two CPU cores keep the default in a state of their link that was not tuned
            keeps = world.device.is_cpu and not between
            names = {ns: names[ns] for ns in untuned_states(names, by_link)} if keeps else {}
        by_link |= operations(world, case, names)
        if not by_link:
            return bind_named(world, case, next(iter(names.values())))
        first = next(iter(by_link.values()))
        several = len({operation.chosen for operation in by_link.values()}) > 1
        return replace(first, by_link=by_link) if several else first

    return Algorithm(
        "auto", "the best for the size: as bench.tune measured, or a default", bind, registered=True
    )


def _library_traffic(ranks: int, case: Case) -> Traffic:
    """A lower bound for every algorithm: each rank must receive the data that it lacks."""
    each_way, own = case.collective.least_bytes(case.segment_bytes, ranks)
    legs = sendrecv.LEGS.get(case.shape.get("way", ""), 1)
    return Traffic(legs, ((each_way, each_way),) * legs, own)


LIBRARY = Algorithm(
    "library",
    "NCCL or RCCL on GPUs; on the CPU the MPI that started this",
    lambda world, case: world.library.bind(world, case),
    _library_traffic,
    library_variants=3,
)


def _registered(collective: str) -> dict[str, Algorithm]:
    exact = *EXACT[collective], *BETWEEN_HOSTS[collective]
    automatic = choosing_among(exact, collective == "all_reduce")
    listed = (LIBRARY, *exact, *ON_REQUEST.get(collective, ()), automatic)
    return {algorithm.name: algorithm for algorithm in listed}


ALGORITHMS: dict[str, dict[str, Algorithm]] = {name: _registered(name) for name in EXACT}


def default_names(collective: str, two_cores: bool = False, hosts: int = 1) -> list[str]:
    """The algorithms of a run that names none. Between two CPU cores pushing gains little."""
    between = [algorithm.name for algorithm in BETWEEN_HOSTS[collective]]
    if hosts > 1:
        return [LIBRARY.name, *between[:-1], "auto"]  # flat is the library
    skipped = {*between, *(algorithm.name for algorithm in ON_REQUEST.get(collective, ()))}
    if two_cores:
        skipped.add(TWO_SHOT_PUSH.name)
    return [name for name in ALGORITHMS[collective] if name not in skipped]


def named(algorithms: Mapping[str, Algorithm], name: str) -> Algorithm:
    """The algorithm with this name, in the build that the words after a plus spell, as in
    `two_shot+nt+128K`. Raises ValueError for a wrong word, KeyError for an unknown name."""
    base, plus, words = name.partition("+")
    if plus and not words:
        raise ValueError("no word follows the plus")
    if words and base in ("library", "flat", "auto", "then_library", "compute"):
        raise ValueError(f"{base} is not ours to build")
    return algorithms[base].built(words)


def selected(algorithms: Mapping[str, Algorithm], names: Sequence[str]) -> list[Algorithm]:
    order = list(algorithms)
    by_order = sorted(names, key=lambda name: order.index(name.split("+")[0]))
    return [named(algorithms, name) for name in by_order]
