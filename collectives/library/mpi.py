"""MPI, the baseline on CPUs: its collectives on the same buffers and in the same loop as ours.

Tables say what MPI can reduce. Never try it inside a job: MPICH aborts the job on MPIX_BFLOAT16."""

from collections.abc import Sequence
from ctypes import c_long
from dataclasses import replace
from functools import partial

import numpy as np

from collectives.binding import run_sequence
from collectives.collective import Array, in_turn, partner
from collectives.communicator import Communicator
from collectives.operation import Bound, Case, Library, Message, Operation, Unsupported, World
from kernels.devices.cpu import CpuDevice, LibraryCall
from kernels.devices.device import Device, Step

TYPES = {
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "int32": "INT32_T",
    "int64": "INT64_T",
    "int8": "INT8_T",
    "uint8": "UINT8_T",
}
MPICH_5_TYPES = {"float16": "FLOAT16_T"}  # measured: MPICH 5.0.2 reduces its MPIX_C_FLOAT16
# By element size, without a reduction.
MOVED_TYPES = {1: "INT8_T", 2: "INT16_T", 4: "INT32_T", 8: "INT64_T"}
MOST_COUNT = 2**31 - 1  # of a C int; longer messages need MPI-4's functions MPI_..._c
OPS = {"sum": "SUM", "prod": "PROD", "min": "MIN", "max": "MAX"}

Call = tuple[str, tuple[int, ...], tuple[object, ...]]  # MPI_NAME, its arguments, those of mpi4py


def types_of(library: str) -> dict[str, str]:
    """The MPI type for each of our types that a library (`MPICH 5.0.2`) reduces."""
    return TYPES | (MPICH_5_TYPES if library.startswith("MPICH 5.") else {})


class MpiLibrary(Library):
    def __init__(self, communicator: Communicator, device: Device) -> None:
        assert isinstance(device, CpuDevice)
        self.ranks, self.device, self.name = communicator, device, communicator.library
        self.mpi, self.comm = communicator.mpi, communicator.world_handle
        self.status = self.mpi.Status()

    def among(self, communicator: Communicator) -> "MpiLibrary":
        return MpiLibrary(communicator, self.device)

    def variants(self, world: World) -> tuple[str, ...]:
        return ("plain",)

    def bind(self, world: World, case: Case) -> Bound:
        if case.collective.reduces:
            type_name, op_name = types_of(self.name).get(case.datatype.name), OPS.get(case.redop)
            if type_name is None:
                return Unsupported(f"{self.name} does not reduce {case.datatype.name}")
            if op_name is None:
                return Unsupported(f"MPI has no {case.redop}")
        else:
            type_name, op_name = MOVED_TYPES[case.datatype.size_bytes], "SUM"
        if case.count > MOST_COUNT and not self.ranks.function("MPI_Allreduce_c"):
            return Unsupported(f"{self.name} has no MPI_Allreduce_c and counts up to {MOST_COUNT}")
        if case.in_place and case.collective.name == "reduce_scatter":
            return Unsupported(
                "MPI leaves the result of an in-place reduce-scatter in the first "
                "segment, not in its own"
            )
        return run_sequence(world, self._calls(case, type_name, op_name))

    def _calls(self, case: Case, type_name: str, op_name: str) -> list[Operation]:
        mpi, comm, rank, ranks = self.mpi, self.comm, self.ranks.rank, self.ranks.size
        kind, op = map(self.ranks.handle, (type_name, op_name))
        send, receive, count = case.send, case.receive, case.count
        source, target = (
            [
                mpi.memory.fromaddress(address, segments * case.segment_bytes),
                getattr(mpi, type_name),
            ]
            for address, segments in zip(
                (send, receive), case.collective.segments(ranks), strict=True
            )
        )
        if case.in_place:
            send, source = int(mpi.IN_PLACE), mpi.IN_PLACE
        other = partner(rank, ranks)
        reduction = (
            (send, receive, count, kind, op, comm),
            (source, target, getattr(mpi, op_name)),
        )
        move = (send, count, kind, receive, count, kind, comm), (source, target)
        status = int(mpi._addressof(self.status))
        calls: dict[str, list[Call]] = {
            "all_reduce": [("Allreduce", *reduction)],
            "reduce_scatter": [("Reduce_scatter_block", *reduction)],
            "all_gather": [("Allgather", *move)],
            "alltoall": [("Alltoall", *move)],
            "sendrecv": in_turn(
                case.shape,
                rank,
                ranks,
                ("Send", (send, count, kind, other, 0, comm), (source, other)),
                ("Recv", (receive, count, kind, other, 0, comm, status), (target, other)),
            ),
        }
        suffix = "_c" * (count > MOST_COUNT)
        return [self._call(*call, suffix) for call in calls[case.collective.name]]

    def bind_exchange(
        self,
        world: World,
        send: tuple[int, Array],
        receive: tuple[int, Array],
        counts: tuple[int, int] | None = None,
    ) -> Operation:
        """MPI_Alltoallv; before it, with `counts`, the MPI_Allgather of the counts."""
        mpi, byte, int32 = self.mpi, *map(self.ranks.handle, ("BYTE", "INT32_T"))
        calls = list[Operation]()
        if counts:
            table, n = counts
            everyones = [mpi.memory.fromaddress(table, 4 * n * self.ranks.size), mpi.INT32_T]
            gather = (int(mpi.IN_PLACE), 0, int32, table, n, int32, self.comm)
            calls.append(self._call("Allgather", gather, (mpi.IN_PLACE, everyones)))
        arguments, buffers = list[int](), list[object]()
        for address, sizes in (send, receive):
            parts = [np.ascontiguousarray(n, np.int32) for n in (sizes, np.cumsum(sizes) - sizes)]
            arguments += [address, *(part.ctypes.data for part in parts), byte]
            memory = mpi.memory.fromaddress(address, int(sizes.sum()))
            buffers.append([memory, tuple(parts), mpi.BYTE])
        calls.append(self._call("Alltoallv", (*arguments, self.comm), tuple(buffers)))
        return run_sequence(world, calls)

    def bind_messages(self, world: World, groups: Sequence[Sequence[Message]]) -> Bound:
        own = max((each.size_bytes for group in groups for each in group), default=0)
        longest = max(self.ranks.all_gather(own))  # all ranks refuse, or none
        if longest > MOST_COUNT and not self.ranks.function("MPI_Send_c"):
            return Unsupported(f"{self.name} has no MPI_Send_c and counts up to {MOST_COUNT}")
        return run_sequence(world, [self._at_once(world, group) for group in groups])

    def _at_once(self, world: World, messages: Sequence[Message]) -> Operation:
        """Begins the sends, then waits for the receives, then for the sends."""
        byte, address_of = self.ranks.handle("BYTE"), self.mpi._addressof
        sends, receives, waits = list[Operation](), list[Operation](), list[Operation]()
        requests, status = [self.mpi.Request() for _ in messages], int(address_of(self.status))
        for message, request in zip(messages, requests, strict=True):
            suffix = "_c" * (message.size_bytes > MOST_COUNT)
            arguments = message.address, message.size_bytes, byte, message.peer, 0, self.comm
            if not message.is_sent:
                receives.append(self._native(f"Recv{suffix}", (*arguments, status)))
            elif len(messages) == 1:
                sends.append(self._native(f"Send{suffix}", arguments))
            else:
                handle = int(address_of(request))
                sends.append(self._native(f"Isend{suffix}", (*arguments, handle)))
                waits.append(self._native("Wait", (handle, status)))
        every = [*sends, *receives, *waits]
        return replace(run_sequence(world, every), keep=(every, requests))

    def barrier(self, world: World) -> Step:
        return self._call("Barrier", (self.comm,), ()).step

    def _call(
        self,
        name: str,
        arguments: tuple[int, ...],
        python_arguments: tuple[object, ...],
        suffix: str = "",
    ) -> Operation:
        """One call of MPI_`name`. The operation keeps `python_arguments`, the arrays of both."""
        from_python = partial(getattr(self.ranks.world, name), *python_arguments)
        native = self._native(f"{name}{suffix}", arguments)
        return replace(native, call=from_python, keep=python_arguments)

    def _native(self, name: str, arguments: tuple[int, ...]) -> Operation:
        call = LibraryCall(self.ranks.function(f"MPI_{name}"), (c_long * 9)(*arguments))

        def failure() -> str | None:
            error = call.failed
            return f"MPI_{name} of {self.name} returned error {error}" if error else None

        step = Step(self.device.loop.kernel("call_library"), call)
        return Operation(step, self.device.caller(step), failure=failure)
