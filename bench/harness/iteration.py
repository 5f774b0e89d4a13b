"""What a block is made of: the steps of one iteration, for a case and for each part of the link."""

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.harness import verify
from bench.harness.sweep import CHAIN_CALLS
from collectives.collective import Array, Collective, Datatype, Shape
from collectives.operation import (
    WRONG_BYTES,
    Arguments,
    Case,
    Gate,
    Memory,
    Operation,
    Pattern,
    Step,
    Watch,
    World,
    plain_arguments,
)
from collectives.peer_buffer import PeerBuffer
from reports.result import Planned

LINK_WORD_BYTES = 4  # an element of link_probe.cu
# By whether a rank's send buffer, and its receive buffer, holds a segment for each rank.
CHAIN_LINKS = {(False, False): "chain_link", (False, True): "chain_link_gathered",
               (True, False): "chain_link_scattered", (True, True): "chain_link_exchanged"}


def in_one_place(collective: Collective, buffer: int, segment_bytes: int, rank: int) -> tuple[int, int]:
    """A rank's send and receive buffer in place: one lies within the other, where the rank's own segment has its
    place. Addresses."""
    own = buffer + (rank * segment_bytes if collective.cut else 0)
    return buffer if collective.sends_all else own, buffer if collective.receives_all else own


@dataclass
class Buffers:
    """A send and a receive buffer of this rank, as large as the largest size, and the seed of what fills them."""

    send: Memory
    receive: Memory
    seed: int

    def case(self, collective: Collective, shape: Shape, count: int, datatype: Datatype, redop: str, in_place: bool,
             variant: str, rank: int) -> Case:
        send, receive = self.send.address, self.receive.address
        if in_place:
            send, receive = in_one_place(collective, receive, count * datatype.size_bytes, rank)
        return Case(collective, count, datatype, redop, send, receive, in_place, variant, shape)


@dataclass
class Subject:
    """The steps of an iteration, and what the pilot finds out about them. `number` is the case's, -1 for the link's."""

    number: int
    text: str
    prepare: Step
    operation: Operation
    consume: Step
    check: Step
    wrong: Memory | None = None  # where the check counts
    late: Step | None = None  # on the rank that comes late, before it is stamped
    calls: int = 0  # of a chain; 0: isolated
    scale: float = 1.0  # from what is timed of a link's part to the whole of it, or to one of many
    from_python: bool = False  # called and stamped by Python, whatever the run's others are
    ranks: tuple[int, ...] = ()  # whose times count, and with whose arrival a time begins; none: everyone's
    movers: tuple[int, ...] = ()
    group: str = ""  # what has its turns close to each other, of one size
    every: int = 1  # takes part in each so manieth round
    iteration_s: float = 0.0
    warmup: int = 1
    iterations: int = 1
    keep: list[Any] = field(default_factory=list)  # what the steps point into
    by_link: Mapping[float, Operation] = field(default_factory=dict)  # `operation` in each state of the link, if it has
    waiting: Operation | None = None  # of a case with something beside it: as long, and nothing is done

    def follow_link(self, round_trip_ns: float) -> None:
        """Takes the operation for the state of the link in which a flag's round trip is nearest to this."""
        nearest = min(self.by_link, key=lambda state_ns: abs(math.log(state_ns / round_trip_ns)))
        self.operation = self.by_link[nearest]


def on_device(world: World, array: Array) -> Memory:
    """The array's bytes in the device's memory."""
    memory = world.device.private(array.nbytes)
    memory.write(array)
    return memory


def pattern_of(datatype: Datatype, address: int, segments: int, segment_bytes: int, tables: Memory, wrong: Memory,
               watch: Watch, repeats: int = verify.REPEATS) -> Pattern:
    """A buffer whose segments each hold a repeated table, shifted by the iteration; the caller keeps `tables` and
    `wrong`."""
    table_bytes, at = repeats * verify.PERIOD * datatype.size_bytes, ctypes.addressof(watch)
    return Pattern(address, tables.address, segments, segment_bytes, table_bytes, verify.PERIOD, datatype.size_bytes,
                   wrong.address, at)


def nothing(world: World, watch: Watch) -> Step:
    """A launch that does nothing."""
    gate = Gate(watch=ctypes.addressof(watch))
    return Step(world.device.compile("iteration", {}).kernel("nothing"), gate)


def late_rank(collective: Collective, shape: Shape, ranks: int) -> int | None:
    """The rank that a shape makes late: the last one that gets anything; None where none is."""
    if not shape.get("arrival_skew_us"):
        return None
    return max(rank for rank in range(ranks) if collective.receives(shape, rank, ranks))


def come_late(world: World, late_us: float) -> Step:
    """A launch that lasts so long and does nothing."""
    yields = isinstance(world.peers, PeerBuffer) and world.peers.yields
    arguments = Arguments(timeout_ns=round(1e3 * late_us), yields=yields)
    return Step(world.device.compile("iteration", {}).kernel("come_late"), arguments)


def subject_of(world: World, watch: Watch, buffers: Buffers, number: int, planned: Planned, case: Case,
               operation: Operation) -> Subject:
    """The steps of a case: write the send buffer, [the operation,] read the result or make the next send buffer."""
    rank, ranks = world.communicator.rank, world.communicator.size
    what, datatype, redop = case.collective, case.datatype, case.redop
    chained = planned.mode == "chained"
    drawn = what, datatype, redop, ranks, buffers.seed
    if chained:
        values = verify.chain_sent(*drawn)
        result = verify.chain_received(what, case.shape, *drawn[1:], case.in_place, CHAIN_CALLS,
                                       operation.summed)
    else:
        values = verify.sent(*drawn)
        result = verify.received(what, case.shape, *drawn[1:], operation.summed)
    receives = what.segments(ranks)[1] * what.receives(case.shape, rank, ranks)
    tables = datatype.encode(values)[rank], result[rank][:receives]
    read = case.count if chained else receives * case.count
    consume = plain_arguments(rank, case.send, case.receive, read, watch)
    link = CHAIN_LINKS[what.sends_all, what.receives_all] if chained else "read_own"
    subject = subject_with(world, watch, number, planned, case, operation, tables, link, consume)
    subject.keep.append(buffers)
    return subject


def subject_with(world: World, watch: Watch, number: int, planned: Planned, case: Case, operation: Operation,
                 tables: tuple[Array, Array], link: str, consume: Arguments, repeats: int = verify.REPEATS) -> Subject:
    """The steps of a case from one period of what each segment, or row, of the send and of the receive buffer has to
    hold, (segments, 31) as stored; `link` is the entry of link_probe.cu that comes after it, with its argument."""
    device, datatype = world.device, case.datatype
    sent, right = (on_device(world, verify.repeated(table, repeats)) for table in tables)
    wrong = device.private(WRONG_BYTES)
    # What is moved and not reduced, a chain passes on as it is; that is what it does with a maximum.
    macros = {"WORLD": str(min(world.communicator.size, 8)), "ELEMENT": datatype.element,
              "REDOP": case.redop.capitalize() if case.collective.reduces else "Max"}
    if not planned.library:  # whose cases are never slowed
        macros |= world.macros
    after, loop = device.compile("link_probe", macros).kernel(link), device.compile("iteration", {})
    blocks = device.blocks_for(max(map(len, tables)) * case.segment_bytes)
    patterns = [pattern_of(datatype, address, len(table), case.segment_bytes, memory, wrong, watch, repeats)
                for address, table, memory in zip((case.send, case.receive), tables, (sent, right), strict=True)]
    late = late_rank(case.collective, case.shape, world.communicator.size)
    is_late = world.communicator.rank == late
    idle = come_late(world, 0.0) if case.shape.get("beside") else None
    return Subject(
        number, f"{planned.algorithm} {planned.size_bytes} B {planned.mode}",
        prepare=Step(loop.kernel("write_pattern"), patterns[0], blocks), operation=operation,
        consume=Step(after, consume, blocks), check=Step(loop.kernel("count_wrong"), patterns[1], blocks),
        wrong=wrong, late=come_late(world, case.shape["arrival_skew_us"]) if is_late else None,
        calls=planned.calls if planned.mode == "chained" else 0,
        # Of stamps that cannot be compared only those of the late rank are without the others' waiting.
        ranks=() if late is None or world.clock_shared else (late,), keep=[sent, right], by_link=operation.by_link,
        waiting=Operation(idle, device.caller(idle)) if idle else None)


def empty_subject(world: World, watch: Watch) -> Subject:
    """An iteration whose collective does nothing: what every time contains of meeting, launching and stamping."""
    idle = nothing(world, watch)
    return Subject(-1, "nothing", idle, Operation(idle, world.device.caller(idle)), idle, idle)


def link_subjects(world: World, watch: Watch, buffers: Buffers, size_bytes: int) -> dict[str, Subject]:
    """The parts of the link at one size: copy into a slab, read what a peer just wrote, copy through memory; between
    GPUs also store into a peer's slab, which on a CPU is as near as one's own.

    As in an all-reduce, what is stored into has last been read by the peer, what is read has last been stored by it,
    and the caches also hold a send and a receive buffer. Beyond two chunks the slots would be stored into again before
    anybody has read them, so two chunks are timed and the rest is scaled.
    """
    assert isinstance(world.peers, PeerBuffer)
    device, whole = world.device, size_bytes // LINK_WORD_BYTES * LINK_WORD_BYTES
    chunk_bytes = device.most_chunk_bytes
    pages = {"SEVERAL_PAGES": "1"} if whole >= device.far_bytes else {}
    kernels = device.compile("link_probe", {"WORLD": str(world.communicator.size), **pages})
    send, receive = buffers.send.address, buffers.receive.address
    through_slab = min(whole, 2 * chunk_bytes)
    slab = world.peers.arguments(send, receive, through_slab // LINK_WORD_BYTES, chunk_bytes)
    blocks = device.blocks_for(chunk_bytes)
    copy_in, read_peer, buffers_used = (Step(kernels.kernel(name), slab, blocks)
                                        for name in ("copy_in", "read_peer", "copy_local"))
    arguments = world.peers.arguments(send, receive, whole // LINK_WORD_BYTES, chunk_bytes)
    copy_local, idle = Step(kernels.kernel("copy_local"), arguments, device.blocks_for(whole)), nothing(world, watch)

    def part(timed: Step, prepare: Step, consume: Step, timed_bytes: int) -> Subject:
        return Subject(-1, f"link {timed.kernel.name} {size_bytes} B", prepare, Operation(timed, device.caller(timed)),
                       consume, idle, scale=size_bytes / timed_bytes, keep=[buffers])

    parts = {"copy_in_us": part(copy_in, read_peer, buffers_used, through_slab),
             "peer_read_us": part(read_peer, copy_in, buffers_used, through_slab),
             "memory_us": part(copy_local, idle, idle, whole)}
    if device.name != "cpu":
        parts["push_us"] = part(Step(kernels.kernel("push_out"), slab, blocks), idle, buffers_used, through_slab)
    return parts
