"""Collectives over several hosts: our kernels within each host, the library between hosts.

`hierarchical` cuts a message among the ranks of a host, so that each byte crosses between two hosts
once; `hierarchical_whole` sends whole messages in fewer steps. A step is a case of the world of
this host, or of ranks on several hosts."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

from collectives.algorithms import allgather, reduce_scatter
from collectives.algorithms import allreduce_one_shot as one_shot
from collectives.binding import run_sequence
from collectives.collective import COLLECTIVES
from collectives.communicator import Refusal
from collectives.operation import Algorithm, Bound, Case, Operation, Unsupported, World
from kernels.devices.device import DeviceError

Step = tuple[World | tuple[int, ...], Case]
Steps = Callable[[World, World, Case], Iterator[Step]]

BETWEEN_HOSTS = Unsupported("these ranks are on several hosts")
MOST_WHOLE_BYTES = 16 << 10
# By collective: the form that reads from peers, and the form that stores into them.
WITHIN = {
    "all_reduce": (one_shot.PULL, one_shot.PUSH),
    "reduce_scatter": (reduce_scatter.PULL, reduce_scatter.PUSH),
    "all_gather": (allgather.PULL, allgather.PUSH),
}


def between(world: World, ranks: tuple[int, ...]) -> World:
    """The world of some ranks, one of each host, without mapped memory; they call it together."""
    if ranks not in world.parts:
        communicator = world.communicator.among(ranks)
        world.parts[ranks] = replace(
            world,
            communicator=communicator,
            baselines=[world.library.among(communicator)],
            peers=BETWEEN_HOSTS,
            node=None,
            parts={},
        )
    return world.parts[ranks]


def scratch(world: World, size_bytes: int) -> int:
    """The address of memory that all cases use in turn. Raises DeviceError."""
    if not world.scratch or world.scratch[-1].size_bytes < size_bytes:
        world.scratch.append(world.device.private(size_bytes))
    return world.scratch[-1].address


def shards(nodes: list[tuple[int, ...]]) -> Iterator[tuple[Fraction, Fraction, tuple[int, ...]]]:
    """Cuts a message wherever a host cuts it among its ranks: start, end and each host's owner."""
    cuts = {Fraction(place, len(ranks)) for ranks in nodes for place in range(len(ranks) + 1)}
    for start, end in pairwise(sorted(cuts)):
        yield start, end, tuple(ranks[int(start * len(ranks))] for ranks in nodes)


def lanes(nodes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """For each place on the largest host, a rank of every host: with this place, or in turn."""
    return [
        tuple(ranks[place % len(ranks)] for ranks in nodes) for place in range(max(map(len, nodes)))
    ]


def all_reduce(world: World, node: World, case: Case) -> Iterator[Step]:
    nodes, rank, size = world.communicator.nodes, world.communicator.rank, case.datatype.size_bytes
    unit = math.lcm(*map(len, nodes))
    cut = case.count // unit * unit  # the elements that every host can cut alike
    if cut:
        own = cut // node.communicator.size
        place = case.receive + node.communicator.rank * own * size
        yield (
            node,
            replace(case, collective=COLLECTIVES["reduce_scatter"], count=own, receive=place),
        )
        for start, end, owners in shards(nodes):
            if rank in owners:
                at = case.receive + int(start * cut) * size
                yield (
                    owners,
                    replace(
                        case, count=int((end - start) * cut), send=at, receive=at, in_place=True
                    ),
                )
        yield (
            node,
            replace(
                case, collective=COLLECTIVES["all_gather"], count=own, send=place, in_place=True
            ),
        )
    if cut < case.count or not cut:
        yield from whole(
            world,
            node,
            replace(
                case,
                count=case.count - cut,
                send=case.send + cut * size,
                receive=case.receive + cut * size,
            ),
        )


def whole(world: World, node: World, case: Case) -> Iterator[Step]:
    own = [ranks for ranks in lanes(world.communicator.nodes) if world.communicator.rank in ranks]
    # A rank with several lanes sends the same sum in each.
    sums = case.receive if len(own) == 1 else scratch(world, case.segment_bytes)
    yield node, replace(case, receive=sums, variant="copied")
    for ranks in own:
        yield ranks, replace(case, send=sums, in_place=len(own) == 1)


def windows(world: World, node: World) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """The ranks of each host, in groups of this host's number of ranks: turn, host and ranks."""
    n = node.communicator.size
    for turn in range(turns(world, node)):
        for host, ranks in enumerate(world.communicator.nodes):
            if here := ranks[turn * n : (turn + 1) * n]:
                yield turn, host, here


def turns(world: World, node: World) -> int:
    return math.ceil(max(map(len, world.communicator.nodes)) / node.communicator.size)


def in_lanes(world: World, node: World) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The lanes of this rank, one a turn."""
    yield from enumerate(
        lanes(world.communicator.nodes)[node.communicator.rank :: node.communicator.size]
    )


def in_a_block(ranks: tuple[int, ...], n: int) -> bool:
    """Whether these are `n` ranks in a row, so that their segments lie back to back."""
    return len(ranks) == n and ranks[-1] - ranks[0] == n - 1


def scatter(world: World, node: World, case: Case) -> Iterator[Step]:
    """For each host a reduce-scatter here; then each lane adds up its segments of all hosts."""
    n, size, hosts = node.communicator.size, case.segment_bytes, world.communicator.hosts
    sums = scratch(world, (turns(world, node) * hosts + n + 1) * size)
    unused = sums + turns(world, node) * hosts * size
    spare = unused + size
    for turn, host, ranks in windows(world, node):
        send = case.send + ranks[0] * size
        if not in_a_block(ranks, n):
            yield from copies(
                world,
                case,
                [
                    (case.send + rank * size, spare + place * size)
                    for place, rank in enumerate(ranks)
                ],
            )
            send = spare
        yield (
            node,
            replace(case, send=send, receive=sums + (turn * hosts + host) * size, in_place=False),
        )
    for turn, lane in in_lanes(world, node):
        yield (
            lane,
            replace(
                case,
                send=sums + turn * hosts * size,
                in_place=False,
                receive=unused if turn else case.receive,
            ),
        )


def gather(world: World, node: World, case: Case) -> Iterator[Step]:
    """Each lane gathers its segments of all hosts; then for each host an all-gather here."""
    n, size, hosts = node.communicator.size, case.segment_bytes, world.communicator.hosts
    parts = scratch(world, (turns(world, node) * hosts + n) * size)
    spare = parts + turns(world, node) * hosts * size
    for turn, lane in in_lanes(world, node):
        yield lane, replace(case, receive=parts + turn * hosts * size, in_place=False)
    for turn, host, ranks in windows(world, node):
        block = in_a_block(ranks, n)
        yield (
            node,
            replace(
                case,
                send=parts + (turn * hosts + host) * size,
                in_place=False,
                receive=case.receive + ranks[0] * size if block else spare,
            ),
        )
        if not block:
            yield from copies(
                world,
                case,
                [
                    (spare + place * size, case.receive + rank * size)
                    for place, rank in enumerate(ranks)
                ],
            )


def copies(world: World, case: Case, places: list[tuple[int, int]]) -> Iterator[Step]:
    """Copies of a segment: the library's all-gather of this rank alone."""
    for send, receive in places:
        yield (
            (world.communicator.rank,),
            replace(
                case,
                collective=COLLECTIVES["all_gather"],
                send=send,
                receive=receive,
                in_place=False,
            ),
        )


def bind(steps: Steps, world: World, case: Case) -> Bound:
    """Binds the steps on all ranks, or refuses on all. All ranks call it. Raises Refusal."""
    assert world.node
    node = world.node
    if steps is not all_reduce:
        case = replace(case, variant="copied")  # scratch memory is not mapped
    with world.communicator.all_or_none(DeviceError, MemoryError):
        listed = list(steps(world, node, case))
    bounds: dict[int, Bound] = {}
    # Our kernels first: a rank without a compiler must not let another wait in the library.
    with world.communicator.all_or_none(Refusal):
        for number, (part, step) in enumerate(listed):
            if isinstance(part, World):
                with node.communicator.all_or_none(DeviceError):
                    bounds[number] = bind_within(node, step)
    bounds |= {
        number: bind_flat(between(world, part), step)
        for number, (part, step) in enumerate(listed)
        if not isinstance(part, World)
    }
    operations = [bound for _, bound in sorted(bounds.items()) if isinstance(bound, Operation)]
    reasons = [bound.reason for bound in bounds.values() if isinstance(bound, Unsupported)]
    if reason := world.communicator.first_word(next(iter(reasons), None)):
        return Unsupported(reason)
    return run_sequence(world, operations)


def bind_within(node: World, case: Case) -> Bound:
    pull, push = WITHIN[case.collective.name]
    reads = node.device.is_cpu or case.variant == "registered"
    return (pull if reads else push).bind(node, case)


def bind_flat(world: World, case: Case) -> Bound:
    """The library's plain call."""
    return world.library.bind(world, replace(case, variant=world.library.variants(world)[0]))


def _refuses(world: World, case: Case) -> Unsupported | None:
    assert world.node
    if isinstance(world.node.peers, Unsupported):
        return world.node.peers
    if all(len(ranks) == 1 for ranks in world.communicator.nodes):
        return Unsupported("each host has one rank", depends_on_size=True)
    if case.redop == "avg":
        return Unsupported("a mean of the hosts' means rounds twice")
    return None


def _form(base: str, about: str, steps: Steps, **facts: Any) -> Algorithm:
    return Algorithm(
        base,
        f"between hosts: {about}",
        partial(bind, steps),
        refuses=_refuses,
        spans_hosts=True,
        needs_peers=False,
        **facts,
    )


WHOLE = _form(
    "hierarchical_whole",
    "one-shot within each, the library between, whole",
    whole,
    wins_below=MOST_WHOLE_BYTES + 1,
)
FLAT = Algorithm(
    "flat",
    "between hosts: the library over all ranks, as auto may choose it",
    bind_flat,
    spans_hosts=True,
    needs_peers=False,
    by_default=lambda world: False,  # it is the library
)
# In the order in which `auto` prefers them.
ALGORITHMS = {
    "all_reduce": (
        WHOLE,
        _form(
            "hierarchical",
            "reduce-scatter and all-gather within each, the library between",
            all_reduce,
            registered=True,
        ),
        FLAT,
    ),
    "reduce_scatter": (
        _form("hierarchical", "reduce-scatter within each, then the library's between", scatter),
        FLAT,
    ),
    "all_gather": (
        _form("hierarchical", "the library's all-gather, then one within each", gather),
        FLAT,
    ),
    "alltoall": (FLAT,),
    "sendrecv": (FLAT,),
}
