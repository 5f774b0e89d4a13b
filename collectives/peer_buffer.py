"""One slab a rank, mapped by all: allocate, exchange handles, map, and believe only what was probed.

Flags and data are separate allocations. A peer's memory counts as mapped after every byte of a probe has been seen
through the kernels' own loads and stores, in each direction, sixteen times over the same addresses with new contents
each time: a stale cache shows only at the second use.
"""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from collectives.communicator import Communicator, Disagreement
from kernels.device import MOST_RANKS, Arguments, Control, Device, DeviceError, Memory, Step, Watch

HALF_BYTES = 4 << 20
PROBE_BYTES = 4096
PROBE_ROUNDS = 16


@dataclass
class PeerBuffer:
    """Every rank's slab and control block as mapped here, index = rank."""

    slabs: list[Memory]
    controls: list[Memory]
    half_bytes: int
    rank: int
    yields: bool
    timeout_s: float
    watch: Watch

    def arguments(self, send: int, receive: int, count: int, chunk_bytes: int) -> Arguments:
        """The kernels' argument for buffers at these addresses; `count` in elements."""
        at = ctypes.c_void_p * MOST_RANKS
        return Arguments(
            send,
            receive,
            count,
            chunk_bytes,
            self.half_bytes,
            int(self.timeout_s * 1e9),
            self.rank,
            self.yields,
            at(*(m.address for m in self.slabs)),
            at(*(m.address for m in self.controls)),
            ctypes.addressof(self.watch),
        )

    def set_epoch(self, epoch: int) -> None:
        """Makes `epoch` that of the last launch. Every rank must call it, between two barriers."""
        own = Control.from_address(self.controls[self.rank].address)
        own.epoch.value = epoch
        for flags in own.flags:
            for flag in flags:
                flag.value = epoch << 32


def _exchange(communicator: Communicator, device: Device, size_bytes: int, named: bool) -> list[Memory]:
    """Every rank's new memory of this size, mapped here. Raises Disagreement if any rank cannot map any other's."""
    with communicator.together(OSError, DeviceError):
        own = device.allocate(size_bytes, named)
    handles = communicator.all_gather(own.handle)
    try:
        with communicator.together(OSError, DeviceError):
            return [own if r == communicator.rank else device.open(handle) for r, handle in enumerate(handles)]
    finally:
        device.forget_name(own)


def connect(communicator: Communicator, device: Device, watch: Watch, yields: bool, timeout_s: float) -> PeerBuffer:
    """Allocates, maps and probes. Raises Disagreement, on all ranks, naming what failed first."""
    try:
        controls = _exchange(communicator, device, ctypes.sizeof(Control), named=False)
        named = False
    except Disagreement:
        controls = _exchange(communicator, device, ctypes.sizeof(Control), named=True)
        named = True
        device.memory_types = {"flags": "posix shared memory", "data": "posix shared memory"}
    slabs = _exchange(communicator, device, 2 * HALF_BYTES, named)
    peers = PeerBuffer(slabs, controls, HALF_BYTES, communicator.rank, yields, timeout_s, watch)
    probe(communicator, device, peers)
    return peers


def probe(communicator: Communicator, device: Device, peers: PeerBuffer) -> None:
    """Pushes and pulls patterns between all pairs and bounces a flag. Raises Disagreement naming the pair and the first
    wrong offset."""
    size, rank = communicator.size, communicator.rank
    kernels = device.compile("link_probe", {"WORLD": str(size), "ELEMENT": "Int32"})
    source, sink = device.private(PROBE_BYTES), device.private(PROBE_BYTES)
    count = PROBE_BYTES // 4

    def move(to: int, origin: int) -> None:
        device.caller(Step(kernels.kernel("copy_local"), peers.arguments(origin, to, count, PROBE_BYTES)))()

    def pattern(turn: int, writer: int, reader: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.random.default_rng([turn, writer, reader]).integers(0, 256, PROBE_BYTES, np.uint8)

    def place(owner: int, writer: int) -> int:
        return peers.slabs[owner].address + writer * PROBE_BYTES

    for turn in range(PROBE_ROUNDS):
        # Pushed: rank w writes into slot w of each peer's slab. Pulled: each writes into its own last slot, which all
        # read.
        for reader in range(size):
            source[:] = pattern(turn, rank, reader)
            move(place(reader, rank), source.ctypes.data)
        source[:] = pattern(turn, rank, size)
        move(place(rank, size), source.ctypes.data)
        communicator.barrier()
        with communicator.together(DeviceError):
            for peer in range(size):
                for how, address, want in (
                    ("pushed", place(rank, peer), pattern(turn, peer, rank)),
                    ("pulled", place(peer, size), pattern(turn, peer, size)),
                ):
                    move(sink.ctypes.data, address)
                    wrong = np.flatnonzero(sink != want)
                    if wrong.size:
                        raise DeviceError(
                            f"probing the memory {how} between ranks {rank} and {peer} read wrong bytes from offset "
                            f"{wrong[0]} on, in turn {turn}"
                        )
    result = device.private(8)
    with communicator.together(DeviceError):
        bounce = peers.arguments(0, result.ctypes.data, 16, PROBE_BYTES)
        device.caller(Step(kernels.kernel("flag_ping_pong"), bounce))()
        if peers.watch.timed_out:
            raise DeviceError(f"a flag from rank {peers.watch.peer} never arrived in the memory of rank {rank}")
