"""The probes of mapped memory.

| probe | shows that |
|---|---|
| `probe` | every byte arrives by the kernels' loads and stores, in each direction |
| `probe_flag` | a flag arrives |
| `probe_visibility` | stores become visible while both kernels run, by every kind of access |

`probe` writes new contents to the same addresses sixteen times, as a stale cache shows only at the
second use. Visibility needs a probe because an allocator may ignore the requested type of memory.
"""

from typing import Any

import numpy as np

from collectives.communicator import Communicator, Refusal
from collectives.peer_buffer import PeerBuffer
from kernels.devices.device import (
    MOST_RANKS,
    PEER_STRUCTURES,
    Bytes,
    Device,
    DeviceError,
    Kernel,
    Memory,
    Module,
    Step,
)

PROBE_BYTES = 4096
PROBE_ROUNDS = 16
PROBE_NS = 5_000_000_000  # for a flag: less than any watchdog waits
# As memory_probe.cu numbers them. A pack has 16 B on a GPU and a vector's width on a CPU.
MEMORY_ACCESSES = "2 B", "4 B", "a pack", "a streamed pack", "a polled packet"
VISIBILITY_ROUNDS = {True: 16, False: 64}  # by is_cpu: a loaded CPU may run one rank at a time
VISIBILITY_BLOCKS = 8  # on as many multiprocessors, with a cache each


class ProbeFailed(Refusal):
    """Peers' memory can be mapped, but a read returns other bytes than were written."""


def _pattern(round_number: int, writer: int, reader: int) -> Bytes:
    draw = np.random.default_rng([round_number, writer, reader])
    return draw.integers(0, 256, PROBE_BYTES, np.uint8)


def probe_kernels(device: Device, ranks: int, **macros: str) -> Module:
    return device.compile("link_probe", {"WT_WORLD": str(ranks), **macros}, PEER_STRUCTURES)


def probe(peers: PeerBuffer) -> None:
    """Pushes and pulls patterns between all pairs: rank w writes into slot w of each peer's slab,
    and into its own last slot, which all peers pull. Raises ProbeFailed and Refusal."""
    communicator, device = peers.communicator, peers.device
    size, rank, name = communicator.size, communicator.rank, communicator.rank_name
    with communicator.all_or_none(DeviceError):
        source, sink = device.private(PROBE_BYTES), device.private(PROBE_BYTES)
        kernels = probe_kernels(device, size)

    def move(target: int, origin: int) -> None:
        arguments = peers.arguments(origin, target, PROBE_BYTES // 4, PROBE_BYTES)
        device.caller(Step(kernels.kernel("copy_local"), arguments))()

    def slot(owner: int, number: int) -> int:
        return peers.slabs[owner].address + number * PROBE_BYTES

    def complaint(round_number: int) -> str | None:
        for peer in range(size):
            for verb, owner, number, reader in (
                ("pushed", rank, peer, rank),
                ("pulled", peer, size, size),
            ):
                move(sink.address, slot(owner, number))
                wrong = np.flatnonzero(sink.read() != _pattern(round_number, peer, reader))
                if wrong.size:
                    return (
                        f"the memory that {name(peer)} {verb} to {name(rank)} has wrong bytes "
                        f"from offset {number * PROBE_BYTES + wrong[0]} of the slab on, in "
                        f"round {round_number} of the probe"
                    )
        return None

    written = [(peer, rank, peer) for peer in range(size)] + [(rank, size, size)]
    for round_number in range(PROBE_ROUNDS):
        with communicator.all_or_none(DeviceError):
            for owner, number, reader in written:
                source.write(_pattern(round_number, rank, reader))
                move(slot(owner, number), source.address)
        with communicator.all_or_none(DeviceError):
            sentence = complaint(round_number)
        if sentence := communicator.first_reason(sentence):
            raise ProbeFailed(sentence)
    for memory in (source, sink):
        memory.close()


def probe_flag(peers: PeerBuffer) -> None:
    """Bounces a flag between pairs. Raises ProbeFailed if one never arrives."""
    communicator, device = peers.communicator, peers.device
    with communicator.all_or_none(DeviceError):
        kernels, trip_ns = probe_kernels(device, communicator.size), device.private(8)
        _probe_once(peers, kernels.kernel("flag_ping_pong"), trip_ns, 16)
        trip_ns.close()
    if sentence := communicator.first_reason(_missing(peers)):
        raise ProbeFailed(sentence)


def probe_visibility(peers: PeerBuffer) -> None:
    """Lets all ranks store and read at once in one launch, by every access of the kernels. Raises
    ProbeFailed if data that were stored before a flag are not there after it."""
    communicator, device = peers.communicator, peers.device
    macros = {"WT_WORLD": str(communicator.size), "WT_STREAM_SLAB": "1"}
    blocks = min(VISIBILITY_BLOCKS, device.blocks_for(peers.slabs[0].size_bytes))
    counts = np.zeros((len(MEMORY_ACCESSES), 2, MOST_RANKS), np.uint32)
    with communicator.all_or_none(DeviceError):  # all have compiled before the first rank waits
        kernels = device.compile("memory_probe", macros, PEER_STRUCTURES)
    for entry, signal in ("show_stores", "flag"), ("show_packets", "packet"):
        with communicator.all_or_none(DeviceError):
            wrong, rounds = device.private(counts.nbytes), VISIBILITY_ROUNDS[device.is_cpu]
            _probe_once(peers, kernels.kernel(entry), wrong, rounds, blocks)
            counts = wrong.read().view(np.uint32).reshape(counts.shape)
            wrong.close()
        sentence = _missing(peers, signal) or _stale(counts, communicator)
        if sentence := communicator.first_reason(sentence):
            raise ProbeFailed(sentence)


def _probe_once(
    peers: PeerBuffer, kernel: Kernel, result: Memory, count: int, blocks: int = 1
) -> None:
    arguments = peers.arguments(0, result.address, count, PROBE_BYTES)
    arguments.timeout_ns = min(arguments.timeout_ns, PROBE_NS)
    peers.device.caller(Step(kernel, arguments, blocks))()


def _missing(peers: PeerBuffer, name: str = "flag") -> str | None:
    """A sentence if the last launch waited in vain."""
    if not peers.waits.watch.timed_out:
        return None
    rank_name, peer = peers.communicator.rank_name, peers.waits.watch.peer
    return (
        f"a {name} from {rank_name(peer)} never arrived in the memory of "
        f"{rank_name(peers.communicator.rank)}"
    )


def _stale(counts: np.ndarray[Any, Any], communicator: Communicator) -> str | None:
    """The first path with stale data, and all its accesses; None without. `counts` of packs or
    packets: [access, path, writer]."""
    name, rank = communicator.rank_name, communicator.rank
    for path, verb in enumerate(("pushed to", "left for")):
        for writer in map(int, np.flatnonzero(counts[:, path].sum(0))):
            accesses = [
                name
                for name, count in zip(MEMORY_ACCESSES, counts[:, path, writer], strict=True)
                if count
            ]
            return (
                f"within one launch {name(rank)} read stale data after the flag of "
                f"{name(writer)}: in what it {verb} {name(rank)}, by accesses of "
                f"{', '.join(accesses)}"
            )
    return None
