"""All-reduces whose transfers a GPU's copy engines make, from 1 MiB on.

Two-shot: the kernels sum meanwhile. Each rank copies its inputs into its peers' inboxes and its
sums into their registered receive buffers, in a stream of its own. Flags order the ranks: the
kernel `announce` follows the copies in their stream, and `await_copies` precedes the peer's sum. No
flag has to say that a place is free: a rank's launch ends with the sums of all peers, who have then
read their inboxes. See kernels/allreduce_copy_engine.cu. `two_shot_copy_engine_memops` has CUDA's
stream memory operations in place of these two kernels.

One-shot, of two ranks: no multiprocessor works but for the sum, and no kernel waits. CUDA only; not
measured yet between two GPUs. A rank's engine copies the whole input into the peer's inbox; when
the peer's has arrived, one kernel sums. Without peer access the inbox is on the host: one engine
copies pieces down into this rank's, while the other fetches the peer's pieces up, so that both
directions of the slot are busy.

CUDA's streams store and await two kinds of flags, whose values are constant in a graph. `taken`, on
its sender, is 1 from before a copy until the peer has summed; `arrived` is 1 from behind a copy
until the reader sees it. A rank raises `arrived` again only after `taken` fell, which the peer took
down after `arrived`. The flags work as well if the driver runs both streams one after the other: no
piece waits for anything but the peer's last launch."""

from dataclasses import replace
from functools import partial

from collectives.binding import build_macros
from collectives.collective import Traffic
from collectives.communicator import Refusal
from collectives.copy_engine import (
    BETWEEN_HOSTS,
    FILE,
    FLAGS_BYTES,
    LEAST_BYTES,
    MARK_THREADS,
    MOST_ENTRIES,
    Mark,
    arrival,
    engine_of,
    inboxes,
)
from collectives.operation import (
    NOT_MAPPED,
    Bound,
    CollectiveCase,
    KernelAlgorithm,
    Limits,
    Operation,
    Unsupported,
    World,
)
from collectives.traffic import direct_traffic
from kernels.devices.device import MOST_RANKS, PACK_BYTES, Arguments, Step

LEAST_PIECE_BYTES = 128 << 10  # a copy takes a few microseconds to start
PIECES = 4  # of a segment: a sum of one piece runs beside the copy of the next
STAGED_PIECE_BYTES = 512 << 10  # 10 us over a slot of PCIe 5, beside 2 or 3 us to start a copy
STAGED_PIECES = 32  # at most


def _add_all(world: World, case: CollectiveCase, arguments: Arguments, size_bytes: int) -> Step:
    blocks, build = world.device.blocks_for(size_bytes), case.build
    blocks, macros = min(blocks, build.blocks or blocks), build_macros(world, case)
    return world.device.step(FILE, "add_all", arguments, blocks, build.threads, **macros)


def _bind(world: World, case: CollectiveCase, memops: bool = False) -> Bound:
    """A launch: the message has a segment for each rank, with room for `segment_bytes`, cut into
    pieces at the offsets `pieces`. A rank's inbox has a slot for each writer's inputs. With
    `memops` the streams store and await the flags, without a kernel."""
    peers, rank, ranks = world.mapped, world.rank, world.ranks
    segment_bytes = -(-case.segment_bytes // (PACK_BYTES * ranks)) * PACK_BYTES
    # All ranks take part in these calls, so nothing before them may fail on one rank alone.
    try:
        engine = engine_of(world, memops)
        rooms = inboxes(peers, "two_shot", ranks * segment_bytes)
    except Refusal as refused:
        return Unsupported(str(refused))
    arguments = peers.arguments(case.send, case.receive, case.count)
    if not peers.locate(case.receive, arguments.receives):
        return NOT_MAPPED
    most = case.build.chunk_bytes or max(LEAST_PIECE_BYTES, -(-segment_bytes // PIECES))
    pieces = range(0, segment_bytes, -(-most // PACK_BYTES) * PACK_BYTES)
    launch = partial(world.device.step, FILE, threads=MARK_THREADS, WT_WORLD=ranks)
    # First the next rank: otherwise all would copy to rank 0 first.
    others = [(rank + distance) % ranks for distance in range(1, ranks)]
    bits = sum(1 << peer for peer in others)

    def part(segment: int, offset: int) -> tuple[int, int]:
        """The place of a segment's piece in a buffer, and its size, both in bytes; no piece has 0
        or less."""
        start = segment * segment_bytes + offset
        end = min(start + pieces.step, (segment + 1) * segment_bytes, case.segment_bytes)
        return start, end - start

    def slot(owner: int, writer: int) -> int:
        return rooms[owner].address + FLAGS_BYTES + writer * segment_bytes

    def flag(owner: int, writer: int, number: int) -> int:
        return rooms[owner].address + 4 * (MOST_RANKS * number + writer)

    def announced(number: int) -> list[Step]:
        if memops:
            return [engine.store(flag(peer, rank, number), 1) for peer in others]
        return [launch("announce", Mark(arguments, bits, number))]

    def awaited(number: int) -> list[Step]:
        if memops:
            return [step for peer in others for step in arrival(engine, flag(rank, peer, number))]
        return [launch("await_copies", Mark(arguments, bits, number))]

    # In the order in which the host puts them into the streams: copies follow all sums so far.
    steps = list[Step]()
    for number, offset in enumerate(pieces):
        moved = list[Step]()
        for peer in others:
            start, size_bytes = part(peer, offset)
            if size_bytes > 0:
                to = slot(peer, rank) + offset
                moved.append(engine.copy(to, case.send + start, size_bytes))
        begun, _ = world.device.beside([*moved, *announced(number)])
        steps.append(begun)
    last = len(pieces)  # the one flag behind all sums
    for number, offset in enumerate(pieces):
        start, size_bytes = part(rank, offset)
        steps += awaited(number)
        moved = []
        if size_bytes > 0:
            count = size_bytes // case.datatype.size_bytes
            summed = peers.arguments(case.send + start, case.receive + start, count)
            summed.sends[:ranks] = [slot(rank, writer) + offset for writer in range(ranks)]
            steps.append(_add_all(world, case, summed, size_bytes))
            moved = [
                engine.copy(arguments.receives[peer] + start, case.receive + start, size_bytes)
                for peer in others
            ]
        if number + 1 == last:
            moved += announced(last)
        begun, ended = world.device.beside(moved)
        steps.append(begun)
    steps += [*awaited(last), ended]
    if not memops:
        steps.append(launch("leave", arguments))
    step = world.device.sequence(steps)
    if step.entries > MOST_ENTRIES:
        return Unsupported(
            f"a launch of {step.entries} kernels, copies and events is too long "
            "for a stream: its chunks are too short"
        )
    return Operation(step, ignores_nan=True)


def _bind_one_shot(world: World, case: CollectiveCase) -> Bound:
    peers, rank, size_bytes = world.mapped, world.rank, case.segment_bytes
    is_staged = peers.kind == "host_staged"
    arguments = peers.arguments(case.send, case.receive, case.count)
    if is_staged and peers.locate(case.send, arguments.sends):
        return BETWEEN_HOSTS
    try:
        engine = engine_of(world, memops=True)
        rooms = inboxes(peers, "one_shot", size_bytes)
    except Refusal as refused:
        return Unsupported(str(refused))
    inbox = world.device.private(size_bytes) if is_staged else None
    arguments.keep(inbox)
    # Flags lie in front of a room: `taken`, then an `arrived` for each piece.
    own, other = rooms[rank].address, rooms[1 - rank].address
    out, back = (own if is_staged else other) + FLAGS_BYTES, other + FLAGS_BYTES
    piece_bytes = size_bytes
    if is_staged:
        wanted_bytes = case.build.chunk_bytes or STAGED_PIECE_BYTES
        piece_bytes = max(wanted_bytes, -(-size_bytes // STAGED_PIECES // PACK_BYTES) * PACK_BYTES)
    sends, receives = [engine.wait(own, 0), engine.store(own, 1)], list[Step]()
    for number, start in enumerate(range(0, size_bytes, piece_bytes), 1):
        moved_bytes = min(piece_bytes, size_bytes - start)
        sends.append(engine.copy(out + start, case.send + start, moved_bytes))
        sends.append(engine.store(other + 4 * number, 1))
        receives += arrival(engine, own + 4 * number)
        if inbox:
            receives.append(engine.copy(inbox.address + start, back + start, moved_bytes))
    steps = [*sends, *receives]
    if inbox:  # the sum, in place, must not overtake the copies of its input
        begun, ended = world.device.beside(sends)
        steps = [begun, *receives, ended]
    arguments.sends[1 - rank] = inbox.address if inbox else own + FLAGS_BYTES
    steps.append(_add_all(world, case, arguments, size_bytes))
    steps.append(engine.store(other, 0))
    return Operation(world.device.sequence(steps), ignores_nan=True)


def _refuses(world: World, case: CollectiveCase) -> Unsupported | None:
    if world.device.is_cpu:
        reason = "the cpu device has no copy engines; GPUs have them"
        return Unsupported(reason, depends_on_size=True)
    if case.variant == "copied" and world.ranks != 2:  # one-shot
        return Unsupported("it is for two ranks", depends_on_size=True)
    if case.variant == "registered" and world.memory == "host_staged":
        return BETWEEN_HOSTS
    if world.ranks == 1:
        return Unsupported("a single rank has no peer to copy to", depends_on_size=True)
    return None


def _traffic(ranks: int, case: CollectiveCase) -> Traffic:
    others = case.segment_bytes - case.segment_bytes // ranks
    return Traffic(2, ((others, 0), (others, others)), case.segment_bytes)


TWO_SHOT = KernelAlgorithm(
    "two_shot_copy_engine",
    "two_shot: a GPU's copy engines make its transfers",
    _bind,
    _traffic,
    _refuses,
    variants=("registered",),
    pushes=True,
    varies=("chunks",),
    limits=Limits(least_bytes=LEAST_BYTES),
    is_modelled=False,
    sums_in_rank_order=True,
)
ALGORITHMS = {
    "all_reduce": (
        TWO_SHOT,
        replace(
            TWO_SHOT,
            base="two_shot_copy_engine_memops",
            about="two_shot_copy_engine: CUDA's streams store and await its flags, no kernel does",
            perform=partial(_bind, memops=True),
        ),
        replace(
            TWO_SHOT,
            base="one_shot_copy_engine",
            about="one_shot of two ranks: a GPU's copy engine moves the input, CUDA's streams wait",
            perform=_bind_one_shot,
            moves=direct_traffic,
            variants=("copied",),
            varies=(),
        ),
    )
}
