"""All-reduces whose transfers a GPU's copy engines make while its kernels sum, from 1 MiB on.

Each rank copies from its own buffers into its peers' inboxes (or registered receive buffers), in a
stream of its own. Flags order the ranks: the kernel `announce` follows the copies in their stream,
and `await_copies` precedes the peer's sum. Every piece has its own place in an inbox, so no flag
has to say that a place is free; no copy starts before all ranks have entered the launch. See
kernels/allreduce_copy_engine.cu."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from ctypes import c_long
from dataclasses import dataclass, field, replace
from functools import partial

from collectives.algorithms.allreduce_ring import RING
from collectives.binding import build_macros, without_gpus
from collectives.collective import Traffic
from collectives.communicator import Refusal
from collectives.operation import NOT_MAPPED, Algorithm, Bound, Case, Operation, Unsupported, World
from collectives.peer_buffer import PeerBuffer
from kernels.devices.device import (
    HALF_BYTES,
    PACK_BYTES,
    PEER_STRUCTURES,
    Arguments,
    CopyEngine,
    DeviceError,
    Memory,
    Module,
    Step,
    Transfer,
)

LEAST_BYTES = 1 << 20
FLOAT_BYTES = 4  # an element of bench.link
LEAST_PIECE_BYTES = 128 << 10  # a copy takes a few microseconds to start
PIECES = 4  # of a segment: a sum of one piece runs beside the copy of the next
MARK_THREADS = 32
MOST_ENTRIES = 500  # of the streams, for one launch


class Mark(ctypes.Structure):
    """`Mark` of allreduce_copy_engine.cu."""

    _fields_ = [("ranks", Arguments), ("peers", c_long), ("step", c_long)]


Copy = tuple[int, int, int]  # target address, in a peer's memory; source address; bytes


@dataclass
class Program:
    """The steps of one launch, in the order in which the host puts them into the streams.

    The message has a segment for each rank, with room for `segment_bytes`; `pieces` are the offsets
    at which a segment is cut. `signals` counts the signals that this rank has sent."""

    world: World
    case: Case
    engine: CopyEngine
    module: Module
    arguments: Arguments  # of a launch; sends and receives: the registered buffers of all ranks
    inboxes: list[Memory]
    segment_bytes: int
    pieces: range
    steps: list[Step] = field(default_factory=list)
    signals: int = 0

    @property
    def rank(self) -> int:
        return self.world.communicator.rank

    @property
    def ranks(self) -> int:
        return self.world.communicator.size

    @property
    def others(self) -> list[int]:
        """The other ranks, first the next: otherwise all would copy to rank 0 first."""
        return [(self.rank + distance) % self.ranks for distance in range(1, self.ranks)]

    def part(self, segment: int, offset: int) -> tuple[int, int]:
        """The place of a segment's piece in a buffer, and its size, both in bytes."""
        start = min(segment * self.segment_bytes + offset, self.case.segment_bytes)
        end = min(
            start + self.pieces.step, (segment + 1) * self.segment_bytes, self.case.segment_bytes
        )
        return start, max(0, end - start)

    def sums_at(self, peer: int, slot: int, segment: int, offset: int) -> int:
        """Where a peer gets sums: in its registered receive buffer or a slot of its inbox."""
        if self.case.variant == "registered":
            return int(self.arguments.receives[peer]) + self.part(segment, offset)[0]
        return self.inbox(peer, slot, offset)

    def inbox(self, peer: int, slot: int, offset: int) -> int:
        return self.inboxes[peer].address + slot * self.segment_bytes + offset

    def mark(self, entry: str, peers: list[int], number: int) -> Step:
        """A kernel that stores (`announce`) or awaits (`await_copies`) a signal for each peer."""
        bits = sum(1 << peer for peer in peers)
        return Step(self.module.kernel(entry, MARK_THREADS), Mark(self.arguments, bits, number))

    def enter(self) -> None:
        """Waits for all ranks, as peers may still read what this launch's copies overwrite."""
        self.signals += 1
        self.steps.append(self.mark("announce", self.others, self.signals))
        self.wait(self.others, self.signals)

    def send(self, copies: list[Copy], peers: list[int]) -> None:
        """Copies, after all sums so far, and then signals the peers."""
        self.signals += 1
        moved = [self.engine.copy(*copy) for copy in copies if copy[-1]]
        self.steps.append(self.engine.beside([*moved, self.mark("announce", peers, self.signals)]))

    def wait(self, peers: list[int], number: int) -> None:
        self.steps.append(self.mark("await_copies", peers, number))

    def run(self, entry: str, target: int, sources: list[int], size_bytes: int) -> None:
        """Launches a kernel that sums or copies `size_bytes`. `sources` are one address a rank, in
        rank order; or the two of a ring's sum; or a single one."""
        if not size_bytes:
            return
        build, device = self.case.build, self.world.device
        arguments = Arguments.from_buffer_copy(self.arguments)
        arguments.send, arguments.receive = sources[min(self.rank, len(sources) - 1)], target
        arguments.count = size_bytes // self.case.datatype.size_bytes
        arguments.sends[: len(sources)] = sources
        blocks = device.blocks_for(size_bytes)
        self.steps.append(
            Step(
                self.module.kernel(entry, build.threads),
                arguments,
                min(blocks, build.blocks or blocks),
            )
        )

    def leave(self) -> None:
        """Ends the launch after its copies, which read this rank's buffers."""
        self.steps += [
            self.engine.join(),
            Step(self.module.kernel("leave", MARK_THREADS), self.arguments),
        ]


def two_shot(program: Program) -> None:
    """Each rank sums one segment of all inputs and pushes the sums. An inbox has a slot for each
    writer's inputs, then a slot for each owner's sums."""
    p, rank, ranks, case = program, program.rank, program.ranks, program.case
    p.enter()
    for offset in p.pieces:
        p.send(
            [
                (p.inbox(peer, rank, offset), case.send + start, size_bytes)
                for peer in p.others
                for start, size_bytes in [p.part(peer, offset)]
            ],
            p.others,
        )
    sums_after = p.signals
    for number, offset in enumerate(p.pieces, start=2):
        p.wait(p.others, number)
        start, size_bytes = p.part(rank, offset)
        inputs = [
            case.send + start if peer == rank else p.inbox(rank, peer, offset)
            for peer in range(ranks)
        ]
        p.run("add_all", case.receive + start, inputs, size_bytes)
        p.send(
            [
                (p.sums_at(peer, ranks + rank, rank, offset), case.receive + start, size_bytes)
                for peer in p.others
            ],
            p.others,
        )
    for number, offset in enumerate(p.pieces, start=sums_after + 1):
        p.wait(p.others, number)
        for owner in p.others if case.variant == "copied" else []:
            start, size_bytes = p.part(owner, offset)
            p.run("take", case.receive + start, [p.inbox(rank, ranks + owner, offset)], size_bytes)
    p.leave()


def ring(program: Program) -> None:
    """A segment makes 2 (ranks - 1) hops: `ranks - 1` until it holds the sum of all ranks, and as
    many more until all ranks have the sum. Every hop has a slot in the inbox. In round r piece k
    makes hop r - k, so a piece is copied while another is summed."""
    p, ranks = program, program.ranks
    left, right = (p.rank - 1) % ranks, (p.rank + 1) % ranks
    p.enter()
    for r in range(len(p.pieces) + 2 * ranks - 2):
        if r:
            p.wait([left], p.signals)  # left has sent as often as this rank
        copies = list[Copy]()
        for k, offset in enumerate(p.pieces):
            if 0 <= r - k <= 2 * (ranks - 1):
                copies += _ring_hop(p, r - k, offset, right)
        p.send(copies, [right])
    p.leave()


def _ring_hop(p: Program, hop: int, offset: int, right: int) -> list[Copy]:
    """What a rank does with a piece that has made `hop` hops: adds its own input to it, until the
    sum is complete, then outputs it. Returns the copy of the next hop, if there is one."""
    complete, case = p.ranks - 1, p.case
    segment = (p.rank - hop) % p.ranks
    start, size_bytes = p.part(segment, offset)
    own, output = case.send + start, case.receive + start
    if hop:
        received = p.inbox(p.rank, hop - 1, offset)
        if hop <= complete:
            entry = "add_two" if hop < complete else "add_last_two"
            p.run(entry, output, [received, own], size_bytes)
        elif case.variant == "copied":
            p.run("take", output, [received], size_bytes)
    if hop == 2 * complete:
        return []
    target = (
        p.sums_at(right, hop, segment, offset) if hop >= complete else p.inbox(right, hop, offset)
    )
    return [(target, output if hop else own, size_bytes)]


def _bind(
    assemble: Callable[[Program], None], slots: Callable[[int], int], world: World, case: Case
) -> Bound:
    peers, ranks = world.mapped, world.communicator.size
    unit = PACK_BYTES * ranks
    segment_bytes = -(-case.segment_bytes // unit) * PACK_BYTES
    # All ranks take part in these calls, so nothing before them may fail on one rank alone.
    try:
        engine = _engine(world, peers)
        inboxes = _inboxes(peers, slots(ranks) * segment_bytes)
    except Refusal as refused:
        return Unsupported(str(refused))
    arguments = peers.arguments(case.send, case.receive, case.count, 0)
    if case.variant == "registered" and not peers.locate(case.receive, arguments.receives):
        return NOT_MAPPED
    most = case.build.chunk_bytes or max(LEAST_PIECE_BYTES, -(-segment_bytes // PIECES))
    piece_bytes = -(-most // PACK_BYTES) * PACK_BYTES
    module = _module(world, build_macros(world, case))
    program = Program(
        world,
        case,
        engine,
        module,
        arguments,
        inboxes,
        segment_bytes,
        range(0, segment_bytes, piece_bytes),
    )
    assemble(program)
    step = world.device.sequence(program.steps)
    if step.entries > MOST_ENTRIES:
        return Unsupported(
            f"a launch of {step.entries} kernels, copies and events is too long "
            "for a stream: its chunks are too short"
        )
    return Operation(step, world.device.caller(step), keep=program)


def _refuses(world: World, case: Case) -> Unsupported | None:
    if refusal := without_gpus(world, "copy engines; GPUs have them"):
        return refusal
    if world.communicator.size == 1:
        return Unsupported("a single rank has no peer to copy to", depends_on_size=True)
    if case.build.stream_slab or case.build.stream_receive:
        return Unsupported("copy engines have no stores around the caches to choose")
    return None


def shared_engine(world: World) -> CopyEngine | None:
    """This rank's engines if all ranks have some; all call it."""
    if isinstance(world.peers, Unsupported):
        return None
    with suppress(Refusal):
        return _engine(world, world.peers)
    return None


def _engine(world: World, peers: PeerBuffer) -> CopyEngine:
    """This rank's engines. Raises Refusal if a rank has none."""
    with world.communicator.all_or_none(DeviceError):
        return world.device.copy_engine(peers.sharing)


def pushed(world: World, engine: CopyEngine, transfer: Transfer) -> Step:
    """This rank's part in a transfer between registered buffers, as link.cu makes it with stores,
    by the engines. Ranks without a part only launch."""
    arguments = transfer.ranks
    module = _module(world, {"WT_WORLD": str(world.communicator.size)})
    announce, await_copies, leave = (
        module.kernel(entry, MARK_THREADS) for entry in ("announce", "await_copies", "leave")
    )
    steps = list[Step]()
    if transfer.to >= 0:
        moved = engine.copy(
            int(arguments.receives[transfer.to]),
            int(arguments.send),
            FLOAT_BYTES * int(arguments.count),
        )
        signal = Step(announce, Mark(arguments, 1 << transfer.to, 1))
        steps += [engine.beside([moved, signal]), engine.join()]
    if transfer.from_ >= 0:
        steps.append(Step(await_copies, Mark(arguments, 1 << transfer.from_, 1)))
    return world.device.sequence([*steps, Step(leave, arguments)])


def pushed_to_slab(
    world: World, engine: CopyEngine, source: int, size_bytes: int
) -> tuple[Step, int]:
    """A step that copies into the next rank's slab, and its bytes: over the same place again and
    again, and less than `size_bytes` where a stream has no room for so many copies."""
    peers, ranks = world.mapped, world.communicator.size
    target = peers.slabs[(world.communicator.rank + 1) % ranks].address
    room = 2 * HALF_BYTES
    copied_bytes = min(size_bytes, MOST_ENTRIES // 2 * room)
    copies = [
        engine.copy(target, source + start, min(room, copied_bytes - start))
        for start in range(0, copied_bytes, room)
    ]
    return world.device.sequence([engine.beside(copies), engine.join()]), copied_bytes


def _module(world: World, macros: dict[str, str]) -> Module:
    return world.device.compile("allreduce_copy_engine", macros, (*PEER_STRUCTURES, Mark))


def _inboxes(peers: PeerBuffer, size_bytes: int) -> list[Memory]:
    """Every rank's inbox as mapped here; earlier cases go on with theirs. Raises Refusal."""
    if not peers.inboxes or peers.inboxes[-1][0].size_bytes < size_bytes:
        peers.inboxes.append(peers.share(size_bytes))
    return peers.inboxes[-1]


def _two_shot_traffic(ranks: int, case: Case) -> Traffic:
    others = case.segment_bytes - case.segment_bytes // ranks
    return Traffic(3, ((others, 0), (others, others)), case.segment_bytes)


def _ring_traffic(ranks: int, case: Case) -> Traffic | None:
    traffic = RING.traffic(ranks, case)
    return replace(traffic, hops=1 + traffic.hops) if traffic else traffic


by_copy_engine = partial(
    Algorithm,
    refuses=_refuses,
    registered=True,
    pushes=True,
    swaps=(),
    varies=("chunks",),
    least_bytes=LEAST_BYTES,
    is_modelled=False,
)
ALGORITHMS = {
    "all_reduce": (
        by_copy_engine(
            "two_shot_copy_engine",
            "two_shot: a GPU's copy engines make its transfers",
            partial(_bind, two_shot, lambda ranks: 2 * ranks),
            _two_shot_traffic,
        ),
        by_copy_engine(
            "ring_copy_engine",
            "ring: a GPU's copy engines make its transfers",
            partial(_bind, ring, lambda ranks: 2 * ranks - 2),
            _ring_traffic,
        ),
    )
}
