"""The wire alone: which buffers move between which ranks, and the kernels that move them; see kernels/link.cu.

A case's figures are one pair's, or those of several pairs at once; nothing is summed.
"""

from dataclasses import dataclass
from itertools import combinations, permutations

from collectives.collective import Collective, Shape
from collectives.communicator import Disagreement
from collectives.operation import DeviceError, Memory, Operation, Step, Transfer, Unsupported, World
from collectives.peer_buffer import register

BESIDE_BYTES = 16 << 20  # of the host copy beside: more than a core's own caches hold, in whole pieces of link.cu's
ENTRIES = {"push": "link_push", "pull": "link_pull", "both_directions": "link_push", "disjoint_pairs": "link_push",
           "host_copy_beside": "link_push_beside_host_copy", "ping_pong": "link_ping_pong"}
Pairs = tuple[tuple[int, int], ...]  # from whom, to whom


@dataclass(frozen=True)
class Part:
    """One thing that is measured of the wire. `pairs` says what moves in one launch; `moves_data` is off where it is
    only a flag, or nothing."""

    algorithm: str
    pairs: Pairs
    shape: Shape
    moves_data: bool = True


LINK = Collective("link", "Link", lambda sent, shape, _: sent[[
    next((src for src, dst in shape["pairs"] if dst == rank), rank) for rank in range(len(sent))]], cut=False,
    no_place="nothing moves in place", receives=lambda shape, rank, ranks: rank in [dst for _, dst in shape["pairs"]])


def matchings(ranks: int) -> list[Pairs]:
    """All ranks in disjoint pairs, at least two, so that each pair stands in one of these (the circle method of
    round-robin tournaments); with an odd number one rank is left out each time."""
    places = ranks + ranks % 2
    found = []
    for turn in range(places - 1):
        circle = [places - 1, *((turn + k) % (places - 1) for k in range(places - 1))]
        pairs = [sorted((circle[k], circle[places - 1 - k])) for k in range(places // 2)]
        found.append(tuple((low, high) for low, high in sorted(pairs) if high < ranks))
    return [pairs for pairs in found if len(pairs) > 1]


def parts(ranks: int) -> dict[str, list[Part]]:
    """What there is to measure between so many ranks, by algorithm: data for which there is a bandwidth, then the
    contention, then the latencies."""
    def one(algorithm: str, src: int, dst: int, pairs: Pairs, moves_data: bool = True) -> Part:
        return Part(algorithm, pairs, {"src": src, "dst": dst}, moves_data)

    directed, each = list(permutations(range(ranks), 2)), list(combinations(range(ranks), 2))
    return {
        "push": [one("push", *pair, (pair,)) for pair in directed],
        "pull": [one("pull", *pair, (pair,)) for pair in directed],
        "both_directions": [one("both_directions", *pair, (pair, pair[::-1])) for pair in each],
        "local_copy": [one("local_copy", rank, rank, ((rank, rank),)) for rank in range(ranks)],
        "disjoint_pairs": [Part("disjoint_pairs", pairs, {"pairs": [list(pair) for pair in pairs]})
                           for pairs in matchings(ranks)],
        "host_copy_beside": [one("host_copy_beside", *pair, (pair,)) for pair in directed],
        "ping_pong": [one("ping_pong", *pair, (pair, pair[::-1]), False) for pair in each],
        "launch": [one("launch", rank, rank, (), False) for rank in range(ranks)]}


@dataclass(frozen=True)
class Wire:
    """What a part is bound to: this rank's registered buffers, where every rank's are mapped here, and what a host copy
    beside reads, host memory, and fills, the device's."""

    world: World
    kind: str  # of the peers' memory, as in every table
    send: Memory
    receive: Memory
    sends: list[int]
    receives: list[int]
    on_host: Memory
    on_device: Memory


def open_wire(world: World, size_bytes: int) -> Wire:
    """Buffers of this size on all ranks, which all call it. Raises Disagreement where there is no way between them."""
    device, communicator, peers = world.device, world.communicator, world.peers
    if isinstance(peers, Unsupported):
        raise Disagreement(f"there is no wire to measure: {peers.reason}")
    with communicator.together(DeviceError, MemoryError):
        on_host = device.private(BESIDE_BYTES) if device.name == "cpu" else device.allocate(BESIDE_BYTES, "host_staged")
        on_device = device.private(BESIDE_BYTES)
    send, receive = (register(communicator, device, peers, size_bytes) for _ in range(2))
    sends, receives = ([memory.address for memory in of_ranks] for of_ranks in peers.registered[-2:])
    return Wire(world, peers.kind, send, receive, sends, receives, on_host, on_device)


def bind(wire: Wire, part: Part, count: int) -> Operation:
    """This rank's launch in a part that has one on every rank; `count` is float32 elements, or of a ping-pong its round
    trips. Raises DeviceError."""
    world, device, rank = wire.world, wire.world.device, wire.world.communicator.rank
    assert not isinstance(world.peers, Unsupported)
    mine = world.peers.arguments(wire.send.address, wire.receive.address, count, device.most_chunk_bytes)
    mine.sends[: len(wire.sends)], mine.receives[: len(wire.receives)] = wire.sends, wire.receives
    macros, blocks = {"WORLD": str(world.communicator.size)}, device.blocks_for(4 * count) if part.moves_data else 1
    if part.algorithm == "local_copy":
        step = Step(device.compile("link_probe", macros).kernel("copy_local"), mine, blocks)
    else:
        to, origin = dict(part.pairs).get(rank, -1), next((src for src, dst in part.pairs if dst == rank), -1)
        transfer = Transfer(mine, to, origin, wire.on_host.address, wire.on_device.address, BESIDE_BYTES)
        step = Step(device.compile("link", macros).kernel(ENTRIES[part.algorithm]), transfer, blocks)
    return Operation(step, device.caller(step), keep=wire)
