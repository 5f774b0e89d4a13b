"""The wire alone: which buffers move between which ranks, and the kernels that move them.

See kernels/link.cu. A case's figures belong to one pair, or to several pairs at once; nothing is
summed. Only `bench.link` and whole pipeline steps use it.
"""

import ctypes
from ctypes import c_long, c_void_p
from dataclasses import dataclass
from itertools import combinations, permutations

from collectives.collective import Array, Collective, Shape
from collectives.communicator import Disagreement
from collectives.operation import Operation, Unsupported, World
from collectives.peer_buffer import probe_kernels, register
from kernels.devices.device import PEER_STRUCTURES, Arguments, DeviceError, Memory, Step

# Of the host copy in the background: whole pieces of link.cu, more than a core's caches hold.
BACKGROUND_BYTES = 16 << 20
ENTRIES = {"push": "link_push", "pull": "link_pull", "both_directions": "link_push",
           "disjoint_pairs": "link_push", "host_copy_beside": "link_push_beside_host_copy",
           "ping_pong": "link_ping_pong"}
Pairs = tuple[tuple[int, int], ...]  # (source, destination)


class Transfer(ctypes.Structure):
    """`Transfer` of link.cu: a rank's part in moving buffers between ranks."""

    _fields_ = [("ranks", Arguments), ("to", c_long), ("from_", c_long), ("beside", c_void_p),
                ("kept", c_void_p), ("beside_bytes", c_long)]


STRUCTURES = (*PEER_STRUCTURES, Transfer)


def _from_sources(sent: Array, shape: Shape, _: object) -> Array:
    sources = {destination: source for source, destination in shape["pairs"]}
    return sent[[sources.get(rank, rank) for rank in range(len(sent))]]


def _receives(shape: Shape, rank: int, ranks: int) -> bool:
    return any(destination == rank for _, destination in shape["pairs"])


LINK = Collective("link", _from_sources, cut=False, no_place="nothing moves in place",
                  receives=_receives)


@dataclass(frozen=True)
class Part:
    """One measurement of the wire. `pairs` move in one launch; `moves_data` is False where only a
    flag moves, or nothing."""

    algorithm: str
    pairs: Pairs
    shape: Shape
    moves_data: bool = True


def matchings(ranks: int) -> list[Pairs]:
    """Sets of at least two disjoint pairs in which every pair occurs once: the circle method of
    round-robin tournaments. With an odd number of ranks one rank rests in each set."""
    places = ranks + ranks % 2
    sets = []
    for turn in range(places - 1):
        circle = [places - 1, *((turn + k) % (places - 1) for k in range(places - 1))]
        pairs = [sorted((circle[k], circle[places - 1 - k])) for k in range(places // 2)]
        sets.append(tuple((low, high) for low, high in sorted(pairs) if high < ranks))
    return [pairs for pairs in sets if len(pairs) > 1]


def _part(algorithm: str, pair: tuple[int, int], pairs: Pairs, moves_data: bool = True) -> Part:
    return Part(algorithm, pairs, {"src": pair[0], "dst": pair[1]}, moves_data)


def parts(ranks: int) -> dict[str, list[Part]]:
    """All measurements between this many ranks, by algorithm: bandwidths, contention, latencies."""
    directed, undirected = list(permutations(range(ranks), 2)), list(combinations(range(ranks), 2))
    return {
        "push": [_part("push", pair, (pair,)) for pair in directed],
        "pull": [_part("pull", pair, (pair,)) for pair in directed],
        "both_directions": [_part("both_directions", pair, (pair, pair[::-1]))
                            for pair in undirected],
        "local_copy": [_part("local_copy", (rank, rank), ((rank, rank),))
                       for rank in range(ranks)],
        "disjoint_pairs": [Part("disjoint_pairs", pairs, {"pairs": [list(p) for p in pairs]})
                           for pairs in matchings(ranks)],
        "host_copy_beside": [_part("host_copy_beside", pair, (pair,)) for pair in directed],
        "ping_pong": [_part("ping_pong", pair, (pair, pair[::-1]), False) for pair in undirected],
        "launch": [_part("launch", (rank, rank), (), False) for rank in range(ranks)]}


@dataclass(frozen=True)
class Wire:
    """Registered buffers of this rank, the addresses of every rank's as mapped here, and the two
    buffers of a host copy in the background: in host memory, and on the device."""

    world: World
    kind: str  # of the peers' memory
    send: Memory
    receive: Memory
    sends: list[int]
    receives: list[int]
    on_host: Memory
    on_device: Memory


def open_wire(world: World, size_bytes: int) -> Wire:
    """Buffers of this size on all ranks, which all call it. Raises Disagreement if no memory is
    mapped."""
    device, communicator, peers = world.device, world.communicator, world.peers
    if isinstance(peers, Unsupported):
        raise Disagreement(f"there is no wire to measure: {peers.reason}")
    with communicator.together(DeviceError, MemoryError):
        on_host = (device.private(BACKGROUND_BYTES) if device.near_peers
                   else device.allocate(BACKGROUND_BYTES, "host_staged"))
        on_device = device.private(BACKGROUND_BYTES)
    send, receive = (register(communicator, device, peers, size_bytes) for _ in range(2))
    sends, receives = ([memory.address for memory in memories]
                       for memories in peers.registered[-2:])
    return Wire(world, peers.kind, send, receive, sends, receives, on_host, on_device)


def bind(wire: Wire, part: Part, count: int) -> Operation:
    """This rank's launch of a part that every rank launches; `count` float32 elements, or the round
    trips of a ping-pong. Raises DeviceError."""
    world, device, rank = wire.world, wire.world.device, wire.world.communicator.rank
    assert not isinstance(world.peers, Unsupported)
    arguments = world.peers.arguments(wire.send.address, wire.receive.address, count,
                                      device.most_chunk_bytes)
    arguments.sends[: len(wire.sends)] = wire.sends
    arguments.receives[: len(wire.receives)] = wire.receives
    ranks = world.communicator.size
    blocks = device.blocks_for(4 * count) if part.moves_data else 1
    if part.algorithm == "local_copy":
        kernels = probe_kernels(device, ranks)
        step = Step(kernels.kernel("copy_local"), arguments, blocks)
    else:
        destination = dict(part.pairs).get(rank, -1)
        sources = [source for source, target in part.pairs if target == rank]
        transfer = Transfer(arguments, destination, sources[0] if sources else -1,
                            wire.on_host.address, wire.on_device.address, BACKGROUND_BYTES)
        kernels = device.compile("link", {"WORLD": str(ranks)}, STRUCTURES)
        step = Step(kernels.kernel(ENTRIES[part.algorithm]), transfer, blocks)
    return Operation(step, device.caller(step), keep=wire)
