"""Run by mpirun: back-to-back launches of mixed algorithms, types, operations, sizes and
alignments, from an epoch near 2^32.

`stress_ranks.py LAUNCHES SEED [device=NAME] [memory=KIND] [timeout_s=N] [nt] [ntr] [NAME ...]`. A
NAME is an algorithm of all-reduces, or of LAYERS; rank 0 prints a JSON line {"launches",
"wrong_elements", ...}. With `nt`, stores into the slab bypass the caches; with `ntr`, stores into
the receive buffer do. Over the kernels of a negative control (tests/kernels/broken_kernels.py), the
same loop must find wrong elements.

The soak's Sampler draws the launches of plain collectives. All ranks make the same launches in the
same random order, each rank with its own data and random delays. No barrier separates two launches.
"""

import json
import random
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

from bench.harness.flight import FlightRecord
from bench.harness.iteration import Buffers, checked_iteration, nothing
from bench.harness.options import RunOptions, SweepOptions
from bench.harness.sampler import Sampler, SoakLaunch
from bench.harness.session import Session
from bench.harness.watchdog import Watchdog
from bench.machine.placement import Place
from bench.soak import MARGIN_BYTES, delay_steps
from collectives.auto_table import parsed
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.experts import routing
from collectives.experts.alltoall_routed import PULL, PUSH, WAYS
from collectives.layers.fused_forms import FUSED
from collectives.layers.stable import GROUP_THREADS, LEAVES
from collectives.operation import Operation
from collectives.peer_buffer import PeerBuffer, set_epoch
from collectives.registry import ALGORITHMS, exact
from kernels.devices.device import Action, Counts, Memory
from tests.ranks.layer_cases import LocalRanks, gemv_item, norm_item, routed_item
from tests.ranks.world import connect
from wiretax.record.case import FUSED_STABLE

START_EPOCH = 2**32 - 5
PLAIN_LAUNCHES = 24
CHUNKS = "", "", "", "+32K"  # of a message that passes through the slots in many steps
STREAMS = {"nt": "WT_STREAM_SLAB", "ntr": "WT_STREAM_RECEIVE"}


def main(
    launches: int,
    seed: int,
    settings: dict[str, str],
    names: list[str],
) -> None:
    session = open_session(
        seed, settings, {macro: int(word in names) for word, macro in STREAMS.items()}
    )
    names = [name for name in names if name not in STREAMS]
    world, communicator, watch = session.world, session.communicator, session.flight.watch
    draw = random.Random(seed)
    bed = OneRank(session, draw)
    for name in names or LAYERS:
        if name in LAYERS:
            LAYERS[name](bed)
    hand = bed.launches
    plain = [name for name in names if name not in LAYERS]
    if plain or not names:
        hand += plain_launches(session, draw, plain)

    assert isinstance(world.peers, PeerBuffer)
    set_epoch(world.peers, START_EPOCH)
    communicator.barrier()
    actions, idle = program(session, hand, launches), nothing(world)
    middle = len(actions) // launches * (launches // 2)
    for part in (
        actions[:middle],
        actions[middle:],
    ):  # in the first part, all steps are new to a GPU's stream
        world.device.run(part, idle, Counts(1, 0), watch)
    wrong_elements = sum(launch.iteration.read_wrong().elements for launch in hand)
    everyone = communicator.all_gather((watch.iteration, wrong_elements, bool(watch.timed_out)))
    if communicator.rank == 0:
        iterations, wrong, timed_out = zip(*everyone, strict=True)
        report = {"launches": min(iterations), "wrong_elements": sum(wrong)}
        print(json.dumps(report | {"timed_out": any(timed_out)}))


def open_session(
    seed: int,
    settings: dict[str, str],
    macros: dict[str, int],
) -> Session:
    """Open the session of a command that stores no run, over every sharing mode and with shared
    GPUs."""
    timeout_s, device = float(settings.get("timeout_s", 30)), settings.get("device", "cpu")
    world, watch = connect(timeout_s, device, settings.get("memory", "auto"), **macros)
    flight = FlightRecord(None, world.communicator.rank)
    flight.watch = watch
    options = RunOptions(
        "stress",
        timeout_s=timeout_s,
        seed=seed,
        device=device,
        keeps_run=False,
    )
    # A short time-out is for waits: a busy machine compiles for longer.
    return Session(options, world, Watchdog(flight, max(timeout_s, 30), {}), Place(False, []))


def program(
    session: Session,
    hand: Sequence[SoakLaunch],
    launches: int,
) -> list[Action]:
    """The actions of `launches` launches from `hand`, in one random order for all ranks, with
    delays of this rank."""
    seed, rank = session.options.seed, session.communicator.rank
    order, delays = random.Random(seed * 2 + 1), random.Random(seed * 1000 + rank + 1)
    late = delay_steps(session.world, delays)
    return [
        action
        for launch in order.choices(hand, k=launches)
        for action in launch.actions(delays.choice(late))
    ]


def plain_launches(
    session: Session,
    draw: random.Random,
    names: list[str],
) -> list[SoakLaunch]:
    """Launches of the named all-reduces, or of every algorithm of every collective.

    Each collective has one type and operation, as the seed draws them: the protocol does not depend
    on them, and each pair needs a build."""
    most_bytes = 2344 << 10  # as the soak
    send, receive = registered(session, session.communicator.size * most_bytes + MARGIN_BYTES, 2)
    buffers = Buffers(send, receive, session.options.seed)
    samplers = []
    for collective in COLLECTIVES.values() if not names else [COLLECTIVES["all_reduce"]]:
        types = [t for t in DATATYPES.values() if t.is_float or "one_shot_sentinel" not in names]
        datatype = draw.choice(types)
        redop = draw.choice(["sum", "avg" if datatype.is_float else "max"])
        known = ALGORITHMS[collective.name]
        ours = exact(collective.name, 1)
        chunked = [
            each.name + draw.choice(CHUNKS) if each.needs_peers else each.name for each in ours
        ]
        algorithms = [parsed(name, known) for name in names or chunked]
        soak = SweepOptions(
            collective, (1, most_bytes), [datatype.name], [redop], algorithms=algorithms
        )
        samplers.append(Sampler(session, soak, buffers))
    hand: list[SoakLaunch] = []
    while len(hand) < PLAIN_LAUNCHES:
        hand += [launch for sampler in samplers for launch in sampler.singles()]
    return hand


def registered(
    session: Session,
    size_bytes: int,
    number: int,
) -> list[Memory]:
    """New buffers that all ranks map."""
    assert isinstance(session.world.peers, PeerBuffer)
    return [session.world.peers.register(size_bytes) for _ in range(number)]


class OneRank(LocalRanks):
    """The rank of this process, and the launches of its layers."""

    def __init__(self, session: Session, draw: random.Random) -> None:
        super().__init__([session.world], session.options.seed)
        self.session, self.draw, self.launches = session, draw, list[SoakLaunch]()

    def buffers(
        self,
        size_bytes: int,
        element_bytes: int = 0,
    ) -> list[int]:
        return [memory.address for memory in registered(self.session, size_bytes, 1)]

    def memory(self, size_bytes: int) -> Memory:
        return self.session.world.device.private(max(1, size_bytes))

    def add(
        self,
        name: str,
        cases: list[Any],
        bind: Any,
        contents: Any,
    ) -> None:
        [world], [case] = self.worlds, cases
        operation = bind(world, case)
        assert isinstance(operation, Operation), operation
        source, target = contents(case, world.communicator.rank)
        made = checked_iteration(world, case, operation, source, target, self)
        self.launches.append(SoakLaunch(case, made))


def add_routed(bed: OneRank) -> None:
    """Every way by pushes and by pulls; also to ranks without tokens or experts."""
    draw = bed.draw
    for way, algorithm in product(WAYS, (PUSH, PULL)):
        datatype = DATATYPES[draw.choice(["float32", "bfloat16", "float16", "float64"])]
        experts = draw.choice([3, 8, 13])
        top_k, hidden = draw.choice([1, 2, 3]), draw.choice([1, 31, 248, 1024])
        tokens, skew = draw.choice([1, 5, 64, 300]), draw.choice(["uniform", "zipf:1.5", "zipf:9"])
        routes = routing.draw(skew, bed.ranks, experts, tokens, top_k, draw.randrange(1 << 30))
        routed_item(bed, "routed", algorithm, way, datatype, hidden, routes)


def add_norms(bed: OneRank) -> None:
    """Of several shapes, in each form and variant."""
    draw, datatype = bed.draw, DATATYPES[("float32", "bfloat16", "float16")[bed.seed % 3]]
    for _ in range(5):
        hidden, tokens = draw.choice([1, 31, 248, 1024, 8192]), draw.choice([1, 3, 9, 40])
        form = draw.choice(["fused", "fused_push", FUSED_STABLE])
        if form == FUSED_STABLE and (datatype.name != "float32" or LEAVES % bed.ranks):
            form = "fused"  # the other one takes fp32 parts, of a few numbers of ranks
        variants = FUSED["allreduce_rmsnorm"][form].variants_in(bed.worlds[0])
        norm_item(bed, "norm", datatype, tokens, hidden, form, variant=draw.choice(variants))


def add_gemvs(bed: OneRank) -> None:
    datatype = DATATYPES[("float32", "float16", "bfloat16")[bed.seed % 3]]
    for _ in range(5):
        hidden, inner = bed.draw.choice([64, 320, 2048]), bed.draw.choice([64, 128, 320])
        form = bed.draw.choice(["fused", FUSED_STABLE])
        device = bed.worlds[0].device
        if LEAVES % bed.ranks or (not device.is_cpu and device.threads % GROUP_THREADS):
            form = "fused"  # the other one takes a few numbers of ranks, and whole groups
        gemv_item(bed, "gemv", datatype, 1 + bed.seed % 8, hidden, inner, form)


LAYERS = {
    "routed": add_routed,
    "allreduce_rmsnorm": add_norms,
    "gemv_allreduce": add_gemvs,
}


if __name__ == "__main__":
    pairs = dict(word.split("=") for word in sys.argv[3:] if "=" in word)
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        pairs,
        [word for word in sys.argv[3:] if "=" not in word],
    )
