"""Maps every rank's memory in all others, in the first sharing mode that passes the probe.

If one rank cannot use a mode, or its memory fails the probe, all ranks try the next one."""

import ctypes
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from collectives.communicator import Communicator, Refusal
from collectives.peer_buffer import (
    SLAB_BYTES,
    PeerBuffer,
    WaitPolicy,
    half_for,
    share,
    slab_bytes,
    write_own,
)
from collectives.probe import ProbeFailed, probe, probe_ordinary, wire_speed
from collectives.refusals import remedy
from kernels.devices.device import Control, Device, Own


def make_room(peers: PeerBuffer, message_bytes: int) -> None:
    """Replaces the slabs by larger ones if messages of this size need them. All ranks call it. If
    larger slabs cannot be shared or fail a probe, the old ones stay, and `refusals` has the reason.
    A launch may use other slabs than the launch before: each waits for all."""
    half_bytes = half_for(message_bytes, peers.device.most_chunk_bytes)
    if half_bytes <= peers.half_bytes:
        return
    undo, own = ExitStack(), (peers.communicator, peers.device, peers.sharing)
    try:
        slabs = share(*own, slab_bytes(half_bytes), undo)
        larger = replace(peers, slabs=slabs, half_bytes=half_bytes)
        larger.shown = replace(probe(larger), no_registered=peers.shown.no_registered)
    except Refusal as refusal:
        undo.close()
        peers.waits.forget()
        size = f"slabs with halves of {half_bytes >> 20} MiB"
        peers.refusals.append(f"{peers.sharing} {size}: {refusal}")
        return
    peers.outgrown.append(peers.slabs)
    peers.slabs, peers.half_bytes, peers.shown = slabs, half_bytes, larger.shown


def map_peers(
    communicator: Communicator, device: Device, waits: WaitPolicy, sharing: str, undo: ExitStack
) -> PeerBuffer:
    """Allocates and maps in one mode, without a probe. All ranks call it, and `undo` if it fails.
    Raises Refusal."""
    controls = share(communicator, device, sharing, ctypes.sizeof(Control), undo)
    slabs = share(communicator, device, sharing, SLAB_BYTES, undo)
    with communicator.all_or_none():
        own = device.private(ctypes.sizeof(Own))
        undo.callback(own.close)
    peers = PeerBuffer(communicator, device, slabs, controls, own, waits, sharing)
    device.flushes_hdp = any(peers.hdp_flush)
    with communicator.all_or_none():
        write_own(peers, 0)
    return peers


def connect(
    communicator: Communicator, device: Device, waits: WaitPolicy, modes: Sequence[str]
) -> PeerBuffer:
    """Allocates, maps and probes in the first mode that works. Raises Refusal if memory is
    short or no mode works, and ProbeFailed if mapped memory failed a probe."""
    refusals, probe_failed = list[str](), False
    for number, sharing in enumerate(modes):
        undo = ExitStack()
        try:
            peers = map_peers(communicator, device, waits, sharing, undo)
            peers.refusals, peers.requested = refusals, modes[0]
            peers.shown = replace(probe(peers), no_registered=probe_ordinary(peers))
            has_another = any(mode.startswith("mapped") for mode in modes[number + 1 :])
            if has_another and peers.shown.no_reads:  # other memory may show reads too
                raise ProbeFailed(peers.shown.no_reads)
            if not device.is_cpu:
                peers.wire = wire_speed(peers)
            for use, reason in (
                ("reads of peers' memory", peers.shown.no_reads),
                ("registered buffers", peers.shown.no_registered),
            ):
                if reason:
                    refusals.append(f"{use}: {reason}")
            return peers
        except Refusal as refusal:
            undo.close()
            if "OutOfMemory" in refusal.types:
                raise
            probe_failed |= isinstance(refusal, ProbeFailed)
            waits.forget()
            refusals.append(f"{sharing}: {refusal}{remedy(communicator, str(refusal))}")
    raise (ProbeFailed if probe_failed else Refusal)("; ".join(refusals))
