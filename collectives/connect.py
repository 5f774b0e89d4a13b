"""Maps every rank's memory in all others, in the first sharing mode that passes the probes."""

import ctypes
from collections.abc import Sequence
from contextlib import ExitStack

from collectives.communicator import Communicator, Refusal
from collectives.peer_buffer import SLAB_BYTES, PeerBuffer, WaitPolicy, share, write_own
from collectives.probe import ProbeFailed, probe, probe_flag, probe_visibility
from collectives.refusals import remedy
from kernels.devices.device import Control, Device, DeviceError, Own


def probe_slabs(peers: PeerBuffer) -> None:
    """Checks every byte of a probe through the slabs, and that stores are seen while kernels run.
    All ranks call it. Raises ProbeFailed and Refusal."""
    probe(peers)
    probe_visibility(peers)


def connect(
    communicator: Communicator, device: Device, waits: WaitPolicy, modes: Sequence[str]
) -> PeerBuffer:
    """Allocates, maps and probes in the first mode that works. Raises Refusal if memory is
    short or no mode works, and ProbeFailed if mapped memory failed a probe."""
    refusals, probe_failed = dict[str, str](), False
    for sharing in modes:
        undo = ExitStack()
        try:
            controls = share(communicator, device, sharing, ctypes.sizeof(Control), undo)
            slabs = share(communicator, device, sharing, SLAB_BYTES, undo)
            with communicator.all_or_none(DeviceError):
                own = device.private(ctypes.sizeof(Own))
                undo.callback(own.close)
            peers = PeerBuffer(
                communicator,
                device,
                slabs,
                controls,
                own,
                waits,
                sharing,
                probe_slabs,
                _in_words(refusals),
                modes[0],
            )
            device.flushes_hdp = any(peers.hdp_flush)
            with communicator.all_or_none(DeviceError):
                write_own(peers, 0)
            probe(peers)
            probe_flag(peers)
            probe_visibility(peers)
            return peers
        except Refusal as refusal:
            undo.close()
            if "OutOfMemory" in refusal.types:
                raise
            probe_failed |= isinstance(refusal, ProbeFailed)
            waits.watch.stop = waits.watch.timed_out = 0
            refusals[sharing] = f"{refusal}{remedy(communicator, str(refusal))}"
    raise (ProbeFailed if probe_failed else Refusal)("; ".join(_in_words(refusals)))


def _in_words(refusals: dict[str, str]) -> tuple[str, ...]:
    """The reasons, each behind the sharing modes that it ruled out."""
    modes: dict[str, list[str]] = {}
    for sharing, reason in refusals.items():
        modes.setdefault(reason, []).append(sharing)
    return tuple(f"{', '.join(sharing)}: {reason}" for reason, sharing in modes.items())
