"""Two-shot all-reduce whose transfers a GPU's copy engines make while its kernels sum, from 1 MiB
on.

Each rank copies its inputs into its peers' inboxes and its sums into their registered receive
buffers, in a stream of its own. Flags order the ranks: the kernel `announce` follows the copies in
their stream, and `await_copies` precedes the peer's sum. No flag has to say that a place is free: a
rank's launch ends with the sums of all peers, who have then read their inboxes. See
kernels/allreduce_copy_engine.cu. `two_shot_copy_engine_memops` has CUDA's stream memory operations
in place of these two kernels."""

from dataclasses import dataclass, replace
from functools import partial

from collectives.binding import build_macros, without_gpus
from collectives.collective import Traffic
from collectives.communicator import Refusal
from collectives.copy_engine import (
    BETWEEN_HOSTS,
    FLAGS_BYTES,
    LEAST_BYTES,
    MARK_THREADS,
    MOST_ENTRIES,
    Mark,
    arrival,
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
from kernels.devices.device import (
    MOST_RANKS,
    PACK_BYTES,
    Arguments,
    CopyEngine,
    Memory,
    Module,
    Step,
)

LEAST_PIECE_BYTES = 128 << 10  # a copy takes a few microseconds to start
PIECES = 4  # of a segment: a sum of one piece runs beside the copy of the next


Copy = tuple[int, int, int]  # target address, in a peer's memory; source address; bytes


@dataclass
class Program:
    """The steps of one launch. The message has a segment for each rank, with room for
    `segment_bytes`, cut into pieces at the offsets `pieces`. A rank's inbox has a slot for each
    writer's inputs. With `memops` the streams store and await the flags, without a kernel."""

    world: World
    case: CollectiveCase
    engine: CopyEngine
    module: Module
    arguments: Arguments  # receives: the registered buffers of all ranks
    inboxes: list[Memory]
    segment_bytes: int
    pieces: range
    memops: bool

    def steps(self) -> list[Step]:
        """In the order in which the host puts them into the streams."""
        rank, ranks, case = self.world.rank, self.world.ranks, self.case
        # First the next rank: otherwise all would copy to rank 0 first.
        others = [(rank + distance) % ranks for distance in range(1, ranks)]
        peers = sum(1 << peer for peer in others)
        last = len(self.pieces)  # the one flag behind all sums
        steps = list[Step]()
        for number, offset in enumerate(self.pieces):
            inputs = [(peer, *self.part(peer, offset)) for peer in others]
            copies = [
                (self.inbox(peer, rank, offset), case.send + start, size_bytes)
                for peer, start, size_bytes in inputs
            ]
            steps.append(self.send(copies, peers, number))
        for number, offset in enumerate(self.pieces):
            start, size_bytes = self.part(rank, offset)
            steps.append(self.mark("await_copies", peers, number))
            if size_bytes:
                steps.append(self.sum_of(start, size_bytes, offset))
            copies = [
                (int(self.arguments.receives[peer]) + start, case.receive + start, size_bytes)
                for peer in others
            ]
            steps.append(self.send(copies, peers if number + 1 == last else 0, last))
        leave = Step(self.module.kernel("leave", MARK_THREADS), self.arguments)
        steps += [self.mark("await_copies", peers, last), self.engine.join()]
        return steps if self.memops else [*steps, leave]

    def part(self, segment: int, offset: int) -> tuple[int, int]:
        """The place of a segment's piece in a buffer, and its size, both in bytes."""
        whole = self.case.segment_bytes
        start = min(segment * self.segment_bytes + offset, whole)
        end = min(start + self.pieces.step, (segment + 1) * self.segment_bytes, whole)
        return start, max(0, end - start)

    def inbox(self, peer: int, slot: int, offset: int) -> int:
        return self.inboxes[peer].address + FLAGS_BYTES + slot * self.segment_bytes + offset

    def flag(self, owner: int, writer: int, number: int) -> int:
        return self.inboxes[owner].address + 4 * (MOST_RANKS * number + writer)

    def mark(self, entry: str, peers: int, number: int) -> Step:
        """Stores (`announce`) or awaits (`await_copies`) a signal for each peer."""
        rank, ranks = self.world.communicator.rank, self.world.communicator.size
        if self.memops:
            steps = list[Step]()
            for peer in (peer for peer in range(ranks) if peers >> peer & 1):
                if entry == "announce":
                    steps.append(self.engine.store(self.flag(peer, rank, number), 1))
                else:
                    steps += arrival(self.engine, self.flag(rank, peer, number))
            return self.world.device.sequence(steps)
        return Step(self.module.kernel(entry, MARK_THREADS), Mark(self.arguments, peers, number))

    def send(self, copies: list[Copy], peers: int, number: int) -> Step:
        """Copies, after all sums so far, and then signals the peers, if any."""
        moved = [self.engine.copy(*copy) for copy in copies if copy[-1]]
        signals = [self.mark("announce", peers, number)] if peers else []
        return self.engine.beside([*moved, *signals])

    def sum_of(self, start: int, size_bytes: int, offset: int) -> Step:
        """Sums a piece of this rank's segment, of all inputs in rank order."""
        rank, ranks, build = (
            self.world.rank,
            self.world.ranks,
            self.case.build,
        )
        arguments = Arguments.from_buffer_copy(self.arguments)
        arguments.send, arguments.receive = self.case.send + start, self.case.receive + start
        arguments.count = size_bytes // self.case.datatype.size_bytes
        arguments.sends[:ranks] = [self.inbox(rank, writer, offset) for writer in range(ranks)]
        blocks = self.world.device.blocks_for(size_bytes)
        kernel = self.module.kernel("add_all", build.threads)
        return Step(kernel, arguments, min(blocks, build.blocks or blocks))


def _bind(world: World, case: CollectiveCase, memops: bool = False) -> Bound:
    peers, ranks = world.mapped, world.ranks
    segment_bytes = -(-case.segment_bytes // (PACK_BYTES * ranks)) * PACK_BYTES
    # All ranks take part in these calls, so nothing before them may fail on one rank alone.
    try:
        engine = engine_of(world, memops)
        rooms = inboxes(peers, "two_shot", ranks * segment_bytes)
    except Refusal as refused:
        return Unsupported(str(refused))
    arguments = peers.arguments(case.send, case.receive, case.count, 0)
    if not peers.locate(case.receive, arguments.receives):
        return NOT_MAPPED
    most = case.build.chunk_bytes or max(LEAST_PIECE_BYTES, -(-segment_bytes // PIECES))
    pieces = range(0, segment_bytes, -(-most // PACK_BYTES) * PACK_BYTES)
    module = engine_module(world, build_macros(world, case))
    program = Program(world, case, engine, module, arguments, rooms, segment_bytes, pieces, memops)
    step = world.device.sequence(program.steps())
    if step.entries > MOST_ENTRIES:
        return Unsupported(
            f"a launch of {step.entries} kernels, copies and events is too long "
            "for a stream: its chunks are too short"
        )
    return Operation(step, keep=program, ignores_nan=True)


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
    swaps=(),
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
    )
}
