"""The memory that the ranks of a host map: allocate, exchange handles, map.

Flags and data are separate allocations. `connect.py` chooses the sharing mode and probes."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from collectives.communicator import Communicator, Refusal
from collectives.descriptors import exchange
from kernels.devices.device import (
    HALF_BYTES,
    MOST_RANKS,
    PACKETS_BYTES,
    Arguments,
    Control,
    Device,
    DeviceError,
    Memory,
    Own,
    Watch,
)

if TYPE_CHECKING:
    from kernels.devices.multicast import GpuMulticast

ROUNDING_BYTES = 64 << 10  # beside the chunks of a half, for slots in whole packs and lines


def half_of(device: Device) -> int:
    """The bytes of half a slab: four chunks, the most of a pipeline."""
    return max(HALF_BYTES, 4 * device.most_chunk_bytes + ROUNDING_BYTES)


def slab_bytes(device: Device) -> int:
    return 2 * half_of(device) + PACKETS_BYTES


@dataclass(frozen=True)
class WaitPolicy:
    """Waits end after `timeout_s` or when `watch` says stop, and yield if ranks outnumber cores."""

    watch: Watch
    yields: bool = False
    timeout_s: float = 30.0

    def forget(self) -> None:
        """Forgets that a probe waited in vain."""
        self.watch.stop = self.watch.timed_out = 0


class WireSpeed(NamedTuple):
    """How fast GPUs reach each other: a flag there and back between the slowest pair; and of the
    slowest rank, while all do the same to all peers at once, stores, reads, each of both at once
    (None: reads are not routed), and how long a short message's stores take to arrive behind a
    fence. By rank, a copy in its own memory."""

    round_trip_ns: float
    store_gb_s: float
    read_gb_s: float | None
    own_gb_s: tuple[float, ...] = ()
    both_gb_s: float | None = None
    drain_us: float = 0.0


@dataclass(frozen=True)
class ProbeResult:
    """What the probe found beside pushed data, which every mapped memory shows: why packets without
    flags, reads of peers' memory or registered buffers are not used here, each None where they are;
    and whether a flag waits until the caches have written slabs back."""

    no_packets: str | None = None
    no_reads: str | None = None
    no_registered: str | None = None
    writes_back: bool = True


@dataclass
class PeerBuffer:
    """Every rank's slab, control block and `registered` buffers as mapped in this process, and this
    rank's own counters. `refusals` say why better sharing modes failed."""

    communicator: Communicator
    device: Device
    slabs: list[Memory]
    controls: list[Memory]
    own: Memory
    waits: WaitPolicy
    sharing: str
    refusals: list[str] = field(default_factory=list)
    requested: str = ""  # the best sharing mode, which was tried first
    registered: list[list[Memory]] = field(default_factory=list)
    inboxes: dict[str, list[list[Memory]]] = field(default_factory=dict)  # of copy engines' forms
    multicast: "GpuMulticast | str | None" = None  # slabs behind one address, or why there are none
    shown: ProbeResult = ProbeResult()
    wire: WireSpeed | None = None  # of GPUs

    @property
    def half_bytes(self) -> int:
        return half_of(self.device)

    @property
    def kind(self) -> str:
        """The sharing mode in tables: `mapped`, `host_staged` or `same_device`."""
        kind = self.sharing.split()[0]
        return kind if kind in ("host_staged", "same_device") else "mapped"

    @property
    def hdp_flush(self) -> list[int]:
        """The registers that this rank writes before a flag, by rank; 0 where it writes none."""
        return [slab.flush_register for slab in self.slabs]

    @property
    def types(self) -> dict[str, str]:
        """The allocators, the requested sharing mode, and the mode that passed the probe."""
        rank = self.communicator.rank
        return {
            "flags": self.controls[rank].type,
            "data": self.slabs[rank].type,
            "requested": self.requested,
            "behaved": self.sharing,
            "hdp_flush": "before each flag" if any(self.hdp_flush) else "none",
        }

    def arguments(
        self, send: int = 0, receive: int = 0, count: int = 0, chunk_bytes: int = 0
    ) -> Arguments:
        """The kernels' argument for buffers at these addresses; `count` in elements."""
        pointers = ctypes.c_void_p * MOST_RANKS
        return Arguments(
            send=send,
            receive=receive,
            count=count,
            chunk_bytes=chunk_bytes,
            half_bytes=self.half_bytes,
            timeout_ns=int(self.waits.timeout_s * 1e9),
            rank=self.communicator.rank,
            yields=self.waits.yields,
            slab=pointers(*(slab.address for slab in self.slabs)),
            control=pointers(*(control.address for control in self.controls)),
            watch=ctypes.addressof(self.waits.watch),
            own=self.own.address,
        )

    def share(self, size_bytes: int, ordinary: bool = False) -> list[Memory]:
        """New memory of every rank, by rank, as mapped in this process. All ranks call it. Raises
        Refusal on all."""
        own = self.communicator, self.device, self.sharing
        with ExitStack() as undo:
            memories = share(*own, size_bytes, undo, ordinary)
            undo.pop_all()
        return memories

    def register(self, size_bytes: int) -> Memory:
        """A new buffer on every rank, mapped by all; this rank's. The ranks of all hosts call it.
        Raises Refusal on all."""
        with self.communicator.whole.all_or_none(Refusal):
            self.registered.append(self.share(max(1, size_bytes), ordinary=True))
        return self.registered[-1][self.communicator.rank]

    def locate(self, address: int, targets: Any) -> bool:
        """Writes where every rank's buffer at its own `address` is mapped in this process to
        `targets`; False if one is not registered. All ranks call it."""
        rank, place = self.communicator.rank, None
        for number, memories in enumerate(self.registered):
            offset = address - memories[rank].address
            if 0 <= offset < memories[rank].size_bytes:
                place = number, offset
                break
        places = self.communicator.all_gather(place)
        if None in places:
            return False
        targets[: len(places)] = [
            self.registered[number][peer].address + offset
            for peer, (number, offset) in enumerate(places)
        ]
        return True


def share(
    communicator: Communicator,
    device: Device,
    sharing: str,
    size_bytes: int,
    undo: ExitStack,
    ordinary: bool = False,
) -> list[Memory]:
    """New memory of every rank, mapped in this process, by rank. All ranks call it, and `undo` if
    it fails. Raises Refusal if any rank cannot map another's."""
    with communicator.all_or_none(OSError, DeviceError, MemoryError):
        own = device.allocate(size_bytes, sharing, ordinary)
        undo.callback(own.close)
    # The driver leaves undefined what happens to memory that is freed while a peer maps it.
    undo.callback(communicator.barrier)
    handles = communicator.all_gather(own.handle)
    memories: list[Memory] = []
    with ExitStack() as passed:
        descriptors = _descriptors(communicator, own, passed)
        with communicator.all_or_none(OSError, DeviceError):
            for rank, handle in enumerate(handles):
                if rank == communicator.rank:
                    memories.append(own)
                    continue
                memories.append(device.open(handle, size_bytes, sharing, descriptors[rank]))
                undo.callback(memories[-1].close)
    return memories


def _descriptors(communicator: Communicator, own: Memory, undo: ExitStack) -> Sequence[int | None]:
    """The descriptors of all ranks' memory, by rank, where their handles do not suffice. All ranks
    call it. Raises Refusal."""
    with communicator.all_or_none():
        descriptor = own.export()
        if descriptor is not None:
            undo.callback(os.close, descriptor)
    if descriptor is None:
        return [None] * communicator.size
    return exchange(communicator, descriptor, undo)


def write_own(peers: PeerBuffer, epoch: int) -> None:
    own = Own()
    own.epoch.value = epoch
    for line, register in zip(own.hdp_flush, peers.hdp_flush, strict=False):
        line.value = register
    peers.own.write(np.frombuffer(bytes(own), np.uint8))


def skip_launches(peers: PeerBuffer, launches: int) -> None:
    """Sets this rank's epoch, which comes first in Own, forward. All ranks call it, after a
    barrier."""
    epoch = peers.own.read(size_bytes=8).view(np.int64)
    peers.own.write(epoch + launches)


def set_epoch(peers: PeerBuffer, epoch: int) -> None:
    """Makes `epoch` the epoch of the last launch, and of the flags, since after the wrap the epochs
    of the probe return. All ranks call it, between two barriers."""
    control = Control()
    for flags in control.flags:
        for flag in flags:
            flag.value = epoch << 32
    write_own(peers, epoch)
    peers.controls[peers.communicator.rank].write(np.frombuffer(bytes(control), np.uint8))
