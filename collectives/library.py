"""The baseline: the MPI library's own all-reduce, on the same buffers and in the same loop as ours.

What a library can reduce comes from the tables here, never from a try inside the job: asked for a type that it lacks,
one library aborts the whole job.
"""

from collectives.operation import Algorithm, Case, Operation, Traffic, Unsupported, World
from kernels.device import LibraryBarrier, LibraryCall, Step

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


def _bind(world: World, case: Case) -> Operation | Unsupported:
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

    from_python = mpi.all_reduce_caller(case.send, case.receive, case.size_bytes, type_name, op_name)
    return Operation(Step(world.device.host_kernel("call_library"), arguments), from_python, failure=failure)


def _traffic(ranks: int, size_bytes: int) -> Traffic:
    """The least that any all-reduce moves: what a rank lacks has to reach it, twice (n-1)/n of it in all."""
    each_way = 2 * size_bytes * (ranks - 1) // ranks
    return Traffic(1, ((each_way, each_way),), size_bytes)


def barrier(world: World) -> Step:
    """MPI_Barrier, for ranks that have no memory in common."""
    mpi = world.communicator
    arguments = LibraryBarrier(mpi.function("MPI_Barrier"), mpi.handle("COMM_WORLD"))
    return Step(world.device.host_kernel("call_library_barrier"), arguments)


LIBRARY = Algorithm("library", "MPI_Allreduce of the MPI library that started this", _bind, _traffic)
