"""A two-shot all-reduce whose transfers a GPU's copy engines make, from 1 MiB on.

The kernels sum meanwhile. Each rank copies its inputs into its peers' inboxes and its sums into
their registered receive buffers, in a stream of its own. Flags order the ranks: the kernel
`announce` follows the copies in their stream, and `await_copies` precedes the peer's sum. No flag
has to say that a place is free: a rank's launch ends with the sums of all peers, who have then read
their inboxes. See kernels/allreduce_copy_engine.cu."""

from collectives.binding import build_macros, without_gpus
from collectives.collective import Traffic
from collectives.communicator import Refusal
from collectives.copy_engine import (
    BETWEEN_HOSTS,
    LEAST_BYTES,
    MARK_THREADS,
    MOST_ENTRIES,
    Mark,
    engine_module,
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
from kernels.devices.device import PACK_BYTES, Arguments, Step

LEAST_PIECE_BYTES = 128 << 10  # a copy takes a few microseconds to start
PIECES = 4  # of a segment: a sum of one piece runs beside the copy of the next


def _bind(world: World, case: CollectiveCase) -> Bound:
    """A launch: the message has a segment for each rank, with room for `segment_bytes`, cut into
    pieces at the offsets `pieces`. A rank's inbox has a slot for each writer's inputs."""
    peers, rank, ranks = world.mapped, world.rank, world.ranks
    segment_bytes = -(-case.segment_bytes // (PACK_BYTES * ranks)) * PACK_BYTES
    # All ranks take part in these calls, so nothing before them may fail on one rank alone.
    try:
        engine = engine_of(world)
        rooms = inboxes(peers, ranks * segment_bytes)
    except Refusal as refused:
        return Unsupported(str(refused))
    arguments = peers.arguments(case.send, case.receive, case.count, 0)
    if not peers.locate(case.receive, arguments.receives):
        return NOT_MAPPED
    most = case.build.chunk_bytes or max(LEAST_PIECE_BYTES, -(-segment_bytes // PIECES))
    pieces = range(0, segment_bytes, -(-most // PACK_BYTES) * PACK_BYTES)
    module = engine_module(world, build_macros(world, case))
    # First the next rank: otherwise all would copy to rank 0 first.
    others = [(rank + distance) % ranks for distance in range(1, ranks)]

    def part(segment: int, offset: int) -> tuple[int, int]:
        """The place of a segment's piece in a buffer, and its size, both in bytes."""
        start = min(segment * segment_bytes + offset, case.segment_bytes)
        end = min(start + pieces.step, (segment + 1) * segment_bytes, case.segment_bytes)
        return start, max(0, end - start)

    def slot(owner: int, writer: int) -> int:
        return rooms[owner].address + writer * segment_bytes

    def mark(entry: str, number: int) -> Step:
        bits = sum(1 << peer for peer in others)
        return Step(module.kernel(entry, MARK_THREADS), Mark(arguments, bits, number))

    # In the order in which the host puts them into the streams: copies follow all sums so far.
    steps = list[Step]()
    for number, offset in enumerate(pieces):
        moved = [
            engine(slot(peer, rank) + offset, case.send + start, size_bytes)
            for peer in others
            for start, size_bytes in [part(peer, offset)]
            if size_bytes
        ]
        begun, _ = world.device.beside([*moved, mark("announce", number)])
        steps.append(begun)
    last = len(pieces)  # the one flag behind all sums
    for number, offset in enumerate(pieces):
        start, size_bytes = part(rank, offset)
        steps.append(mark("await_copies", number))
        moved = []
        if size_bytes:
            summed = Arguments.from_buffer_copy(arguments)
            summed.send, summed.receive = case.send + start, case.receive + start
            summed.count = size_bytes // case.datatype.size_bytes
            summed.sends[:ranks] = [slot(rank, writer) + offset for writer in range(ranks)]
            blocks = world.device.blocks_for(size_bytes)
            blocks = min(blocks, case.build.blocks or blocks)
            steps.append(Step(module.kernel("add_all", case.build.threads), summed, blocks))
            moved = [
                engine(arguments.receives[peer] + start, case.receive + start, size_bytes)
                for peer in others
            ]
        if number + 1 == last:
            moved.append(mark("announce", last))
        begun, ended = world.device.beside(moved)
        steps.append(begun)
    steps += [mark("await_copies", last), ended]
    steps.append(Step(module.kernel("leave", MARK_THREADS), arguments))
    step = world.device.sequence(steps)
    if step.entries > MOST_ENTRIES:
        return Unsupported(
            f"a launch of {step.entries} kernels, copies and events is too long "
            "for a stream: its chunks are too short"
        )
    return Operation(step, keep=(rooms, module), ignores_nan=True)


def _refuses(world: World, case: CollectiveCase) -> Unsupported | None:
    if refusal := without_gpus(world, "copy engines; GPUs have them"):
        return refusal
    if world.memory == "host_staged":
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
ALGORITHMS = {"all_reduce": (TWO_SHOT,)}
