"""MPI, the baseline on CPUs: its collectives on the same buffers and in the same loop as ours.

Tables say what MPI can reduce. Never try it inside a job: MPICH aborts the job on MPIX_BFLOAT16."""

import ctypes
from collections.abc import Sequence
from ctypes import c_long

import numpy as np

from collectives.binding import run_sequence
from collectives.collective import Array, ordered, partner
from collectives.communicator import Communicator
from collectives.operation import (
    Bound,
    CollectiveCase,
    Library,
    Message,
    Operation,
    Parts,
    Unsupported,
    World,
)
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
MOST_COUNT = 2**31 - 1  # of a C int

Call = tuple[str, tuple[int, ...]]  # a function without its MPI_, and its arguments


def types_of(library: str) -> dict[str, str]:
    """The MPI type for each of our types that a library (`MPICH 5.0.2`) reduces."""
    return TYPES | (MPICH_5_TYPES if library.startswith("MPICH 5.") else {})


class MpiLibrary(Library):
    def __init__(self, communicator: Communicator, device: Device) -> None:
        assert isinstance(device, CpuDevice)
        self.ranks, self.device, self.name = communicator, device, communicator.library
        self.mpi, self.comm = communicator.mpi, int(communicator.mpi._handleof(communicator.world))
        self.status = self.mpi.Status()  # its address stands in the calls
        self.status_address = int(self.mpi._addressof(self.status))

    def among(self, communicator: Communicator) -> "MpiLibrary":
        return MpiLibrary(communicator, self.device)

    def variants(self, world: World) -> tuple[str, ...]:
        return ("plain",)

    def _handle(self, name: str) -> int:
        """The C handle of `FLOAT`, `SUM`, ...: 4 bytes in MPICH, 8 in Open MPI."""
        return int(self.mpi._handleof(getattr(self.mpi, name)))

    def bind(self, world: World, case: CollectiveCase) -> Bound:
        count, type_name, op_name = case.segment_bytes, "BYTE", "SUM"
        if case.collective.reduces:
            count = case.count
            if not (type_name := types_of(self.name).get(case.datatype.name, "")):
                return Unsupported(f"{self.name} does not reduce {case.datatype.name}")
            if case.redop == "avg":
                return Unsupported("MPI has no avg")
            op_name = case.redop.upper()
        if count > MOST_COUNT:
            return Unsupported(f"MPI counts up to {MOST_COUNT}")
        if case.in_place and case.collective.name == "reduce_scatter":
            return Unsupported(
                "MPI leaves the result of an in-place reduce-scatter in the first "
                "segment, not in its own"
            )
        kind, op = map(self._handle, (type_name, op_name))
        send = int(self.mpi.IN_PLACE) if case.in_place else case.send
        reduction = send, case.receive, count, kind, op, self.comm
        move = send, count, kind, case.receive, count, kind, self.comm
        rank, ranks = self.ranks.rank, self.ranks.size
        message = count, kind, partner(rank, ranks), 0, self.comm
        calls: dict[str, list[Call]] = {
            "all_reduce": [("Allreduce", reduction)],
            "reduce_scatter": [("Reduce_scatter_block", reduction)],
            "all_gather": [("Allgather", move)],
            "alltoall": [("Alltoall", move)],
            "sendrecv": ordered(
                case.shape,
                rank,
                ranks,
                ("Send", (send, *message)),
                ("Recv", (case.receive, *message, self.status_address)),
            ),
        }
        named = calls[case.collective.name]
        return run_sequence(world, [self._call(name, *arguments) for name, arguments in named])

    def bind_exchange(self, world: World, send: Parts, receive: Parts) -> Operation:
        """MPI_Alltoallv."""
        byte = self._handle("BYTE")
        arguments, arrays = list[int](), list[Array]()
        for address, sizes in (send, receive):
            parts = [np.ascontiguousarray(n, np.int32) for n in (sizes, np.cumsum(sizes) - sizes)]
            arguments += [address, *(part.ctypes.data for part in parts), byte]
            arrays += parts
        return self._call("Alltoallv", *arguments, self.comm, keep=arrays)

    def bind_messages(self, world: World, groups: Sequence[Sequence[Message]]) -> Bound:
        own = max((each.size_bytes for group in groups for each in group), default=0)
        if max(self.ranks.all_gather(own)) > MOST_COUNT:  # all ranks refuse, or none
            return Unsupported(f"MPI counts up to {MOST_COUNT}")
        return run_sequence(world, [self._group(world, group) for group in groups])

    def _group(self, world: World, messages: Sequence[Message]) -> Bound:
        """Begins the sends, then waits for the receives, then for the sends."""
        sends, receives, waits = list[Operation](), list[Operation](), list[Operation]()
        for message in messages:
            byte = self._handle("BYTE")
            arguments = message.address, message.size_bytes, byte, message.peer, 0, self.comm
            if message.is_sent:
                request = self.mpi.Request()
                handle = int(self.mpi._addressof(request))
                sends.append(self._call("Isend", *arguments, handle, keep=request))
                waits.append(self._call("Wait", handle, self.status_address))
            else:
                receives.append(self._call("Recv", *arguments, self.status_address))
        return run_sequence(world, [*sends, *receives, *waits])

    def barrier(self, world: World) -> Step:
        return self._call("Barrier", self.comm).step

    def _call(self, name: str, *arguments: int, keep: object = None) -> Operation:
        """A call of MPI_`name`; `keep` is what its arguments point into."""
        function = self.device.function(ctypes.CDLL(self.mpi.__file__), f"MPI_{name}")
        call = LibraryCall(function, (c_long * 9)(*arguments))
        call.keep(keep)

        def failure() -> str | None:
            error = call.failed
            return f"MPI_{name} of {self.name} returned error {error}" if error else None

        step = Step(name, self.device.function(self.device.loop, "call_library"), call)
        return Operation(step, failure=failure)
