"""The baseline: the collectives of the library that this machine would use, on the same buffers and in the same loop as
ours. On GPUs NCCL or RCCL; on the CPU the MPI library.

What a library can reduce comes from tables, never from a try inside the job: asked for a type that it lacks, one
library aborts the whole job.
"""

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_long
from functools import partial
from itertools import pairwise

from collectives.collective import in_turn, partner
from collectives.communicator import Communicator
from collectives.library import gpu as library_gpu
from collectives.library.nccl import open_library
from collectives.operation import Algorithm, Case, Operation, Traffic, Unsupported, World
from collectives.peer_buffer import register
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import LibraryBarrier, LibraryCall, Memory, Step

TYPES = {"float32": "FLOAT", "float64": "DOUBLE", "int32": "INT32_T", "int64": "INT64_T"}
# Beyond the standard, as measured: MPICH 5.0.2 reduces its MPIX_C_FLOAT16, and aborts on MPIX_BFLOAT16.
MPICH_5_TYPES = {"float16": "FLOAT16_T"}
# Where nothing is reduced: bits of this many bytes.
MOVED_TYPES = {2: "INT16_T", 4: "INT32_T", 8: "INT64_T"}
OPS = {"sum": "SUM", "prod": "PROD", "min": "MIN", "max": "MAX"}


def types_of(library: str) -> dict[str, str]:
    """The types that a library (`MPICH 5.0.2`) reduces, by ours: its name for each."""
    return TYPES | (MPICH_5_TYPES if library.startswith("MPICH 5.") else {})


def library_name(world: World) -> str:
    """`MPICH 5.0.2`, `NCCL 2.32.3`; without a version where a GPU's is not to be had. All ranks call it."""
    if world.device.name == "cpu":
        return world.communicator.library
    found = open_library(world)
    return {"cuda": "NCCL", "hip": "RCCL"}[world.device.name] if isinstance(found, Unsupported) else found.name


def allocate(world: World, size_bytes: int) -> Memory:
    """A buffer that every variant, ours and the library's, can use: on GPUs from NCCL's allocator where there is that,
    else memory that peers map too, if they can. All ranks call it. Raises DeviceError and Disagreement."""
    if world.device.name != "cpu" and (own := library_gpu.allocate(world, size_bytes)):
        return own
    if isinstance(world.peers, Unsupported) or world.peers.kind == "host_staged":  # a library would be slow there
        return world.device.private(size_bytes)
    return register(world.communicator, world.device, world.peers, size_bytes)


def _variants(world: World) -> tuple[str, ...]:
    return ("plain",) if world.device.name == "cpu" else library_gpu.variants(world)


def _mpi_calls(world: World, case: Case, kind: int, op: int) -> list[tuple[str, tuple[int, ...]]]:
    """The MPI functions that perform the case on this rank, one after another, with their arguments."""
    mpi, rank = world.communicator, world.communicator.rank
    comm, count, send = mpi.handle("COMM_WORLD"), case.count, mpi.in_place if case.in_place else case.send
    if case.collective.name == "all_reduce":
        return [("MPI_Allreduce", (send, case.receive, count, kind, op, comm))]
    if case.collective.name == "reduce_scatter":
        return [("MPI_Reduce_scatter_block", (send, case.receive, count, kind, op, comm))]
    if case.collective.name in ("all_gather", "alltoall"):
        name = {"all_gather": "MPI_Allgather", "alltoall": "MPI_Alltoall"}[case.collective.name]
        return [(name, (send, count, kind, case.receive, count, kind, comm))]
    if (other := partner(rank, mpi.size)) is None:
        return []
    return in_turn(case.shape, rank, ("MPI_Send", (case.send, count, kind, other, 0, comm)),
                   ("MPI_Recv", (case.receive, count, kind, other, 0, comm, mpi.status)))


def _bind(world: World, case: Case) -> Operation | Unsupported:
    if not isinstance(world.device, CpuDevice):
        return library_gpu.bind(world, case)
    mpi = world.communicator
    if case.collective.reduces:
        type_name, op_name = types_of(mpi.library).get(case.datatype.name), OPS.get(case.redop)
        if type_name is None:
            return Unsupported(f"{mpi.library} does not reduce {case.datatype.name}")
        if op_name is None:
            return Unsupported(f"MPI has no {case.redop}")
    else:
        type_name, op_name = MOVED_TYPES[case.datatype.size_bytes], "SUM"
    if case.in_place and case.collective.name == "reduce_scatter":
        return Unsupported("MPI leaves the result of an in-place reduce-scatter in the first segment, not in its own")
    calls = [LibraryCall(mpi.function(name), (c_long * 9)(*arguments))
             for name, arguments in _mpi_calls(world, case, mpi.handle(type_name), mpi.handle(op_name))]
    return mpi_operation(world, case.collective.title, calls or [LibraryCall()],
                         _from_python(mpi, case, type_name, op_name))


def mpi_operation(world: World, title: str, calls: Sequence[LibraryCall],
                  from_python: Sequence[Callable[[], None]]) -> Operation:
    """Calls of MPI one after another, and the same from Python."""
    assert isinstance(world.device, CpuDevice)
    for call, after in pairwise(calls):
        call.after = ctypes.addressof(after)

    def call_all() -> None:
        for call in from_python:
            call()

    def failure() -> str | None:
        failed = next((call.failed for call in calls if call.failed), 0)
        return f"{title} of {world.communicator.library} returned error {failed}" if failed else None

    step = Step(world.device.host_kernel("call_library"), calls[0])
    return Operation(step, call_all, failure=failure, keep=calls)


def _from_python(communicator: Communicator, case: Case, type_name: str, op_name: str) -> list[Callable[[], None]]:
    """mpi4py's calls that perform the case."""
    mpi, comm, rank = communicator.mpi, communicator.world, communicator.rank
    other = partner(rank, communicator.size)
    kind, op, in_place = getattr(mpi, type_name), getattr(mpi, op_name), mpi.IN_PLACE
    sent, received = (n * case.segment_bytes for n in case.collective.segments(communicator.size))
    target = [mpi.memory.fromaddress(case.receive, received), kind]
    source = in_place if case.in_place else [mpi.memory.fromaddress(case.send, sent), kind]
    if case.collective.name == "sendrecv":
        return [] if other is None else in_turn(case.shape, rank, partial(comm.Send, source, other),
                                                partial(comm.Recv, target, other))
    return [{"all_reduce": partial(comm.Allreduce, source, target, op),
             "reduce_scatter": partial(comm.Reduce_scatter_block, source, target, op),
             "all_gather": partial(comm.Allgather, source, target),
             "alltoall": partial(comm.Alltoall, source, target)}[case.collective.name]]


def _traffic(ranks: int, case: Case) -> Traffic:
    """The least that any form of it moves: what a rank lacks has to reach it."""
    segment, what = case.segment_bytes, case.collective
    if what.name == "sendrecv":
        return Traffic(1, ((segment, segment),), 0)
    each_way = 2 * segment * (ranks - 1) // ranks if what.name == "all_reduce" else segment * (ranks - 1)
    return Traffic(1, ((each_way, each_way),), segment)


LIBRARY = Algorithm("library", "NCCL or RCCL on GPUs; on the CPU the MPI that started this", _bind, _traffic, _variants)


def barrier(world: World) -> Step:
    """The library's barrier, for ranks that have no memory in common. Raises DeviceError where a GPU has no library."""
    if not isinstance(world.device, CpuDevice):
        return library_gpu.barrier(world)
    mpi = world.communicator
    arguments = LibraryBarrier(mpi.function("MPI_Barrier"), mpi.handle("COMM_WORLD"))
    return Step(world.device.host_kernel("call_library_barrier"), arguments)

