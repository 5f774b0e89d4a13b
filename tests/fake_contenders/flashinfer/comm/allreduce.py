"""`flashinfer.comm.allreduce`. With the published arguments that Wiretax gives."""

from types import SimpleNamespace
from typing import Any

import torch
from summing import Summing, start

from .comm_backend import TorchDistBackend
from .trtllm_ar import AllReduceFusionPattern


def create_allreduce_fusion_workspace(
    backend: Any = "auto",
    world_size: Any = None,
    rank: Any = None,
    max_token_num: Any = None,
    hidden_dim: Any = None,
    dtype: Any = None,
    comm_backend: Any = None,
    group: Any = None,
) -> SimpleNamespace:
    assert isinstance(comm_backend, TorchDistBackend)
    assert (world_size, rank) == (torch.distributed.get_world_size(), torch.distributed.get_rank())
    start()
    return SimpleNamespace(summing=Summing(group), elements=max_token_num * hidden_dim, dtype=dtype)


def allreduce_fusion(
    input: Any, workspace: Any, pattern: Any, launch_with_pdl: Any = False, output: Any = None
) -> Any:
    assert pattern == AllReduceFusionPattern.kAllReduce
    tokens, row = input.shape
    assert tokens * row <= workspace.elements
    assert row * input.element_size() % 16 == 0
    assert output.shape == input.shape
    assert input.dtype is workspace.dtype
    workspace.summing.enqueue(input, output)
    return output
