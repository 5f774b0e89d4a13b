"""The baseline libraries: MPI on CPUs, NCCL and RCCL on GPUs.

`open_library` alone chooses between them, for `collectives.world`; everybody else calls
`world.library`.
"""

from collectives.communicator import Communicator
from collectives.operation import Algorithm, Case, Library, Traffic
from kernels.devices.device import Device


def open_library(communicator: Communicator, device: Device) -> Library:
    """The baseline library for this device. All ranks call it together, once for a world."""
    # Not at the top: a run loads one device and one library.
    if device.name == "cpu":
        from collectives.library.mpi import MpiLibrary
        from kernels.devices.cpu import CpuDevice

        assert isinstance(device, CpuDevice)
        return MpiLibrary(communicator, device)
    from collectives.library.gpu import NcclLibrary
    from kernels.devices.gpu import GpuDevice

    assert isinstance(device, GpuDevice)
    return NcclLibrary(communicator, device)


def _traffic(ranks: int, case: Case) -> Traffic:
    """A lower bound for every algorithm: each rank must receive the data that it lacks."""
    segment, collective = case.segment_bytes, case.collective.name
    if collective == "sendrecv":
        return Traffic(1, ((segment, segment),), 0)
    total = 2 * segment * (ranks - 1)
    each_way = total // ranks if collective == "all_reduce" else total // 2
    return Traffic(1, ((each_way, each_way),), segment)


LIBRARY = Algorithm(
    "library", "NCCL or RCCL on GPUs; on the CPU the MPI that started this",
    lambda world, case: world.library.bind(world, case), _traffic,
    lambda world: world.library.variants(world))
