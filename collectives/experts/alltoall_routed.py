"""Routed all-to-all: tokens to their experts' ranks and back, ours and the library's; see kernels/alltoall_routed.cu.

The library exchanges records with MPI_Alltoallv, or with ncclSend and ncclRecv in one group, between kernels of ours
that make them and take them apart. It is told how much goes where. On the CPU it exchanges the counts besides, as a
program would that is not told; NCCL and RCCL do not: there a program would have to wait for its GPU.
"""

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_long
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from collectives.auto import choose_direct_pull, choosing_among
from collectives.experts.routing import Array, Routes
from collectives.library import gpu as library_gpu
from collectives.library import mpi as library
from collectives.operation import (
    Algorithm,
    Arguments,
    Case,
    Memory,
    Operation,
    Step,
    Traffic,
    Unsupported,
    World,
    attached,
    bind_kernel,
    chunk_that_fits,
    copied_or_registered,
)
from collectives.peer_buffer import HALF_BYTES
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import MOST_BLOCKS, LibraryCall, Routing

CHOICE = np.dtype([("expert", np.int32), ("place", np.int32), ("weight", np.float32)])
WAYS = ("dispatch", "combine", "round_trip")

Side = tuple[int, Array]  # where records lie, one rank's after another's, and how many bytes each rank's are
Exchange = tuple[Step, Side, Side, Step]  # a kernel, what is sent and what is got, a kernel


@dataclass
class Tables:
    """What a rank's kernels look up, in the device's memory, for one batch; every algorithm uses the same.

    `record` and `arrived`, (ranks, most tokens), say which of a library's records a token has on its way to a rank and
    from it, -1 for none; `sent` and `got`, (ranks,), how many there are.
    """

    routes: Routes
    rows: Memory
    structure: Routing
    sent: Array
    got: Array
    memories: list[Memory] = field(default_factory=list)


@dataclass(frozen=True)
class RoutedCase(Case):
    """A Case over rows: `count` elements each. `send` has this rank's tokens, where they are dispatched, and `receive`
    those that are combined; the experts' rows lie in `tables.rows`."""

    tables: Tables = field(kw_only=True)


def make_tables(world: World, routes: Routes, rows: Memory, record_bytes: int) -> Tables:
    """Fills the tables of this rank. Raises DeviceError."""
    rank, ranks, most = world.communicator.rank, routes.ranks, int(routes.tokens_of.max())
    top_k, memories = routes.chosen.shape[1], list[Memory]()

    def on_device(array: Array) -> int:
        memories.append(world.device.private(max(1, array.nbytes)))
        memories[-1].write(np.ascontiguousarray(array))
        return memories[-1].address

    came = np.zeros((ranks, most, top_k), CHOICE)
    came["place"] = -1
    for s in range(ranks):
        mine, n = routes.home == s, routes.tokens_of[s]
        came["expert"][s, :n], came["weight"][s, :n] = routes.chosen[mine], routes.weights[mine]
    token, choice = routes.rows_of(rank)
    first = np.cumsum(routes.tokens_of) - routes.tokens_of
    home = routes.home[token]
    came["place"][home, token - first[home], choice] = np.arange(len(token))

    def numbered(chosen: list[Array]) -> tuple[Array, Array]:
        """Records in the order of ranks, then of tokens: each token's, and how many a rank has."""
        numbers, counts = np.full((ranks, most), -1, np.int32), np.array([np.count_nonzero(one) for one in chosen])
        for s, one in enumerate(chosen):
            numbers[s, np.flatnonzero(one)] = counts[:s].sum() + np.arange(counts[s])
        return numbers, counts

    goes = [routes.goes_to[routes.home == s] for s in range(ranks)]
    record, sent = numbered([goes[rank][:, d] & (d != rank) for d in range(ranks)])
    arrived, got = numbered([goes[s][:, rank] & (s != rank) for s in range(ranks)])
    mine = came[rank, : routes.tokens_of[rank]].copy()
    counts = np.array([np.bincount(routes.chosen[routes.home == s].ravel(), minlength=routes.experts)
                       for s in range(ranks)])
    structure = Routing(
        tokens=int(routes.tokens_of[rank]), most_tokens=most, experts=routes.experts, top_k=top_k, most_rows=len(token),
        owner=on_device(routes.owner.astype(np.int32)), tokens_of=on_device(routes.tokens_of.astype(np.int32)),
        choices=on_device(mine), counting=on_device(np.zeros((MOST_BLOCKS, routes.experts), np.int32)),
        first=on_device(np.zeros((ranks, routes.experts), np.int32)), came=on_device(came), rows=rows.address,
        out=on_device(np.zeros(sent.sum() * record_bytes, np.uint8)),
        in_=on_device(np.zeros(got.sum() * record_bytes, np.uint8)), record=on_device(record),
        arrived=on_device(arrived), counts=on_device(counts.astype(np.int32)))
    return Tables(routes, rows, structure, sent, got, memories)


def row_stride(row_bytes: int) -> int:
    """What a row takes in a slot or a record."""
    return (row_bytes + 63) // 64 * 64


def record_bytes(row_bytes: int, top_k: int) -> int:
    """A row and its choices, as routed_records.cu has them."""
    return row_stride(row_bytes) + row_stride(top_k * CHOICE.itemsize)


def _with_routing(world: World, case: Case, arguments: Arguments, step_tokens: int = 0) -> list[object]:
    """Makes `arguments` point to the case's tables; what has to be kept."""
    assert isinstance(case, RoutedCase)
    routing = Routing.from_buffer_copy(case.tables.structure)
    routing.step_tokens = step_tokens
    return [attached(world, arguments, routing), case.tables]


def _bind(direction: str, world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, RoutedCase)
    way, routes, registered = case.shape["way"], case.tables.routes, case.variant == "registered"
    if registered and way == "combine":
        return Unsupported("a combine sums rows on their way: there is no copy to be spared")
    chunk_bytes = chunk_that_fits(world, case, HALF_BYTES / (2 * world.communicator.size))
    token_bytes = row_stride(case.segment_bytes) + routes.chosen.shape[1] * CHOICE.itemsize
    step_tokens = (chunk_bytes - 4 * routes.experts) // token_bytes
    if step_tokens < 1:
        return Unsupported(f"a row of {case.segment_bytes} B is longer than a slot of {chunk_bytes} B")
    bound = bind_kernel(world, case, "experts/alltoall_routed", f"{way}_{direction}", chunk_bytes)
    if isinstance(bound, Unsupported):
        return bound
    keep = _with_routing(world, case, bound.step.argument, step_tokens)
    step = replace(bound.step, blocks=world.device.blocks_for(chunk_bytes))  # a block takes whole tokens
    return Operation(step, world.device.caller(step), keep=keep)


def _bind_library(world: World, case: Case) -> Operation | Unsupported:
    assert isinstance(case, RoutedCase)
    tables, way, communicator = case.tables, case.shape["way"], world.communicator
    arguments = Arguments(send=case.send, receive=case.receive, count=case.count, rank=communicator.rank)
    keep = _with_routing(world, case, arguments)
    module = world.device.compile("experts/routed_records", {"WORLD": str(communicator.size),
                                                     "ELEMENT": case.datatype.element})
    blocks = world.device.blocks_for(case.segment_bytes * int(tables.routes.tokens_of.max()))
    steps = {name: Step(module.kernel(name), arguments, blocks)
             for name in ("pack_tokens", "unpack_tokens", "pack_parts", "unpack_parts")}
    size = record_bytes(case.segment_bytes, tables.routes.chosen.shape[1])
    out, in_ = (tables.structure.out, tables.sent * size), (tables.structure.in_, tables.got * size)
    there, back = (steps["pack_tokens"], out, in_, steps["unpack_tokens"]), (steps["pack_parts"], in_, out,
                                                                             steps["unpack_parts"])
    exchanges = [] if way == "combine" else [there]
    exchanges += [] if way == "dispatch" else [back]
    if not isinstance(world.device, CpuDevice):
        return library_gpu.bind_exchanges(world, exchanges, keep)
    return _bind_mpi(world, tables, exchanges, keep)


def _bind_mpi(world: World, tables: Tables, exchanges: Sequence[Exchange], keep: list[object]) -> Operation:
    """Each exchange as a kernel, [the counts,] MPI_Alltoallv, and a kernel."""
    mpi, caller = world.communicator, world.device.caller
    comm, byte, whole = (mpi.handle(name) for name in ("COMM_WORLD", "BYTE", "INT32_T"))
    experts, counts = tables.routes.experts, tables.structure.counts
    every = [mpi.mpi.memory.fromaddress(counts, 4 * experts * mpi.size), mpi.mpi.INT32_T]
    calls, from_python = list[LibraryCall](), list[Callable[[], None]]()
    for pack, out, in_, unpack in exchanges:
        found = [[np.ascontiguousarray(part, np.int32) for part in (sizes, np.cumsum(sizes) - sizes)]
                 for _, sizes in (out, in_)]
        keep.append(found)
        sides = [(address, *(part.ctypes.data for part in parts), byte)
                 for (address, _), parts in zip((out, in_), found, strict=True)]
        buffers = [[mpi.mpi.memory.fromaddress(address, int(sizes.sum())), tuple(parts), mpi.mpi.BYTE]
                   for (address, sizes), parts in zip((out, in_), found, strict=True)]
        calls.append(LibraryCall(kernel=pack.kernel.function, argument=ctypes.addressof(pack.argument)))
        from_python.append(caller(pack))
        if pack.kernel.name == "pack_tokens":
            gathered = (mpi.in_place, 0, whole, counts, experts, whole, comm)
            calls.append(LibraryCall(mpi.function("MPI_Allgather"), (c_long * 9)(*gathered)))
            from_python.append(partial(mpi.world.Allgather, mpi.mpi.IN_PLACE, every))
        calls.append(LibraryCall(mpi.function("MPI_Alltoallv"), (c_long * 9)(*sides[0], *sides[1], comm)))
        from_python.append(partial(mpi.world.Alltoallv, *buffers))
        calls.append(LibraryCall(kernel=unpack.kernel.function, argument=ctypes.addressof(unpack.argument)))
        from_python.append(caller(unpack))
    operation = library.mpi_operation(world, "All-to-all", calls, from_python)
    return replace(operation, keep=[operation.keep, keep, exchanges])


def _traffic(ranks: int, case: Case) -> Traffic:
    """What it costs the rank that has most to store and to read; and what stays at home, where that is most, is copied
    from one buffer to another: of tokens each row, of rows each token."""
    assert isinstance(case, RoutedCase)
    routes = case.tables.routes
    stays = [tokens[routes.home[tokens] == rank] for rank, (tokens, _) in enumerate(map(routes.rows_of, range(ranks)))]
    copied = max(len(np.unique(rows)) if case.shape["way"] == "combine" else len(rows) for rows in stays)
    between, row, registered = routes.between, case.segment_bytes, case.variant == "registered"
    there, back = between.sum(axis=1), between.sum(axis=0)
    busiest = int(np.argmax(there + back))
    given, taken = int(there[busiest]) * row, int(back[busiest]) * row
    dispatch = ((0, taken),) if registered else ((given, 0), (0, taken))
    combine = ((taken, 0), (0, given))
    hops, stages = {"dispatch": (1, dispatch), "combine": (1, combine), "round_trip": (2, dispatch + combine)}[
        case.shape["way"]]
    return Traffic(hops + registered, stages, copied * row)


def _plain(world: World) -> tuple[str, ...]:
    return ("graph",) if world.graph else ("plain",)


PUSH = Algorithm("direct_push", "each rank stores tokens and sums into their reader's slab", partial(_bind, "push"),
                 _traffic, pushes=True)
PULL = Algorithm("direct_pull", "each rank stores tokens and sums into its own slab, where they are read",
                 partial(_bind, "pull"), _traffic, copied_or_registered)
LIBRARY = Algorithm("library", "MPI_Alltoallv, or a group of ncclSend and ncclRecv, and kernels of ours around it",
                    _bind_library, _traffic, _plain)
ALGORITHMS = (LIBRARY, choosing_among((PUSH, PULL), choose_direct_pull), PUSH, PULL)
