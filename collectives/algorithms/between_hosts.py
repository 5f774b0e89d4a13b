"""Collectives over several hosts: our kernels within each host, the library between hosts.

| algorithm | within a host | between hosts, by the library |
|---|---|---|
| `hierarchical` | reduce-scatter and all-gather | its shard from each rank: each byte once |
| `hierarchical_whole` | one-shot all-reduce | whole messages, in fewer hops |
| `flat` | | the library's collective over all ranks |

Each host may have another number of ranks."""

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

# A case of this host's world, by our kernels, or of ranks on several hosts, by the library.
Part = tuple[World | tuple[int, ...], Case]
Parts = Callable[[World, World, Case], Iterator[Part]]

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
    """The address of memory that every case overwrites. Raises DeviceError."""
    if not world.scratch or world.scratch[-1].size_bytes < size_bytes:
        world.scratch.append(world.device.private(size_bytes))
    return world.scratch[-1].address


def rails(nodes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """A rail is one rank of every host. There are as many as the largest host has ranks: rail i
    joins the ranks with local rank i, and on a host with n < i ranks the rank i modulo n."""
    return [
        tuple(ranks[local % len(ranks)] for ranks in nodes) for local in range(max(map(len, nodes)))
    ]


def shards(nodes: list[tuple[int, ...]]) -> Iterator[tuple[Fraction, Fraction, tuple[int, ...]]]:
    """Cuts a message wherever a host cuts it among its ranks: start, end and each host's owner."""
    cuts = {Fraction(local, len(ranks)) for ranks in nodes for local in range(len(ranks) + 1)}
    for start, end in pairwise(sorted(cuts)):
        yield start, end, tuple(ranks[int(start * len(ranks))] for ranks in nodes)


def all_reduce(world: World, node: World, case: Case) -> Iterator[Part]:
    """Reduce-scatter here, all-reduce of each shard between its owners, all-gather here."""
    nodes, rank, size = world.communicator.nodes, world.communicator.rank, case.datatype.size_bytes
    unit = math.lcm(*map(len, nodes))
    cut = case.count // unit * unit  # the elements that every host can cut alike
    if cut:
        own = replace(case, count=cut // node.communicator.size, in_place=True)
        place = case.receive + node.communicator.rank * own.segment_bytes
        yield node, replace(own, collective=COLLECTIVES["reduce_scatter"], receive=place)
        for start, end, owners in shards(nodes):
            if rank in owners:
                at = case.receive + int(start * cut) * size
                count = int((end - start) * cut)
                yield owners, replace(own, count=count, send=at, receive=at)
        yield node, replace(own, collective=COLLECTIVES["all_gather"], send=place)
    if cut < case.count or not cut:
        send, receive = case.send + cut * size, case.receive + cut * size
        rest = replace(case, count=case.count - cut, send=send, receive=receive)
        yield from whole(world, node, rest)


def whole(world: World, node: World, case: Case) -> Iterator[Part]:
    """All-reduce here, then all-reduce between the ranks of each rail."""
    own = [ranks for ranks in rails(world.communicator.nodes) if world.communicator.rank in ranks]
    # A rank on several rails sends the same sum on each.
    sums = case.receive if len(own) == 1 else scratch(world, case.segment_bytes)
    yield node, replace(case, receive=sums, variant="copied")
    for ranks in own:
        yield ranks, replace(case, send=sums, in_place=len(own) == 1)


def groups(world: World, node: World) -> list[tuple[int, ...]]:
    """The ranks of each host, in groups as large as this host: the first group of every host, the
    second of every host, and so on. A host's last groups may be shorter, or empty."""
    n, nodes = node.communicator.size, world.communicator.nodes
    firsts = range(0, max(map(len, nodes)), n)
    return [ranks[first : first + n] for first in firsts for ranks in nodes]


def own_rails(world: World, node: World) -> list[tuple[int, ...]]:
    """This rank's rails, one for each group of the largest host."""
    return rails(world.communicator.nodes)[node.communicator.rank :: node.communicator.size]


def is_contiguous(ranks: tuple[int, ...], n: int) -> bool:
    """Whether these are `n` consecutive ranks, so that their segments lie back to back."""
    return len(ranks) == n and ranks[-1] - ranks[0] == n - 1


def scatter(world: World, node: World, case: Case) -> Iterator[Part]:
    """For each group a reduce-scatter here; then each rail sums its segments of all hosts."""
    n, size, hosts = node.communicator.size, case.segment_bytes, world.communicator.hosts
    destinations = groups(world, node)
    sums = scratch(world, (len(destinations) + 1 + n) * size)
    unused = sums + len(destinations) * size
    packed = unused + size
    for number, ranks in enumerate(destinations):
        if not ranks:
            continue
        send = case.send + ranks[0] * size
        if not is_contiguous(ranks, n):
            send = packed
            for place, rank in enumerate(ranks):
                yield copy(world, case, case.send + rank * size, packed + place * size)
        yield node, replace(case, send=send, receive=sums + number * size)
    for number, ranks in enumerate(own_rails(world, node)):
        receive = unused if number else case.receive
        yield ranks, replace(case, send=sums + number * hosts * size, receive=receive)


def gather(world: World, node: World, case: Case) -> Iterator[Part]:
    """Each rail gathers its segments of all hosts; then for each group an all-gather here."""
    n, size, hosts = node.communicator.size, case.segment_bytes, world.communicator.hosts
    sources = groups(world, node)
    parts = scratch(world, (len(sources) + n) * size)
    packed = parts + len(sources) * size
    for number, ranks in enumerate(own_rails(world, node)):
        yield ranks, replace(case, receive=parts + number * hosts * size)
    for number, ranks in enumerate(sources):
        if not ranks:
            continue
        contiguous = is_contiguous(ranks, n)
        receive = case.receive + ranks[0] * size if contiguous else packed
        yield node, replace(case, send=parts + number * size, receive=receive)
        for place, rank in enumerate(() if contiguous else ranks):
            yield copy(world, case, packed + place * size, case.receive + rank * size)


def copy(world: World, case: Case, send: int, receive: int) -> Part:
    """A copy of a segment: the library's all-gather of this rank alone."""
    gathered = replace(case, collective=COLLECTIVES["all_gather"], send=send, receive=receive)
    return (world.communicator.rank,), gathered


def bind(parts: Parts, world: World, case: Case) -> Bound:
    """Binds the parts on all ranks, or refuses on all. All ranks call it. Raises Refusal."""
    assert world.node
    node = world.node
    # Scratch memory is not mapped.
    variant = case.variant if parts is all_reduce else "copied"
    case = replace(case, variant=variant, in_place=False)
    with world.communicator.all_or_none(DeviceError, MemoryError):
        numbered = list(enumerate(parts(world, node, case)))
    # Our kernels first: a rank without a compiler must not let another wait in the library.
    with world.communicator.all_or_none(Refusal):
        bounds = {
            number: bind_within(node, part) for number, (ranks, part) in numbered if ranks is node
        }
    bounds |= {
        number: bind_flat(between(world, ranks), part)
        for number, (ranks, part) in numbered
        if isinstance(ranks, tuple)
    }
    reasons = [bound.reason for bound in bounds.values() if isinstance(bound, Unsupported)]
    if reason := world.communicator.first_reason(next(iter(reasons), None)):
        return Unsupported(reason)
    return run_sequence(
        world, [bound for _, bound in sorted(bounds.items()) if isinstance(bound, Operation)]
    )


def bind_within(node: World, case: Case) -> Bound:
    """Raises Refusal on all ranks of the host."""
    pull, push = WITHIN[case.collective.name]
    reads = node.device.is_cpu or case.variant == "registered"
    with node.communicator.all_or_none(DeviceError):
        bound = (pull if reads else push).bind(node, case)
    return bound


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


def _form(base: str, about: str, parts: Parts, **facts: Any) -> Algorithm:
    return Algorithm(
        base,
        f"between hosts: {about}",
        partial(bind, parts),
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
