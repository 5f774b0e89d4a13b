"""The probe of mapped memory: do stores become visible to other ranks while all kernels run, by
every kind of access, in both directions? And do packets arrive that have no flag?

An allocator may ignore the requested type of memory. A stale cache shows only at the second use, so
the rounds write new contents to the same addresses."""

from typing import Any

import numpy as np

from collectives.communicator import Communicator, Refusal
from collectives.peer_buffer import PeerBuffer
from kernels.devices.device import MOST_RANKS, PEER_STRUCTURES, Device, DeviceError, Module, Step

PROBE_BYTES = 4096  # written by each access at a time
PROBE_NS = 5_000_000_000  # for a flag: less than any watchdog waits
# As memory_probe.cu numbers them. A pack has 16 B on a GPU and a vector's width on a CPU.
MEMORY_ACCESSES = "2 B", "4 B", "a pack", "a streamed pack", "a polled packet"
PROBE_ROUNDS = {True: 16, False: 64}  # by is_cpu: a loaded CPU may run one rank at a time
PROBE_BLOCKS = 8  # on as many multiprocessors, with a cache each


class ProbeFailed(Refusal):
    """Peers' memory can be mapped, but a read returns other bytes than were written."""


def probe_kernels(device: Device, ranks: int, **macros: str) -> Module:
    return device.compile("link_probe", {"WT_WORLD": str(ranks), **macros}, PEER_STRUCTURES)


def probe(peers: PeerBuffer) -> None:
    """Lets all ranks store and read at once in one launch, by every access of the kernels. Raises
    ProbeFailed if data that were stored before a flag are not there after it. Sets `no_packets` if
    packets do not arrive whole: RCCL's hung in host memory on gfx12 (rocm-systems pull 7183)."""
    communicator, device = peers.communicator, peers.device
    macros = {"WT_WORLD": str(communicator.size), "WT_STREAM_SLAB": "1"}
    blocks = min(PROBE_BLOCKS, device.blocks_for(peers.slabs[0].size_bytes))
    counts = np.zeros((len(MEMORY_ACCESSES), 2, MOST_RANKS), np.uint32)
    with communicator.all_or_none(DeviceError):  # all have compiled before the first rank waits
        kernels = device.compile("memory_probe", macros, PEER_STRUCTURES)
    for entry, signal in ("show_stores", "flag"), ("show_packets", "packet"):
        with communicator.all_or_none(DeviceError):
            wrong, rounds = device.private(counts.nbytes), PROBE_ROUNDS[device.is_cpu]
            arguments = peers.arguments(0, wrong.address, rounds, PROBE_BYTES)
            arguments.timeout_ns = min(arguments.timeout_ns, PROBE_NS)
            device.caller(Step(kernels.kernel(entry), arguments, blocks))()
            counts = wrong.read().view(np.uint32).reshape(counts.shape)
            wrong.close()
        sentence = _missing(peers, signal) or _stale(counts, communicator)
        sentence = communicator.first_reason(sentence)
        if signal == "packet":
            peers.no_packets = sentence
            peers.waits.forget()
        elif sentence:
            raise ProbeFailed(sentence)


def _missing(peers: PeerBuffer, name: str) -> str | None:
    """A sentence if the last launch waited in vain."""
    if not peers.waits.watch.timed_out:
        return None
    rank_name, peer = peers.communicator.rank_name, peers.waits.watch.peer
    return (
        f"a {name} from {rank_name(peer)} never arrived in the memory of "
        f"{rank_name(peers.communicator.rank)}"
    )


def _stale(counts: np.ndarray[Any, Any], communicator: Communicator) -> str | None:
    """A sentence on the first writer whose data were old or wrong; None without. `counts` of wrong
    packs or packets: [access, path, writer]."""
    name, rank = communicator.rank_name, communicator.rank
    for path, verb in enumerate(("pushed to", "left for")):
        for writer in map(int, np.flatnonzero(counts[:, path].sum(0))):
            accesses = [
                name
                for name, count in zip(MEMORY_ACCESSES, counts[:, path, writer], strict=True)
                if count
            ]
            return (
                f"within one launch {name(rank)} read old or wrong data after the flag of "
                f"{name(writer)}: in what it {verb} {name(rank)}, by accesses of "
                f"{', '.join(accesses)}"
            )
    return None
