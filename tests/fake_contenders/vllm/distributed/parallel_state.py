"""`vllm.distributed.parallel_state`."""

from types import SimpleNamespace
from typing import Any

import torch

_WORLD: Any = None


def init_distributed_environment(
    world_size: int = -1,
    rank: int = -1,
    distributed_init_method: str = "env://",
    local_rank: int = -1,
    backend: str = "nccl",
) -> None:
    global _WORLD
    assert torch.distributed.is_initialized()
    assert backend == "gloo"
    _WORLD = SimpleNamespace(cpu_group=torch.distributed.group.WORLD, local_rank=local_rank)


def get_world_group() -> Any:
    assert _WORLD is not None, "world group is not initialized"
    return _WORLD
