"""What a block is made of: the steps of one iteration, for a case and for each part of the link."""

import ctypes
from dataclasses import dataclass, field
from typing import Any

from bench import verify
from bench.sweep import CHAIN_CALLS
from collectives.collective import Array, Datatype
from collectives.operation import (
    Case,
    Device,
    Gate,
    Memory,
    Operation,
    Pattern,
    Step,
    Unsupported,
    Watch,
    World,
    plain_arguments,
)
from reports.result import Planned


@dataclass
class Buffers:
    """A send and a receive buffer of this rank, as large as the largest size, and the seed of what fills them."""

    send: Memory
    receive: Memory
    seed: int

    def case(self, size_bytes: int, datatype: Datatype, redop: str, in_place: bool, variant: str) -> Case:
        send, receive = self.send.address, self.receive.address
        return Case(size_bytes, datatype, redop, receive if in_place else send, receive, variant)


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
    calls: int = 0  # of a chain; 0: isolated
    scale: float = 1.0  # from what is timed of a link's part to the whole of it
    iteration_s: float = 0.0
    warmup: int = 1
    iterations: int = 1
    keep: list[Any] = field(default_factory=list)  # what the steps point into


def on_device(device: Device, array: Array) -> Memory:
    """The array's bytes in the device's memory."""
    memory = device.private(array.nbytes)
    memory.write(array)
    return memory


def pattern_of(
    datatype: Datatype, address: int, size_bytes: int, table: Memory, wrong: Memory, watch: Watch
) -> Pattern:
    """A buffer that holds a repeated table, shifted by the iteration; the caller keeps `table` and `wrong`."""
    table_bytes, at = verify.REPEATS * verify.PERIOD * datatype.size_bytes, ctypes.addressof(watch)
    return Pattern(
        address, table.address, size_bytes, table_bytes, verify.PERIOD, datatype.size_bytes, wrong.address, at
    )


def nothing(world: World, watch: Watch) -> Step:
    """A launch that does nothing."""
    gate = Gate(watch=ctypes.addressof(watch))
    return Step(world.device.compile("timed_loop", {}).kernel("nothing"), gate)


def subject_of(
    world: World, watch: Watch, buffers: Buffers, number: int, planned: Planned, case: Case, operation: Operation
) -> Subject:
    """The steps of a case: write the send buffer, [the operation,] read the result or make the next send buffer."""
    device, rank, ranks, seed = world.device, world.communicator.rank, world.communicator.size, buffers.seed
    datatype, redop = case.datatype, case.redop
    chained = planned.mode == "chained"
    if chained:
        values = verify.chain_table(datatype, redop, rank, ranks, seed)
        result = verify.chain_expected(datatype, redop, rank, ranks, seed, case.in_place)
    else:
        values = verify.rank_table(datatype, redop, rank, seed)
        result = verify.expected_table(datatype, redop, ranks, seed)
    table, right = (on_device(device, verify.repeated(t)) for t in (datatype.encode(values), result))
    wrong = device.private(8)
    macros = {"WORLD": str(min(ranks, 8)), "ELEMENT": datatype.element, "REDOP": redop.capitalize()}
    after = device.compile("link_probe", macros).kernel("chain_link" if chained else "read_own")
    loop, blocks = device.compile("timed_loop", {}), device.blocks_for(case.size_bytes)
    sent = pattern_of(datatype, case.send, case.size_bytes, table, wrong, watch)
    got = pattern_of(datatype, case.receive, case.size_bytes, right, wrong, watch)
    return Subject(
        number,
        f"{planned.algorithm} {planned.size_bytes} B {planned.mode}",
        prepare=Step(loop.kernel("write_pattern"), sent, blocks),
        operation=operation,
        consume=Step(after, plain_arguments(rank, case.send, case.receive, case.count, watch), blocks),
        check=Step(loop.kernel("count_wrong"), got, blocks),
        wrong=wrong,
        calls=CHAIN_CALLS if chained else 0,
        keep=[table, right],
    )


def empty_subject(world: World, watch: Watch) -> Subject:
    """An iteration whose collective does nothing: what every time contains of meeting, launching and stamping."""
    idle = nothing(world, watch)
    return Subject(-1, "nothing", idle, Operation(idle, world.device.caller(idle)), idle, idle)


def link_subjects(world: World, watch: Watch, buffers: Buffers, size_bytes: int) -> dict[str, Subject]:
    """The parts of the link at one size: copy into peer memory, read what a peer just wrote, copy through memory.

    As in an all-reduce, what is stored into has last been read by the peer, what is read has last been stored by it,
    and the caches also hold a send and a receive buffer. Beyond two chunks the slots would be stored into again before
    anybody has read them, so two chunks are timed and the rest is scaled.
    """
    assert not isinstance(world.peers, Unsupported)
    device, whole = world.device, size_bytes // 4 * 4
    chunk_bytes = device.most_chunk_bytes
    kernels = device.compile("link_probe", {"WORLD": str(world.communicator.size)})
    send, receive = buffers.send.address, buffers.receive.address
    through_slab = min(whole, 2 * chunk_bytes)
    slab = world.peers.arguments(send, receive, through_slab // 4, chunk_bytes)
    blocks = device.blocks_for(chunk_bytes)
    copy_in, read_peer, buffers_used = (
        Step(kernels.kernel(name), slab, blocks) for name in ("copy_in", "read_peer", "copy_local")
    )
    arguments = world.peers.arguments(send, receive, whole // 4, chunk_bytes)
    copy_local, idle = Step(kernels.kernel("copy_local"), arguments, device.blocks_for(whole)), nothing(world, watch)

    def part(timed: Step, prepare: Step, consume: Step, timed_bytes: int) -> Subject:
        return Subject(
            -1,
            f"link {timed.kernel.name} {size_bytes} B",
            prepare,
            Operation(timed, device.caller(timed)),
            consume,
            idle,
            scale=size_bytes / timed_bytes,
        )

    return {
        "copy_in_us": part(copy_in, read_peer, buffers_used, through_slab),
        "peer_read_us": part(read_peer, copy_in, buffers_used, through_slab),
        "memory_us": part(copy_local, idle, idle, whole),
    }
