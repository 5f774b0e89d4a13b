"""NVSHMEM's reduction through NVSHMEM4Py. It works on memory of its own: a call has two copies."""

TITLE = "NVSHMEM"
DISTRIBUTION = "nvshmem4py-cu13==0.4.1"
DEVICES = "cuda"
DATATYPES = "float32", "float16", "float64", "int32", "int64"
UNVERIFIED = True

import numpy as np
import nvshmem.core as nvshmem
from cuda.core import Device, Stream


def start(world):
    device = Device(world.ordinal)
    device.set_current()
    unique = nvshmem.get_unique_id(empty=world.rank > 0)
    world.mpi.Bcast(unique._data.view(np.int8))
    nvshmem.init(
        device=device, uid=unique, rank=world.rank, nranks=world.ranks, initializer_method="uid"
    )
    return Stream.from_handle(world.stream.ptr)


def bind(case):
    send, receive = case.arrays
    source, target = (nvshmem.array((case.count,), case.datatype) for _ in range(2))

    def reduce():
        source[:] = send
        nvshmem.reduce(nvshmem.Teams.TEAM_WORLD, target, source, "sum", stream=case.started)
        receive[:] = target

    return reduce
