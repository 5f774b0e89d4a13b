"""`torch.distributed` through the MPI that started the ranks."""

import importlib
import time
from datetime import timedelta
from typing import Any

from mpi4py import MPI

TIMEOUT_S = 1.5


class Group(MPI.Intracomm):
    group_name = "0"


def __getattr__(name: str) -> Any:
    if name != "_symmetric_memory":
        raise AttributeError(name)
    return importlib.import_module("torch._symmetric_memory")


class group:
    WORLD: Any = None


def is_initialized() -> bool:
    return group.WORLD is not None


def init_process_group(
    backend: str | None = None,
    init_method: str | None = None,
    timeout: timedelta | None = None,
    world_size: int = -1,
    rank: int = -1,
    store: Any = None,
) -> None:
    assert backend == "gloo"
    assert init_method
    assert init_method.startswith("tcp://127.0.0.1:")
    assert timeout
    assert (world_size, rank) == (MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank)
    group.WORLD = Group(MPI.COMM_WORLD.Dup())


def get_rank(group: Any = None) -> int:
    return MPI.COMM_WORLD.rank


def get_world_size(group: Any = None) -> int:
    return MPI.COMM_WORLD.size


def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """As in gloo, ranks that wait for a failed one time out, here soon."""
    ranks, end_s = range(group.size), time.monotonic() + TIMEOUT_S
    requests = [group.isend(obj, rank) for rank in ranks]
    received = [group.irecv(source=rank) for rank in ranks]
    objects: dict[int, Any] = {}
    while len(objects) < group.size:
        for rank in ranks:
            if rank not in objects and (result := received[rank].test())[0]:
                objects[rank] = result[1]
        if time.monotonic() > end_s:
            raise RuntimeError("Timed out waiting 60000ms for recv operation to complete")
        time.sleep(0.001)
    object_list[:] = [objects[rank] for rank in ranks]
    MPI.Request.waitall(requests)
