"""All-reduces over several hosts: our kernels within each host, the library between hosts.

| algorithm | within a host | between hosts, by the library |
|---|---|---|
| `hierarchical` | reduce-scatter and all-gather | its shard from each rank: each byte once |
| `flat` | | the library's collective over all ranks |

A rail is one rank of each host, with the same local rank; so every host needs as many ranks."""

from dataclasses import replace

from collectives.algorithms import general
from collectives.binding import run_sequence
from collectives.collective import COLLECTIVES
from collectives.communicator import Refusal
from collectives.operation import Algorithm, Bound, CollectiveCase, Unsupported, World


def bind(world: World, case: CollectiveCase) -> Bound:
    """Binds a reduce-scatter here, the all-reduce of this rank's shard along its rail and an
    all-gather here, on all ranks, or refuses on all. All ranks call it. Raises Refusal."""
    node, rail = world.node, world.rail
    assert node
    assert rail
    shard = replace(case, count=case.count // node.ranks, in_place=True)
    place = case.receive + node.rank * shard.segment_bytes
    scatter = replace(shard, collective=COLLECTIVES["reduce_scatter"], receive=place)
    gather = replace(shard, collective=COLLECTIVES["all_gather"], send=place)
    # Our kernels first: a rank without a compiler must not let another wait in the library.
    with world.communicator.all_or_none(Refusal):
        scattered, gathered = bind_within(node, scatter), bind_within(node, gather)
    summed = bind_flat(rail, replace(shard, send=place, receive=place))
    bound = run_sequence(world, [scattered, summed, gathered])
    own = bound.reason if isinstance(bound, Unsupported) else None
    reason = world.communicator.first_reason(own)
    return Unsupported(reason) if reason else bound


def bind_within(node: World, case: CollectiveCase) -> Bound:
    """Raises Refusal on all ranks of the host."""
    reads = node.device.is_cpu or case.variant == "registered"
    algorithm = general(case.collective.name, not reads, case.variant)
    if isinstance(algorithm, Unsupported):
        return algorithm
    with node.communicator.all_or_none():
        return algorithm.bind(node, case)


def bind_flat(world: World, case: CollectiveCase) -> Bound:
    """The library's plain call."""
    return world.library.bind(world, replace(case, variant=world.plain_variant))


def _refuses(world: World, case: CollectiveCase) -> Unsupported | None:
    assert world.node
    if isinstance(world.node.peers, Unsupported):
        return world.node.peers
    ranks = world.node.ranks
    if not world.rail:
        return Unsupported("the hosts have different numbers of ranks")
    if ranks == 1:
        return Unsupported("each host has one rank", depends_on_size=True)
    if case.redop == "avg":
        return Unsupported("a mean of the hosts' means rounds twice")
    if case.count % ranks:
        reason = f"{case.count} elements have no equal shards for {ranks} ranks"
        return Unsupported(reason, depends_on_size=True)
    return None


FLAT = Algorithm(
    "flat",
    "between hosts: the library over all ranks, as auto may choose it",
    bind_flat,
    spans_hosts=True,
    by_default=lambda world: False,  # it is the library
)
HIERARCHICAL = Algorithm(
    "hierarchical",
    "between hosts: our kernels within each host, the library between them",
    bind,
    refuses=_refuses,
    variants=("copied", "registered"),
    spans_hosts=True,
)
# In the order in which `auto` prefers them.
ALGORITHMS = dict.fromkeys(COLLECTIVES, (FLAT,)) | {"all_reduce": (HIERARCHICAL, FLAT)}
