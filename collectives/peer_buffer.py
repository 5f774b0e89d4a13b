"""One slab a rank, mapped by all: allocate, exchange handles, map, and believe only what was probed.

Flags and data are separate allocations. A peer's memory counts as mapped after every byte of a probe has been seen
through the kernels' own loads and stores, in each direction, sixteen times over the same addresses with new contents
each time: a stale cache shows only at the second use. A way that fails on one rank is given up by all, and the next is
tried.
"""

import ctypes
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from collectives.communicator import Communicator, Disagreement
from kernels.devices.device import MOST_RANKS, Arguments, Bytes, Control, Device, DeviceError, Memory, Own, Step, Watch

HALF_BYTES = 4 << 20
PACKET_BYTES = 66 << 10  # sync.h's; behind the two halves each writer has room for packets in either
SLAB_BYTES = 2 * HALF_BYTES + 2 * MOST_RANKS * PACKET_BYTES
PROBE_BYTES = 4096
PROBE_ROUNDS = 16
PROBE_S = 5.0  # for a flag: less than anybody watching over the run would wait


class ProbeFailed(Disagreement):
    """Peers' memory can be mapped, and what is read there is not what was written."""


@dataclass
class PeerBuffer:
    """Every rank's slab and control block as mapped here, index = rank, and what this rank counts for itself.

    `kind` is the tables' word for the way in which they are mapped (`mapped`, `host_staged`, `same_device`); `refusals`
    say why better ways were not had.
    """

    slabs: list[Memory]
    controls: list[Memory]
    own: Memory
    rank: int
    yields: bool
    timeout_s: float
    watch: Watch
    kind: str
    way: str
    refusals: tuple[str, ...] = ()
    registered: list[list[Memory]] = field(default_factory=list)  # buffers that all ranks have mapped, index = rank

    def arguments(self, send: int, receive: int, count: int, chunk_bytes: int) -> Arguments:
        """The kernels' argument for buffers at these addresses; `count` in elements."""
        at = ctypes.c_void_p * MOST_RANKS
        return Arguments(send, receive, count, chunk_bytes, HALF_BYTES, int(self.timeout_s * 1e9), self.rank,
                         self.yields, at(*(m.address for m in self.slabs)), at(*(m.address for m in self.controls)),
                         ctypes.addressof(self.watch), self.own.address)

    def everyones(self, communicator: Communicator, address: int) -> list[int] | None:
        """Where every rank's buffer at its `address` is mapped here; None where one is not registered. All ranks call
        it."""
        place = next(((number, address - of_ranks[self.rank].address) for number, of_ranks in enumerate(self.registered)
                      if 0 <= address - of_ranks[self.rank].address < of_ranks[self.rank].size_bytes), None)
        places = communicator.all_gather(place)
        if None in places:
            return None
        return [self.registered[number][rank].address + offset for rank, (number, offset) in enumerate(places)]

    @property
    def types(self) -> dict[str, str]:
        """What the memory is made of, for the head of a run."""
        return {"flags": self.controls[self.rank].type, "data": self.slabs[self.rank].type}


def _exchange(communicator: Communicator, device: Device, size_bytes: int, way: str, own: list[Memory],
              opened: list[Memory], ordinary: bool = False) -> list[Memory]:
    """Every rank's new memory of this size, mapped here; adds what is this rank's to `own`, the others' to `opened`.

    Raises Disagreement if any rank cannot map any other's.
    """
    # Of this exchange alone: what another run, rank or allocation shares has another label.
    token = communicator.broadcast(secrets.token_hex(16))
    with communicator.together(OSError, DeviceError):
        own.append(device.allocate(size_bytes, way, ordinary, f"{token} of rank {communicator.rank}"))
    handles = communicator.all_gather(own[-1].handle)
    try:
        with communicator.together(OSError, DeviceError):
            for rank, handle in enumerate(handles):
                if rank != communicator.rank:
                    opened.append(device.open(handle, size_bytes, way, f"{token} of rank {rank}"))
    finally:
        device.forget_name(own[-1])
    peers = opened[len(opened) - communicator.size + 1 :]
    return [*peers[: communicator.rank], own[-1], *peers[communicator.rank :]]


def connect(communicator: Communicator, device: Device, watch: Watch, yields: bool, timeout_s: float,
            ways: Sequence[str]) -> PeerBuffer:
    """Allocates, maps and probes in the first of these ways that holds.

    Raises, on all ranks, Disagreement where there is no room, or no way, and ProbeFailed where memory was mapped and
    did not hold; the sentence names for each way what failed first.
    """
    refusals, wrong = list[str](), False
    for way in ways:
        own, opened = list[Memory](), list[Memory]()
        kind = way if way in ("host_staged", "same_device") else "mapped"
        try:
            controls = _exchange(communicator, device, ctypes.sizeof(Control), way, own, opened)
            slabs = _exchange(communicator, device, SLAB_BYTES, way, own, opened)
            with communicator.together(DeviceError):
                own.append(device.private(ctypes.sizeof(Own)))
            arguments = (communicator.rank, yields, timeout_s, watch, kind, way, tuple(refusals))
            peers = PeerBuffer(slabs, controls, own[-1], *arguments)
            probe(communicator, device, peers)
            return peers
        except Disagreement as refusal:
            for memory in opened:
                memory.close()
            # Only then: the driver leaves undefined what becomes of memory that is freed under a peer.
            communicator.barrier()
            for memory in own:
                memory.close()
            if "OutOfMemory" in refusal.types:
                raise
            wrong |= isinstance(refusal, ProbeFailed)
            watch.stop = watch.timed_out = 0
            refusals.append(f"{way}: {refusal}")
    raise (ProbeFailed if wrong else Disagreement)("; ".join(refusals))


def register(communicator: Communicator, device: Device, peers: PeerBuffer, size_bytes: int) -> Memory:
    """A new buffer of this size on every rank, of memory as a user has it, mapped by all; this rank's. Raises
    Disagreement."""
    peers.registered.append(_exchange(communicator, device, max(1, size_bytes), peers.way, [], [], ordinary=True))
    return peers.registered[-1][peers.rank]


def set_epoch(peers: PeerBuffer, epoch: int) -> None:
    """Makes `epoch` that of the last launch. Every rank must call it, between two barriers."""
    own, control = Own(), Control()
    own.epoch.value = epoch
    for flag in (flag for flags in control.flags for flag in flags):
        flag.value = epoch << 32
    peers.own.write(np.frombuffer(bytes(own), np.uint8))
    peers.controls[peers.rank].write(np.frombuffer(bytes(control), np.uint8))


def probe(communicator: Communicator, device: Device, peers: PeerBuffer) -> None:
    """Pushes and pulls patterns between all pairs and bounces a flag. Raises ProbeFailed naming the pair and the first
    wrong offset, Disagreement where a kernel cannot be had or run."""
    size, rank = communicator.size, communicator.rank
    with communicator.together(DeviceError):
        source, sink, result = device.private(PROBE_BYTES), device.private(PROBE_BYTES), device.private(8)
        kernels = device.compile("link_probe", {"WORLD": str(size), "ELEMENT": "Int32"})

    def move(to: int, origin: int) -> None:
        device.caller(Step(kernels.kernel("copy_local"), peers.arguments(origin, to, PROBE_BYTES // 4, PROBE_BYTES)))()

    def pattern(turn: int, writer: int, reader: int) -> Bytes:
        return np.random.default_rng([turn, writer, reader]).integers(0, 256, PROBE_BYTES, np.uint8)

    def place(owner: int, slot: int) -> int:
        return peers.slabs[owner].address + slot * PROBE_BYTES

    def wrong_bytes(turn: int) -> str | None:
        for peer in range(size):
            for how, owner, slot, want in (("pushed", rank, peer, pattern(turn, peer, rank)),
                                           ("pulled", peer, size, pattern(turn, peer, size))):
                move(sink.address, place(owner, slot))
                wrong = np.flatnonzero(sink.read() != want)
                if wrong.size:
                    return (f"probing the memory {how} from rank {peer} to rank {rank} read wrong bytes from offset "
                            f"{slot * PROBE_BYTES + wrong[0]} of the slab on, in turn {turn}")
        return None

    for turn in range(PROBE_ROUNDS):
        # Pushed: rank w writes into slot w of each peer's slab. Pulled: into its own last slot, which all read.
        with communicator.together(DeviceError):
            for reader in range(size):
                source.write(pattern(turn, rank, reader))
                move(place(reader, rank), source.address)
            source.write(pattern(turn, rank, size))
            move(place(rank, size), source.address)
        with communicator.together(DeviceError):
            found = wrong_bytes(turn)
        if said := communicator.first_word(found):
            raise ProbeFailed(said)
    with communicator.together(DeviceError):
        bounce = replace(peers, timeout_s=min(peers.timeout_s, PROBE_S)).arguments(0, result.address, 16, PROBE_BYTES)
        device.caller(Step(kernels.kernel("flag_ping_pong"), bounce))()
    never = f"a flag from rank {peers.watch.peer} never arrived in the memory of rank {rank}"
    if said := communicator.first_word(never if peers.watch.timed_out else None):
        raise ProbeFailed(said)
    for memory in (source, sink, result):
        memory.close()
