"""What a block is made of: the steps of one iteration, for a case and for each part of the link."""

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import verify
from bench.sweep import CHAIN_CALLS
from collectives.collective import Array, Datatype
from collectives.operation import (
    MOST_CHUNK_BYTES,
    Case,
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

    send: np.ndarray[Any, np.dtype[np.uint8]]
    receive: np.ndarray[Any, np.dtype[np.uint8]]
    seed: int

    def case(self, size_bytes: int, datatype: Datatype, redop: str, in_place: bool) -> Case:
        receive = self.receive.ctypes.data
        return Case(size_bytes, datatype, redop, receive if in_place else self.send.ctypes.data, receive)


@dataclass
class Subject:
    """The steps of an iteration, and what the pilot finds out about them. `number` is the case's, -1 for the link's."""

    number: int
    text: str
    prepare: Step
    operation: Operation
    consume: Step
    check: Step
    calls: int = 0  # of a chain; 0: isolated
    scale: float = 1.0  # from what is timed of a link's part to the whole of it
    iteration_s: float = 0.0
    warmup: int = 1
    iterations: int = 1
    keep: list[Any] = field(default_factory=list)  # what the steps point into


def pattern_of(datatype: Datatype, address: int, size_bytes: int, table: Array, watch: Watch) -> Pattern:
    """A buffer that holds a repeated table, shifted by the iteration. The caller keeps `table`."""
    table_bytes = verify.REPEATS * verify.PERIOD * datatype.size_bytes
    data, at = table.ctypes.data, ctypes.addressof(watch)
    return Pattern(address, data, size_bytes, table_bytes, verify.PERIOD, datatype.size_bytes, 0, at)


def nothing(world: World) -> Step:
    return Step(world.device.host_kernel("nothing"), ctypes.c_long(0))


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
    table, right = verify.repeated(datatype.encode(values)), verify.repeated(result)
    macros = {"WORLD": str(min(ranks, 8)), "ELEMENT": datatype.element, "REDOP": redop.capitalize()}
    after = device.compile("link_probe", macros).kernel("chain_link" if chained else "read_own")
    count_wrong = Step(
        device.host_kernel("count_wrong"), pattern_of(datatype, case.receive, case.size_bytes, right, watch)
    )
    write = pattern_of(datatype, case.send, case.size_bytes, table, watch)
    return Subject(
        number,
        f"{planned.algorithm} {planned.size_bytes} B {planned.mode}",
        prepare=Step(device.host_kernel("write_pattern"), write),
        operation=operation,
        consume=Step(after, plain_arguments(rank, case.send, case.receive, case.count, watch)),
        check=count_wrong,
        calls=CHAIN_CALLS if chained else 0,
        keep=[table, right],
    )


def link_subjects(world: World, watch: Watch, buffers: Buffers, size_bytes: int) -> dict[str, Subject]:
    """The parts of the link at one size: copy into peer memory, read what a peer just wrote, copy through memory.

    As in an all-reduce, what is stored into has last been read by the peer, what is read has last been stored by it,
    and the caches also hold a send and a receive buffer. Beyond two chunks the slots would be stored into again before
    anybody has read them, so two chunks are timed and the rest is scaled.
    """
    assert not isinstance(world.peers, Unsupported)
    device, whole = world.device, size_bytes // 4 * 4
    kernels = device.compile("link_probe", {"WORLD": str(world.communicator.size)})
    send, receive = buffers.send.ctypes.data, buffers.receive.ctypes.data
    through_slab = min(whole, 2 * MOST_CHUNK_BYTES)
    slab = world.peers.arguments(send, receive, through_slab // 4, MOST_CHUNK_BYTES)
    copy_in, read_peer, buffers_used = (
        Step(kernels.kernel(name), slab) for name in ("copy_in", "read_peer", "copy_local")
    )
    copy_local = Step(kernels.kernel("copy_local"), world.peers.arguments(send, receive, whole // 4, MOST_CHUNK_BYTES))

    def part(timed: Step, prepare: Step, consume: Step, timed_bytes: int) -> Subject:
        return Subject(
            -1,
            f"link {timed.kernel.name} {size_bytes} B",
            prepare,
            Operation(timed, device.caller(timed)),
            consume,
            nothing(world),
            scale=size_bytes / timed_bytes,
        )

    return {
        "copy_in_us": part(copy_in, read_peer, buffers_used, through_slab),
        "peer_read_us": part(read_peer, copy_in, buffers_used, through_slab),
        "memory_us": part(copy_local, nothing(world), nothing(world), whole),
    }
