"""The baseline libraries: MPI on CPUs, NCCL and RCCL on GPUs; `collectives.world` opens one."""

from collectives.communicator import Communicator
from collectives.operation import Algorithm, Case, Library, Traffic, World
from kernels.devices.device import Device


def open_library(communicator: Communicator, device: Device) -> Library:
    """The baseline library for this device. All ranks call it together, once for a world."""
    # Not at the top: a run loads one device and one library.
    if device.name == "cpu":
        from collectives.library.mpi import MpiLibrary

        return MpiLibrary(communicator, device)
    from collectives.library.gpu import NcclLibrary

    return NcclLibrary(communicator, device)


def _traffic(ranks: int, case: Case) -> Traffic:
    """A lower bound for every algorithm: each rank must receive the data that it lacks."""
    each_way, own = case.collective.least_bytes(case.segment_bytes, ranks)
    return Traffic(1, ((each_way, each_way),), own)


class LibraryAlgorithm(Algorithm):
    """The library's way, in its own variants."""

    def variants(self, world: World) -> tuple[str, ...]:
        return world.library.variants(world)


LIBRARY = LibraryAlgorithm(
    "library", "NCCL or RCCL on GPUs; on the CPU the MPI that started this",
    lambda world, case: world.library.bind(world, case), _traffic)
