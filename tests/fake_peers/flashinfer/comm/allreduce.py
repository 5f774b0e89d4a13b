"""`flashinfer.comm.allreduce`. It takes the whole published argument lists, but uses few arguments."""

from types import SimpleNamespace
from typing import Any

import torch
from summing import Summing, start

from .comm_backend import TorchDistBackend
from .trtllm_ar import AllReduceFusionPattern

# fmt: off


def create_allreduce_fusion_workspace(
    backend: Any = "auto", world_size: Any = None, rank: Any = None, max_token_num: Any = None, hidden_dim: Any = None,
    dtype: Any = None, gpus_per_node: Any = None, comm_backend: Any = None, force_oneshot_support: Any = False,
    group: Any = None, *, top_k: Any = None, rms_eps: Any = None, weight_bias: Any = None,
    routed_scaling_factor: Any = None, include_shared_expert: Any = None, add_residual: Any = None,
    write_residual_output: Any = None, apply_rms_norm: Any = None, output_dtype: Any = None, dynamic_fp8: Any = None,
    write_norm_output: Any = None, config: Any = None,
) -> SimpleNamespace:
    assert isinstance(comm_backend, TorchDistBackend)
    assert (world_size, rank) == (torch.distributed.get_world_size(), torch.distributed.get_rank())
    start()
    return SimpleNamespace(summing=Summing(group), elements=max_token_num * hidden_dim, dtype=dtype)


def allreduce_fusion(
    input: Any, workspace: Any, pattern: Any, launch_with_pdl: Any = False, trigger_completion_at_end: Any = True,
    output: Any = None, residual_out: Any = None, norm_out: Any = None, quant_out: Any = None, scale_out: Any = None,
    residual_in: Any = None, rms_gamma: Any = None, rms_eps: Any = 1e-06, scale_factor: Any = None,
    layout_code: Any = None, use_oneshot: Any = None, fp32_acc: Any = False,
    moe_reduction_device_num_experts: Any = None, moe_reduction_scale_input: Any = None,
    moe_reduction_active_experts_token_input: Any = None, moe_reduction_token_input: Any = None,
    expanded_idx_to_permuted_idx: Any = None, expert_scale_factor: Any = None, shared_expert_output: Any = None,
    block_quant_group_size: Any = None, weight_bias: Any = 0.0, *, moe_finalize_backend: Any = "trtllm",
) -> Any:
    assert pattern == AllReduceFusionPattern.kAllReduce
    tokens, row = input.shape
    assert tokens * row <= workspace.elements
    assert row * input.element_size() % 16 == 0
    assert output.shape == input.shape
    assert input.dtype is workspace.dtype
    workspace.summing.enqueue(input, output)
    return output
