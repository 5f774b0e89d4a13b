"""The probe of mapped memory: do stores become visible to other ranks while all kernels run, by
every kind of access, in both directions? Do reads of peers show them, packets arrive that have no
flag, and later launches, in a stream and in a graph, find what earlier ones stored in ordinary
memory? And how fast is it?

An allocator may ignore the requested type of memory. A stale cache shows only at the second use, so
the rounds write new contents to the same addresses."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import compress

import numpy as np

from collectives.communicator import Refusal
from collectives.peer_buffer import PeerBuffer, ProbeResult, WireSpeed, share, slab_bytes
from kernels.devices.device import MOST_RANKS, DeviceError, Step

PROBE_BYTES = 4096  # written by each access at a time
LONG_BYTES = 64 << 10  # the same, for launches between short ones
PROBE_NS = 5_000_000_000  # for a flag: less than any watchdog waits
# As memory_probe.cu numbers them. A pack has 16 B on a GPU and a vector's width on a CPU.
MEMORY_ACCESSES = "2 B", "4 B", "a pack", "a streamed pack", "a polled packet"
CPU_ROUNDS, GPU_ROUNDS = 16, 64  # a loaded CPU may run one rank at a time
PROBE_BLOCKS = 8  # on as many multiprocessors, with a cache each
WIRE_BYTES, WIRE_CALLS = 4 << 20, 5  # of stores and reads that time the wire
LEAST_MOVING_SHARE = 0.25  # of a launch's time, where more of it is the launch itself
PING_PONGS = 100
SHARED_PING_PONGS = 4  # ranks that share a GPU take turns of milliseconds
LAUNCHES = 4  # of a size; each compares what the one before has stored
UNCACHED = {"WT_UNCACHED_SLAB": 1}  # a build whose flags do not wait for a write-back


class ProbeFailed(Refusal):
    """Peers' memory can be mapped, but a read returns other bytes than were written."""


def probe(peers: PeerBuffer) -> ProbeResult:
    """Lets all ranks store and read at once in one launch, by every access of the kernels. Raises
    ProbeFailed if data that were pushed before a flag are not there after it. What else fails is
    in the answer: packets (RCCL's hung in host memory on gfx12: rocm-systems pull 7183), reads of
    peers' memory, which some hosts do not route (open-gpu-kernel-modules issue 1253), registered
    buffers, and stores into uncached memory without a write-back."""
    if sentence := show(peers, "show_stores"):
        raise ProbeFailed(sentence)
    no_reads = show(peers, "show_reads")
    if no_reads:
        no_reads = f"reads of peers' memory: {no_reads}"
    no_packets = show(peers, "show_packets")
    writes_back = not peers.sharing.endswith(" uncached") or bool(
        show(peers, "show_stores", macros=UNCACHED)
        or (not no_reads and show(peers, "show_reads", macros=UNCACHED))
    )
    no_registered = probe_ordinary(peers, reads=not no_reads)
    peers.waits.forget()
    return ProbeResult(no_packets, no_reads, no_registered, writes_back)


def probe_ordinary(peers: PeerBuffer, reads: bool) -> str | None:
    """Why one launch does not show what the one before has stored in ordinary memory; None where it
    does. HIP promises to show it after a synchronisation alone, and within a stream or a graph it
    dispatches kernels with an acquire at the agent's scope, which leaves a peer's old lines in L2;
    on gfx1200 and gfx1201 at the system's (ROCm/rocm-systems, projects/clr,
    rocclr/device/rocm/rocvirtual.cpp: dispatchPacketHeader_). So the host waits once, after all
    launches. Unless it `reads`, what peers have stored into the own memory alone. All ranks call
    it. Raises Refusal."""
    device = peers.device
    if device.name != "hip" or peers.kind == "host_staged":
        return None
    ways: dict[str, Callable[[Sequence[Step]], Step]] = {
        "from one launch to the next": device.sequence
    }
    if not peers.communicator.first_reason(device.reason_against_graphs()):
        ways["in a captured graph"] = lambda steps: device.replayed(*steps)
    launches = [
        (number, size_bytes)
        for size_bytes in (PROBE_BYTES, LONG_BYTES, PROBE_BYTES)
        for number in range(LAUNCHES)  # in the third, a place has had other contents
    ]
    entry = "show_later" if reads else "show_later_stores"
    with ExitStack() as undo:
        own = peers.communicator, device, peers.sharing
        slabs = share(*own, slab_bytes(device), undo, ordinary=True)
        ordinary = replace(peers, slabs=slabs)
        sentences = (
            show_in(ordinary, entry, launches, f"in ordinary memory, {way},", joined)
            for way, joined in ways.items()
        )
        return next(filter(None, sentences), None)


def ping_pong(peers: PeerBuffer, distance: int = 1) -> Callable[[], float]:
    """A function that bounces a flag between pairs of ranks, whose numbers differ in the bits of
    `distance`, and returns this rank's round trip in ns; 0 without a partner. All ranks call it.
    Raises DeviceError."""
    trip_ns = peers.device.private(8)
    trips = SHARED_PING_PONGS if peers.kind == "same_device" else PING_PONGS
    arguments = peers.arguments(receive=trip_ns.address, count=trips, chunk_bytes=distance)
    step = peers.device.step(
        "link_probe", "flag_ping_pong", arguments, WT_WORLD=peers.communicator.size
    )
    bounce = peers.device.caller(step)

    def measure() -> float:
        bounce()
        return float(trip_ns.read().view(np.uint64)[0])

    return measure


def wire_speed(peers: PeerBuffer) -> WireSpeed:
    """The round trip of a flag between the slowest pair of ranks; the slowest rank's stores and
    reads, while all do the same to all peers at once, since a link that pairs share, or one slow
    link among fast ones, shows only then; and each rank's own copy. All ranks call it, and get the
    same. Raises Refusal."""
    device, communicator = peers.device, peers.communicator
    entries = ["copy_local", "store_to_all"]
    if not peers.shown.no_reads:
        entries += ["read_from_all", "store_and_read_all"]
    launches = [(entry, moved_bytes) for entry in entries for moved_bytes in (0, WIRE_BYTES)]
    launches.append(("store_to_all", PROBE_BYTES))
    with communicator.all_or_none():
        buffer = device.private(WIRE_BYTES)
        steps = [
            device.step(
                "link_probe",
                entry,
                peers.arguments(buffer.address, buffer.address, moved_bytes // 4),
                device.blocks_for(WIRE_BYTES),
                WT_WORLD=communicator.size,
            )
            for entry, moved_bytes in launches
        ]
        # Each pair of ranks once: those whose numbers differ in the same bits at once.
        distances = range(1, 1 << (communicator.size - 1).bit_length())
        bounces = [ping_pong(peers, distance) for distance in distances]

    times_us = dict[tuple[str, int], float]()
    for launch, step in zip(launches, steps, strict=True):
        with communicator.all_or_none():  # so all begin at about the same time
            times_us[launch] = device.time_us(step, WIRE_CALLS, peers.waits.watch)
    with communicator.all_or_none():
        trip_ns = max((bounce() for bounce in bounces), default=0.0)
        buffer.close()

    def moving_us(entry: str) -> float:
        """Without the launch; a disturbed one would leave next to nothing."""
        whole_us = times_us[entry, WIRE_BYTES]
        return max(whole_us - times_us[entry, 0], LEAST_MOVING_SHARE * whole_us)

    rates = [WIRE_BYTES / 1e3 / moving_us(entry) for entry in entries]
    drain_us = times_us["store_to_all", PROBE_BYTES] - times_us["store_to_all", 0]
    by_rank = communicator.all_gather((trip_ns, max(0.0, drain_us), *rates))
    trips_ns, drains_us, own_gb_s, *all_gb_s = zip(*by_rank, strict=True)
    store_gb_s, read_gb_s, both_gb_s = (*map(min, all_gb_s), None, None)[:3]
    return WireSpeed(max(trips_ns), store_gb_s, read_gb_s, own_gb_s, both_gb_s, max(drains_us))


def show(
    peers: PeerBuffer,
    entry: str,
    rounds: int | None = None,
    size_bytes: int = PROBE_BYTES,
    macros: Mapping[str, int] = {},
    writers: int = 0,
) -> str | None:
    """Runs a kernel of the probe once, and says what was missing or wrong first; None if all was
    right. In one round not all ranks need to store: `writers` has their bits. Raises Refusal."""
    if rounds is None:
        rounds = CPU_ROUNDS if peers.device.is_cpu else GPU_ROUNDS
    where, joined = "within one launch", peers.device.sequence
    return show_in(peers, entry, [(rounds, size_bytes)], where, joined, macros, writers)


def show_in(
    peers: PeerBuffer,
    entry: str,
    launches: Sequence[tuple[int, int]],
    where: str,
    joined: Callable[[Sequence[Step]], Step],
    macros: Mapping[str, int] = {},
    writers: int = 0,
) -> str | None:
    """Runs `launches` of a kernel of the probe, each with its rounds and bytes, as one `joined`
    step, and then says what was missing or wrong first, and `where`; None if all was right. The
    watch tells until the next call whether a wait timed out. Raises Refusal."""
    communicator, device = peers.communicator, peers.device
    peers.waits.forget()
    macros = {"WT_WORLD": communicator.size, "WT_STREAM_SLAB": 1, **macros}
    blocks = min(PROBE_BLOCKS, device.blocks_for(peers.slabs[0].size_bytes))
    shape = len(MEMORY_ACCESSES), MOST_RANKS  # of the counts of wrong packs or packets
    # All have compiled before the first rank waits, and captured: a new graph waits for the device.
    with communicator.all_or_none(DeviceError, MemoryError, RuntimeError):
        wrong = device.private(4 * int(np.prod(shape)))
        steps = list[Step]()
        for rounds, size_bytes in launches:
            arguments = peers.arguments(writers, wrong.address, rounds, size_bytes)
            arguments.timeout_ns = min(arguments.timeout_ns, PROBE_NS)
            steps.append(device.step("memory_probe", entry, arguments, blocks, **macros))
        run = device.caller(joined(steps))
    with communicator.all_or_none():
        run()
        counts = wrong.read().view(np.uint32).reshape(shape)
        wrong.close()
    own, sentence = communicator.rank_name(communicator.rank), None
    stale = np.flatnonzero(counts.sum(0)).tolist()  # writers
    if peers.waits.watch.timed_out:
        signal = "packet" if entry == "show_packets" else "flag"
        peer = communicator.rank_name(peers.waits.watch.peer)
        sentence = f"{where} a {signal} from {peer} never arrived in the memory of {own}"
    elif stale:
        accesses = compress(MEMORY_ACCESSES, counts[:, stale[0]])
        sentence = (
            f"{where} {own} read old or wrong data after the flag of "
            f"{communicator.rank_name(stale[0])}, by accesses of {', '.join(accesses)}"
        )
    return communicator.first_reason(sentence)
