"""Maps every rank's memory in all others, in the first sharing mode that passes the probe.

If one rank cannot use a mode, or its memory fails the probe, all ranks try the next one. Of several
`mapped` modes the first wins that also shows reads of peers' memory, else the first of them."""

import ctypes
from collections.abc import Sequence
from contextlib import ExitStack

from collectives.communicator import Communicator, Refusal
from collectives.operation import Unsupported
from collectives.peer_buffer import PeerBuffer, WaitPolicy, share, slab_bytes, write_own
from collectives.probe import ProbeFailed, probe, wire_speed
from kernels.devices.device import MOST_RANKS, VMM, Control, Device, Own

# Opening memory fails with error 17 where containers share no network, through which ROCm passes it
# (ROCm/rocm-aic pull request 88), and on kernels without AMD's own driver (ROCm/ROCR-Runtime issue
# 355); getting its handle fails there with the variable, which public images set
# (ROCm/rocm-systems issue 2209).
REMEDY = (
    " (containers: start all ranks in one, or each with docker run --network=host --ipc=host "
    "--pid=host; AMD: unset HSA_ENABLE_IPC_MODE_LEGACY, and update ROCm and the kernel; or install "
    "amdgpu-dkms and export HSA_ENABLE_IPC_MODE_LEGACY=1)"
)
INSTEAD = " (virtual memory management maps it instead)"  # so nothing has to be remedied
SHARING = "ipcGetMemHandle", "ipcOpenMemHandle", "cannot be opened"  # refused, for these causes


def connect(
    communicator: Communicator,
    device: Device,
    waits: WaitPolicy,
    modes: Sequence[str],
    probes: bool = True,
) -> PeerBuffer | Unsupported:
    """The peers' memory, in the first mode in which it can be allocated and mapped and stands the
    probes, if it `probes` (the ladder does so itself); Unsupported if mapped memory failed a probe.
    Raises Refusal if memory is short or no mode works."""
    if communicator.size > MOST_RANKS:
        return Unsupported(f"{communicator.size} ranks, and a slab serves {MOST_RANKS} at most")
    refusals, reasons, probe_failed = list[str](), dict[str, list[str]](), False
    unread: tuple[PeerBuffer, ExitStack] | None = None  # the first without reads of peers' memory
    for number, sharing in enumerate(modes):
        if unread and not may_show_reads(sharing):
            break
        undo = ExitStack()
        try:
            controls = share(communicator, device, sharing, ctypes.sizeof(Control), undo)
            slabs = share(communicator, device, sharing, slab_bytes(device), undo)
            with communicator.all_or_none():
                own = device.private(ctypes.sizeof(Own))
                undo.callback(own.close)
            peers = PeerBuffer(
                communicator, device, slabs, controls, own, waits, sharing, refusals, modes[0]
            )
            device.flushes_hdp = any(peers.hdp_flush)
            with communicator.all_or_none():
                write_own(peers, 0)
            if not probes:
                return peers
            peers.shown = probe(peers)
            if peers.shown.no_reads and unread:
                raise ProbeFailed(peers.shown.no_reads)
            if peers.shown.no_reads and any(map(may_show_reads, modes[number + 1 :])):
                unread = peers, undo
                continue
            peers = completed(peers)
            if unread:  # until here it may still be needed
                first, undo_first = unread
                undo_first.close()
                refusals.append(f"{first.sharing}: {first.shown.no_reads}")
            return peers
        except Refusal as refusal:
            undo.close()
            if refusal.lacks_memory and not unread:
                raise
            if isinstance(refusal, ProbeFailed):
                probe_failed = True
            waits.forget()
            remedy = REMEDY if any(words in str(refusal) for words in SHARING) else ""
            reasons.setdefault(f"{refusal}{remedy}", []).append(sharing)
            refusals[:] = [f"{', '.join(which)}: {reason}" for reason, which in reasons.items()]
    if unread:
        peers, _ = unread
        device.flushes_hdp = any(peers.hdp_flush)
        return completed(peers)
    if probe_failed:
        return Unsupported("; ".join(refusals))
    raise Refusal("; ".join(refusals))


def may_show_reads(sharing: str) -> bool:
    """Whether it is worth trying where another mode's memory shows no reads of peers: other memory,
    mapped by the same wire. Virtual memory management maps what IPC does."""
    return sharing.startswith("mapped") and VMM not in sharing


def completed(peers: PeerBuffer) -> PeerBuffer:
    """The peers' memory that is used, with its speed and what does not work in it. All ranks call
    it. Raises Refusal."""
    if not peers.device.is_cpu:
        peers.wire = wire_speed(peers)
    if VMM in peers.sharing:
        peers.refusals[:] = [refusal.replace(REMEDY, INSTEAD) for refusal in peers.refusals]
    shown = peers.shown
    if shown.no_reads:
        peers.refusals.append(shown.no_reads)
    if shown.no_registered:
        peers.refusals.append(f"registered buffers: {shown.no_registered}")
    return peers
