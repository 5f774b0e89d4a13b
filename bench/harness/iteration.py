"""One iteration of a case: its steps, and when it runs. `timing` gives its actions to the
native loop of a CPU, or to the stream of a GPU."""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bench.harness import verify
from bench.harness.verify import MARGINS, SEND, SLAB_MARGIN
from collectives.collective import Array
from collectives.copy_engine import LEAST_BYTES, pushed_to_slab
from collectives.operation import MARGIN_BYTES, CollectiveCase, Operation, World
from kernels.devices.device import (
    MOST_RANKS,
    NEXT_ITERATION,
    WRONG_BYTES,
    Action,
    Arguments,
    CopyEngine,
    Gate,
    Memory,
    Pattern,
    Phase,
    Step,
    Wrong,
)

WORD_BYTES = 4  # an element of link_probe.cu, where no case sets another
STREAMED_BYTES = 8 << 20  # through memory; below, non-temporal stores take longer
FAR_BYTES = 2 << 20  # where a CPU core walks several pages at once: 1.0-1.1x; 0.9x at 256 KiB
CHAIN_CALLS = 160  # all-reduces of one token of a 70B model: 80 layers, two each
ARRIVED, LEFT, BEGUN, DONE = range(4)  # columns of the stamps


@dataclass
class Iteration:
    """The steps of one iteration. An isolated iteration writes the send buffer, meets the other
    ranks, and times `operation` and then `consume`. A chained one (`chain_calls` > 0) times a chain
    of `consume` alone and a chain of operation and `consume`, each after a barrier.

    One `from_host` times only the operation, which the host submits, and the wait for its end.

    `number` is the case's, -1 for a part of the link. Only the times of `ranks` count, from the
    arrival of `movers` on; empty means all ranks.

    Blocks of one `group` take turns close together, in every `every`-th round. The pilot measures
    `duration_s`, the time of one iteration, and the `warmup`; `count` are the timed iterations of a
    block. Rank 0 has their medians, `usual_us`, and the `samples` of all if the user wants them.
    `least_s` is the shortest time of an iteration that any launch on this rank had on average.
    A check compares `n_checked` elements of a result on this rank."""

    text: str
    prepare: Step
    operation: Operation
    consume: Step
    check: Step
    number: int = -1
    work: int = 0  # those of one work are compared
    wrong: Memory | None = None
    n_checked: int = 0
    fill_margins: Step | None = None  # once a block: other cases write there
    late: Step | None = None  # delays this rank between the barrier and its first stamp
    chain_calls: int = 0
    from_host: bool = False
    scale: float = 1.0  # from the timed part of a transfer to all of it
    ranks: tuple[int, ...] = ()
    movers: tuple[int, ...] = ()
    keep: list[Any] = field(default_factory=list)  # objects that the steps point into
    group: str = ""
    every: int = 1
    duration_s: float = 0.0
    least_s: float = math.inf
    warmup: int = 1
    count: int = 1
    usual_us: list[float] = field(default_factory=list)
    samples: list[Array] = field(default_factory=list)

    def read_wrong(self) -> Wrong:
        """What the check has counted on this rank."""
        assert self.wrong
        return Wrong.from_buffer_copy(bytes(self.wrong.read()))

    def actions(self, meet: Step) -> list[Action]:
        """The one description of an iteration, which both executors follow."""
        begin = [Action(self.prepare, Phase.PREPARE), Action(meet, Phase.MEET)]
        consume = Action(self.consume, Phase.CONSUME)
        launch = self.operation.step
        if not self.chain_calls:
            late = [Action(self.late, Phase.MEET)] if self.late else []
            return [
                NEXT_ITERATION,
                *begin,
                *late,
                stamp(ARRIVED),
                Action(launch, Phase.OPERATION),
                stamp(LEFT),
                consume,
                stamp(DONE),
            ]
        # The chain without collectives runs first: in place it overwrites the send buffer.
        alone = [stamp(BEGUN), *[consume] * self.chain_calls, stamp(DONE)]
        chain = [
            action
            for call in range(1, self.chain_calls + 1)
            for action in (Action(launch, Phase.OPERATION, call=call), consume)
        ]
        return [NEXT_ITERATION, *begin, *alone, *begin, stamp(ARRIVED), *chain, stamp(LEFT)]


def stamp(column: int) -> Action:
    """Stores the time."""
    return Action(phase=Phase.OPERATION, stamp=column)


@dataclass
class Buffers:
    """A send and a receive buffer of this rank, each large enough for every case between margins,
    and the seed."""

    send: Memory
    receive: Memory
    seed: int
    margin_bytes: int = field(default=0, kw_only=True)

    def place(self, world: World, case: CollectiveCase) -> CollectiveCase:
        """The case in these buffers, with its size; in place, the smaller buffer is this rank's own
        segment of the larger one."""
        collective, whole = case.collective, self.receive.address + self.margin_bytes
        send, receive = self.send.address + self.margin_bytes, whole
        if case.in_place:
            own = whole + (world.rank * case.segment_bytes if collective.cut else 0)
            send = whole if collective.sends_all else own
            receive = whole if collective.receives_all else own
        size_bytes = case.segment_bytes * (world.ranks if collective.cut else 1)
        return replace(case, send=send, receive=receive, size_bytes=size_bytes)


def own_buffers(world: World, memories: Sequence[Memory]) -> list[Memory]:
    """A buffer from the library's allocator in place of each, if it has one. Raises DeviceError."""
    return [world.library.allocate_own(memory.size_bytes) or memory for memory in memories]


def allocated(world: World, seed: int, size_bytes: int, margin_bytes: int = 0) -> list[Buffers]:
    """Two buffers for ours, and two for the library, from its own allocator if it has one; the size
    is with both margins. Raises Refusal."""
    with world.communicator.all_or_none():
        memories = [world.allocate(size_bytes) for _ in range(2)]
        own = own_buffers(world, memories)
    return [
        Buffers(send, receive, seed, margin_bytes=margin_bytes) for send, receive in (memories, own)
    ]


def note_time(world: World, address: int) -> Step:
    """A launch that stores the device's clock there, 8 bytes in ns: durations on this rank, and no
    more. Of AMD's gfx90a it counts 25 MHz as 100."""
    return world.device.loop_step("note_time", Arguments(receive=address))


@dataclass(frozen=True)
class Segments:
    """A buffer whose segments each repeat a table; `tables` has one period of each, encoded."""

    address: int
    segment_bytes: int
    tables: Array


def nothing(world: World) -> Step:
    """A launch that does nothing."""
    return world.device.loop_step("nothing", Gate(watch=ctypes.addressof(world.watch)))


def come_late(world: World, delay_ns: int = 0) -> Step:
    """A launch that only waits, and so delays this rank."""
    arguments = Arguments(timeout_ns=delay_ns, yields=world.oversubscribed)
    return world.device.loop_step("come_late", arguments)


def case_iteration(
    world: World,
    buffers: Buffers,
    case: CollectiveCase,
    operation: Operation,
    chain_calls: int = 0,
) -> Iteration:
    """The iteration of a collective: write the send buffer, perform it, and read the result or, in
    a chain, make the next send buffer from it. Raises DeviceError."""
    if operation.own_case:  # nobody knows what lies around it
        case, buffers = operation.own_case, replace(buffers, margin_bytes=0)
    rank, ranks, collective = world.rank, world.ranks, case.collective
    data = verify.Data(
        collective,
        case.datatype,
        case.redop,
        ranks,
        buffers.seed,
        operation.expected_sum,
        operation.ignores_nan,
    )
    sends, receives = collective.segments(ranks)
    if not collective.sends(case.shape, rank):
        sends = 0
    if not collective.receives(case.shape, rank, ranks):
        receives = 0
    values, result = data.sent(), data.received(case.shape)
    if chain_calls:
        values = data.chain_sent()
        result = data.chain_received(case.shape, case.in_place, chain_calls)
    sent = Segments(case.send, case.segment_bytes, case.datatype.encode(values)[rank][:sends])
    received = Segments(case.receive, case.segment_bytes, result[rank][:receives])
    iteration = checked_iteration(world, case, operation, sent, received, buffers)
    if chain_calls:
        strides = (
            case.segment_bytes if collective.sends_all else 0,
            case.segment_bytes if collective.receives_all else 0,
        )
        iteration.chain_calls = chain_calls
        iteration.consume = consume_step(world, case, "chain_link", case.count, strides)
    return iteration


def consume_step(
    world: World, case: CollectiveCase, entry: str, count: int, strides: tuple[int, int] = (0, 0)
) -> Step:
    """An entry of link_probe.cu over `count` elements of a case's buffers; of all their segments,
    if they are these bytes apart."""
    ranks, watch = world.ranks, ctypes.addressof(world.watch)
    arguments = Arguments(case.send, case.receive, count, *strides, rank=world.rank, watch=watch)
    # Non-reducing collectives use Max: chain_link then copies its input unchanged.
    redop = case.redop.capitalize() if case.collective.reduces else "Max"
    moved_bytes = count * case.datatype.size_bytes * (ranks if any(strides) else 1)
    return world.device.step(
        "link_probe",
        entry,
        arguments,
        world.device.blocks_for(moved_bytes),
        WT_WORLD=min(ranks, MOST_RANKS),
        WT_ELEMENT=case.datatype.element,
        WT_REDOP=redop,
    )


def checked_iteration(
    world: World,
    case: CollectiveCase,
    operation: Operation,
    inputs: Segments,
    outputs: Segments,
    owner: object,
) -> Iteration:
    """Writes inputs, performs the operation, reads and checks outputs, and that out of place the
    inputs, and margins that `owner` has, are as before. Raises DeviceError."""
    device, size = world.device, case.datatype.size_bytes
    wrong = device.private(WRONG_BYTES)
    elements = len(outputs.tables) * outputs.segment_bytes // size
    most_bytes = max(len(part.tables) * part.segment_bytes for part in (inputs, outputs))
    blocks, keep = device.blocks_for(most_bytes), [owner, wrong]

    def over(part: Segments, entry: str, place: int) -> Step:
        # The periods of a table can start anywhere in the first one.
        repeats = verify.REPEATS if len(part.tables) < verify.REPEATS else verify.FEW_REPEATS
        table = device.store(np.tile(part.tables, repeats + 1))
        keep.append(table)
        pattern = Pattern(
            part.address,
            table.address,
            len(part.tables),
            part.segment_bytes,
            repeats * verify.PERIOD * size,
            verify.PERIOD,
            size,
            wrong.address,
            ctypes.addressof(world.watch),
            place,
        )
        return device.loop_step(entry, pattern, blocks)

    write = over(inputs, "write_pattern", SEND)
    check = over(outputs, "count_wrong", 0)
    checks, fills = [check], list[Step]()
    if not case.in_place:
        if case.mode == "chained":  # its calls have overwritten the inputs: one more
            checks += [write, operation.step]
        checks.append(replace(write, function=check.function))
    if isinstance(owner, Buffers) and owner.margin_bytes:
        # In front of and behind the case's buffers, where nobody may write, lies the inputs' table,
        # shifted. So these areas differ, also between ranks, and a copy that is too long shows.
        sizes = [count * case.segment_bytes for count in case.collective.segments(world.ranks)]
        areas = [*zip(sizes, (case.send, case.receive), MARGINS, strict=True)]
        if case.in_place:  # the smaller buffer lies in the larger one
            areas = [max(areas)]
        starts = [(SLAB_MARGIN, margin) for margin in operation.margins]
        for size_bytes, buffer, front in areas:
            starts += [(front, buffer - MARGIN_BYTES), (front + 1, buffer + size_bytes)]
        for place, start in starts:
            area = Pattern.from_buffer_copy(write.argument)
            area.buffer, area.segments, area.segment_bytes = start, 1, MARGIN_BYTES
            area.tables += place * size
            area.period, area.place = 1, place
            fills.append(replace(write, argument=area))
        checks += [replace(fill, function=check.function) for fill in fills]
    consume = consume_step(world, case, "read_own", elements)
    return Iteration(
        "",
        write,
        operation,
        consume,
        device.sequence(checks),
        wrong=wrong,
        n_checked=elements,
        fill_margins=device.sequence(fills),
        keep=keep,
    )


def link_parts(
    world: World, buffers: Buffers, size_bytes: int, engine: CopyEngine | None
) -> dict[str, Iteration]:
    """The parts of the bound at one size, by the fields of a LinkBlock; none below a word. Raises
    DeviceError.

    copy_in_us    a rank copies into its slab
    peer_read_us  it reads what a peer has just stored into its own; not where no read is routed
    memory_us     it copies through memory
    memory_nt_us  it does so by non-temporal stores: long messages of CPU cores
    push_us       it stores into a peer's slab: GPUs
    engine_us     its copy engine does, where there is one and it can pay

    As in an all-reduce, a slot is stored into after the peer has read it and read after the peer
    has stored into it, and the caches also hold a send and a receive buffer. At most two chunks are
    timed, and the result is scaled: a third would overwrite a slot that no peer has read. An
    engine's copies are as many as a stream has room for."""
    if size_bytes < WORD_BYTES:
        return {}
    device, peers = world.device, world.mapped
    copied_bytes = size_bytes // WORD_BYTES * WORD_BYTES
    chunk_bytes = min(device.most_chunk_bytes, peers.half_bytes // 2)
    through_slab = min(copied_bytes, 2 * chunk_bytes)
    is_far = device.is_cpu and copied_bytes >= FAR_BYTES
    macros = {"WT_WORLD": world.ranks} | ({"WT_SEVERAL_PAGES": 1} if is_far else {})

    def step(entry: str, timed_bytes: int, pass_bytes: int, **stores: int) -> Step:
        arguments = peers.arguments(
            buffers.send.address, buffers.receive.address, timed_bytes // WORD_BYTES, chunk_bytes
        )
        blocks = device.blocks_for(pass_bytes)
        return device.step("link_probe", entry, arguments, blocks, **macros, **stores)

    def part(timed: Step, prepare: Step, consume: Step, timed_bytes: int) -> Iteration:
        return Iteration(
            f"link {timed.name} {size_bytes} B",
            prepare,
            Operation(timed),
            consume,
            idle,
            scale=size_bytes / timed_bytes,
            keep=[buffers],
        )

    idle = nothing(world)
    has_reads = not peers.shown.no_reads
    copy_in, push_out, use_buffers = (
        step(entry, through_slab, chunk_bytes) for entry in ("copy_in", "push_out", "copy_local")
    )
    read_peer = step("read_peer", through_slab, chunk_bytes) if has_reads else idle
    copy_local = step("copy_local", copied_bytes, copied_bytes)
    parts = {
        "copy_in_us": part(copy_in, read_peer, use_buffers, through_slab),
        "memory_us": part(copy_local, idle, idle, copied_bytes),
    }
    if has_reads:
        parts["peer_read_us"] = part(read_peer, copy_in, use_buffers, through_slab)
    if device.is_cpu and copied_bytes >= STREAMED_BYTES:
        copy_around = step("copy_local", copied_bytes, copied_bytes, WT_STREAM_RECEIVE=1)
        parts["memory_nt_us"] = part(copy_around, idle, idle, copied_bytes)
    if not device.is_cpu:
        parts["push_us"] = part(push_out, idle, use_buffers, through_slab)
    if engine and size_bytes >= LEAST_BYTES:
        by_engine, pushed_bytes = pushed_to_slab(world, engine, buffers.send.address, size_bytes)
        parts["engine_us"] = part(by_engine, idle, use_buffers, pushed_bytes)
    return parts
