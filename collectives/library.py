"""The baseline: the all-reduce of the library that this machine would use, on the same buffers and in the same loop as
ours. On GPUs NCCL or RCCL; on the CPU the MPI library.

What a library can reduce comes from tables, never from a try inside the job: asked for a type that it lacks, one
library aborts the whole job.
"""

from collectives import library_gpu
from collectives.nccl import open_library
from collectives.operation import Algorithm, Case, Operation, Traffic, Unsupported, World
from kernels.device import LibraryBarrier, LibraryCall, Memory, Step
from kernels.device_cpu import CpuDevice

TYPES = {"float32": "FLOAT", "float64": "DOUBLE", "int32": "INT32_T", "int64": "INT64_T"}
# Beyond the standard: measured with the library named. MPICH 5.0.2 reduces its MPIX_C_FLOAT16 and aborts on
# MPIX_BFLOAT16.
EXTRA_TYPES = {("MPICH", 5): {"float16": "FLOAT16_T"}}
OPS = {"sum": "SUM", "prod": "PROD", "min": "MIN", "max": "MAX"}


def types_of(library: str) -> dict[str, str]:
    """The types that a library (`MPICH 5.0.2`) reduces, by ours: its name for each."""
    name, version = library.rsplit(" ", 1)
    major = int(version.split(".")[0]) if version[0].isdigit() else 0
    return TYPES | EXTRA_TYPES.get((name, major), {})


def library_name(world: World) -> str:
    """`MPICH 5.0.2`, `NCCL 2.32.3`; without a version where a GPU's is not to be had. All ranks call it."""
    if world.device.name == "cpu":
        return world.communicator.library
    found = open_library(world)
    return {"cuda": "NCCL", "hip": "RCCL"}[world.device.name] if isinstance(found, Unsupported) else found.name


def allocate(world: World, size_bytes: int) -> Memory:
    """A buffer that every variant, ours and the library's, can use. All ranks call it. Raises DeviceError."""
    own = None if world.device.name == "cpu" else library_gpu.allocate(world, size_bytes)
    return own or world.device.private(size_bytes)


def _bind(world: World, case: Case) -> Operation | Unsupported:
    return _bind_mpi(world, case) if world.device.name == "cpu" else library_gpu.bind(world, case)


def _variants(world: World) -> tuple[str, ...]:
    return ("plain",) if world.device.name == "cpu" else library_gpu.variants(world)


def _bind_mpi(world: World, case: Case) -> Operation | Unsupported:
    mpi = world.communicator
    type_name, op_name = types_of(mpi.library).get(case.datatype.name), OPS.get(case.redop)
    if type_name is None:
        return Unsupported(f"{mpi.library} does not reduce {case.datatype.name}")
    if op_name is None:
        return Unsupported(f"MPI has no {case.redop}")
    send = mpi.in_place if case.in_place else case.send
    arguments = LibraryCall(
        mpi.function("MPI_Allreduce"),
        send,
        case.receive,
        case.count,
        mpi.handle(type_name),
        mpi.handle(op_name),
        mpi.handle("COMM_WORLD"),
        0,
    )

    def failure() -> str | None:
        return f"MPI_Allreduce returned error {arguments.failed}" if arguments.failed else None

    assert isinstance(world.device, CpuDevice)
    from_python = mpi.all_reduce_caller(case.send, case.receive, case.size_bytes, type_name, op_name)
    return Operation(Step(world.device.host_kernel("call_library"), arguments), from_python, failure=failure)


def _traffic(ranks: int, size_bytes: int) -> Traffic:
    """The least that any all-reduce moves: what a rank lacks has to reach it, twice (n-1)/n of it in all."""
    each_way = 2 * size_bytes * (ranks - 1) // ranks
    return Traffic(1, ((each_way, each_way),), size_bytes)


def barrier(world: World) -> Step:
    """The library's barrier, for ranks that have no memory in common. Raises DeviceError where a GPU has no library."""
    if not isinstance(world.device, CpuDevice):
        return library_gpu.barrier(world)
    mpi = world.communicator
    arguments = LibraryBarrier(mpi.function("MPI_Barrier"), mpi.handle("COMM_WORLD"))
    return Step(world.device.host_kernel("call_library_barrier"), arguments)


LIBRARY = Algorithm("library", "NCCL or RCCL on GPUs; on the CPU the MPI that started this", _bind, _traffic, _variants)
