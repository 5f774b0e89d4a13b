"""What `auto` runs: what the user's table says for the case, else the suite's own tables, else the
feasible algorithm that a model of the cost expects to be fastest. `auto_stable` chooses in the same
way among the algorithms that sum in rank order, whose bits depend on neither size nor place.

It depends on the wire, which is measured once, before the first case: between CPU ranks the round
trip of a flag, between GPUs also stores, reads and copies (`wire_cost`)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from operator import itemgetter
from typing import Any

import msgspec

from collectives import wire_cost
from collectives.auto_table import Tables, best_row, distance, parsed
from collectives.build import Build, BuildName
from collectives.operation import (
    ONE_HOST,
    Algorithm,
    Bound,
    ChoiceRow,
    CollectiveCase,
    Operation,
    Unsupported,
    World,
)

AUTO, STABLE = "auto", "auto_stable"
BETWEEN_HOSTS = Unsupported("between hosts the library chooses the order of a sum")

# Between CPU cores, in ns a byte, fitted on three processors (docs/experiments/performance.md): a
# read of a peer, of the own input, and a store into a line that another core holds.
READ_NS, OWN_NS, CONTENDED_NS = 0.02, 0.005, 0.05
OVERSUBSCRIBED_NS = 2e3  # a flag's round trip where peers take turns on a core


def kinds_of(world: World) -> str:
    """The kinds of memory that the ranks have, as in tables: `mapped,host_staged`."""
    return ",".join(each.memory for each in (world, *world.other_memory))


def facts_of(world: World, case: CollectiveCase) -> dict[str, Any]:
    """The facts that a row may require, those that are known here."""
    facts = {
        "device": "cpu" if world.device.is_cpu else "gpu",
        "memory": kinds_of(world),
        "ranks": world.ranks,
        "hosts": world.communicator.hosts,
        "variant": case.variant,
        "mode": case.mode,
        "in_place": case.in_place,
        "way": case.shape.get("way"),
    }
    if world.device.is_cpu:
        facts |= {
            "round_trip_ns": world.round_trip_ns,
            "l1_bytes": world.device.l1_bytes,
            "l2_bytes": world.device.l2_bytes,
            "oversubscribed": world.oversubscribed,
        }
    return facts


@cache
def shipped_rows() -> list[ChoiceRow]:
    """The rows of the suite's own tables."""
    files = sorted(resources.files(__package__).joinpath("tables").iterdir(), key=str)
    contents = [msgspec.toml.decode(file.read_bytes(), type=Tables) for file in files]
    return [row for tables in contents for row in tables.rows]


def ranked(
    world: World,
    case: CollectiveCase,
    algorithms: Sequence[Algorithm],
    own: Sequence[ChoiceRow],
    stable: bool = False,
) -> Iterator[tuple[World, Algorithm]]:
    """The algorithms for a case, each over its memory, in the order in which `auto` tries them, or
    `auto_stable` does: those of the user's rows, of the suite's `own`, those that lead, and the
    others by the model's cost. Rows of algorithms that are not here are passed over. Over several
    kinds of memory, rows of the first kind alone count where no row over all of them is nearer, and
    the model takes the first kind: nobody has measured the others against it."""
    worlds, facts = (world, *world.other_memory), facts_of(world, case) | {"stable": stable}
    memories = dict.fromkeys((facts["memory"], world.memory))
    known = {each.base: each for each in algorithms if each.sums_in_rank_order or not stable}
    for table in (world.rows, own):
        rows = [row for row in table if BuildName.parse(row.algorithm).algorithm in known]
        nearest = (
            best_row(rows, case.collective.name, case.segment_bytes, facts | {"memory": memory})
            for memory in memories
        )
        size_bytes = case.segment_bytes
        row = min(filter(None, nearest), key=lambda row: distance(row, size_bytes), default=None)
        if row:
            over = next((each for each in worlds if each.memory == row.memory), world)
            algorithm = parsed(row.algorithm, known)
            # In place the lines of the receive buffer have just been read.
            if not (case.in_place and case.collective.reduces):
                yield over, algorithm
            build = replace(algorithm.build, stream_receive=False)  # it takes any size
            yield over, replace(algorithm, build=build)
    is_gpu = not world.device.is_cpu
    places = [
        # Of equals one that pushes: a GPU waits for what it reads.
        ((kind, not leads, cost_us(over, each, case), not (each.pushes and is_gpu)), over, each)
        for kind, over in enumerate(worlds)
        for leads, each in modelled(over, case, known.values())
    ]
    for _, over, algorithm in sorted(places, key=itemgetter(0)):
        yield over, algorithm


def modelled(
    world: World, case: CollectiveCase, algorithms: Iterable[Algorithm]
) -> Iterator[tuple[bool, Algorithm]]:
    """The algorithms that `auto` takes without a table, and whether they lead. For registered
    buffers of CPUs also over slabs, and in a chain, which stores where peers read, over these
    alone; direct sums use non-temporal stores, if no lines there have just been read."""
    is_registered = world.device.is_cpu and case.variant == "registered"
    for algorithm in algorithms:
        leads = algorithm.limits.leads(world, case.segment_bytes)
        if algorithm.is_lossy or not (algorithm.is_modelled or leads):
            continue
        if case.segment_bytes >= algorithm.limits.wins_below(world):
            continue
        is_direct = is_registered and "copied" not in algorithm.variants
        over_slabs = is_registered and "slabs" in algorithm.varies
        if over_slabs:
            yield leads, replace(algorithm, build=Build(slabs=True))
        if (over_slabs or is_direct) and case.mode == "chained":
            continue
        if not algorithm.needs_peers or case.variant in algorithm.variants:
            build = Build(stream_slab=is_direct and not case.in_place)
            yield leads, replace(algorithm, build=build)
            if algorithm.in_rounds and not world.device.is_cpu:
                for build in wire_cost.chunked_builds(world.device, case.segment_bytes):
                    yield leads, replace(algorithm, build=build)


def cost_us(world: World, algorithm: Algorithm, case: CollectiveCase) -> float:
    """What the model expects: half a round trip for each flag, and the bytes. Launches cost all
    alike. 0 without a known traffic or mapped memory: then the order of the list counts."""
    traffic = algorithm.traffic(world.ranks, case)
    if traffic is None or isinstance(world.peers, Unsupported):
        return 0.0
    if not world.device.is_cpu:
        assert world.peers.wire, "connect() has measured it"
        return wire_cost.cost_us(world, algorithm, case, world.peers.wire)
    read = sum(read for _, read in traffic.stages)
    contended_ns = CONTENDED_NS * traffic.contended_bytes
    moved_ns = READ_NS * read + OWN_NS * traffic.own_bytes + contended_ns
    trip_ns = OVERSUBSCRIBED_NS if world.oversubscribed else world.round_trip_ns
    return (traffic.hops * trip_ns / 2 + moved_ns) / 1e3


def bind_best(
    algorithms: tuple[Algorithm, ...], stable: bool, world: World, case: CollectiveCase
) -> Bound:
    """Binds the first algorithm that can be, in the order of `ranked`. Raises Refusal."""
    refusal = None
    for over, algorithm in ranked(world, case, algorithms, shipped_rows(), stable):
        bound = algorithm.bind(over, case)
        if isinstance(bound, Operation):
            memory = over.memory if world.other_memory else None
            name = BuildName(algorithm.name, memory=memory)
            return replace(bound, chosen=algorithm, choice=str(name))
        if refusal in (None, ONE_HOST):
            refusal = bound
    assert refusal, "auto chooses among some algorithms"
    return refusal


def auto(algorithms: tuple[Algorithm, ...]) -> Algorithm:
    """Performs each case by the algorithm that is chosen for it."""
    return Algorithm(
        AUTO,
        "the best for the size: as measured here by tuning, or elsewhere, or a guess",
        partial(bind_best, algorithms, False),
        variants=("copied", "registered"),
    )


def auto_stable(algorithms: tuple[Algorithm, ...]) -> Algorithm:
    """As `auto`, by an algorithm that sums in rank order."""
    return replace(
        auto(algorithms),
        base=STABLE,
        about="auto without algorithms whose bits depend on an element's place",
        perform=partial(bind_best, algorithms, True),
        refuses=lambda world, case: BETWEEN_HOSTS if world.node else None,
        sums_in_rank_order=True,
        by_default=lambda world: False,
    )
