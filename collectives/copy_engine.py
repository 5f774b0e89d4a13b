"""A GPU's copy engines between ranks, with the signals of kernels/allreduce_copy_engine.cu."""

from contextlib import suppress
from ctypes import c_long
from functools import partial

from collectives.communicator import Refusal
from collectives.operation import Unsupported, World
from collectives.peer_buffer import PeerBuffer
from kernels.devices.device import HALF_BYTES, Arguments, CopyEngine, Memory, Step, Transfer
from kernels.devices.layout import Shared

FILE = "allreduce_copy_engine"  # of kernels/
LEAST_BYTES = 1 << 20  # below, a copy takes longer to start than to move the bytes
FLOAT_BYTES = 4  # an element of bench.link
MARK_THREADS = 32
MOST_ENTRIES = 500  # of the streams, for one launch
# CUDA's manual: a copy from host to host memory is synchronous. At a gate it never ends.
BETWEEN_HOSTS = Unsupported("between host memories the driver copies with the CPU, not an engine")
FLAGS_BYTES = 64 << 10  # in front of an inbox: 32-bit flags of CUDA's streams


class Mark(Shared, file="allreduce_copy_engine.cu"):
    """A signal to some peers, or a wait for theirs; `peers` has one bit each."""

    _fields_ = (("ranks", Arguments), ("peers", c_long), ("step", c_long))


def shared_engine(world: World) -> CopyEngine | None:
    """This rank's engines for peers' memory, if all ranks have some; all call it."""
    if isinstance(world.peers, Unsupported) or world.memory == "host_staged":
        return None
    with suppress(Refusal):
        return engine_of(world)
    return None


def engine_of(world: World, memops: bool = False) -> CopyEngine:
    """This rank's engines. Raises Refusal if a rank has none."""
    with world.communicator.all_or_none():
        return world.device.copy_engine(memops)


def inboxes(peers: PeerBuffer, form: str, size_bytes: int) -> list[Memory]:
    """Every rank's inbox behind its flags, as mapped here, for the cases of a form; earlier cases
    go on with theirs. Raises Refusal."""
    known, size_bytes = peers.inboxes.setdefault(form, []), FLAGS_BYTES + size_bytes
    if not known or known[-1][0].size_bytes < size_bytes:
        known.append(peers.share(size_bytes))
    return known[-1]


def arrival(engine: CopyEngine, flag: int) -> list[Step]:
    """Awaits a peer's flag, and takes it down for the next launch: in a graph values are constant.
    The peer raises it again only after a signal that this rank gives later."""
    return [engine.wait(flag, 1), engine.store(flag, 0)]


def pushed(world: World, engine: CopyEngine, transfer: Transfer) -> Step:
    """This rank's part in a transfer between registered buffers, as link.cu makes it with stores,
    by the engines. Ranks without a part only launch."""
    arguments = transfer.ranks
    launch = partial(world.device.step, FILE, threads=MARK_THREADS, WT_WORLD=world.ranks)
    steps = list[Step]()
    if transfer.to >= 0:
        target, size_bytes = int(arguments.receives[transfer.to]), FLOAT_BYTES * arguments.count
        signal = launch("announce", Mark(arguments, 1 << transfer.to, 1))
        moved = engine.copy(target, int(arguments.send), size_bytes)
        steps += world.device.beside([moved, signal])
    if transfer.from_ >= 0:
        steps.append(launch("await_copies", Mark(arguments, 1 << transfer.from_, 1)))
    return world.device.sequence([*steps, launch("leave", arguments)])


def pushed_to_slab(
    world: World, engine: CopyEngine, source: int, size_bytes: int
) -> tuple[Step, int]:
    """A step that copies into the next rank's slab, and its bytes: over the same place again and
    again, and less than `size_bytes` where a stream has no room for so many copies."""
    peers, ranks = world.mapped, world.ranks
    target = peers.slabs[(world.rank + 1) % ranks].address
    room = 2 * HALF_BYTES
    copied_bytes = min(size_bytes, MOST_ENTRIES // 2 * room)
    copies = [
        engine.copy(target, source + start, min(room, copied_bytes - start))
        for start in range(0, copied_bytes, room)
    ]
    return world.device.sequence(world.device.beside(copies)), copied_bytes
