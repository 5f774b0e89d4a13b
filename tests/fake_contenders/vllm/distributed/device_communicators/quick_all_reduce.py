"""`vllm.distributed.device_communicators.quick_all_reduce`."""

import os
from typing import Any

import torch
from summing import FAULT, Summing
from vllm.distributed.parallel_state import get_world_group

LEAST_BYTES = {"float16": 1 << 20, "bfloat16": 2 << 20}  # of two ranks in full precision


class QuickAllReduce:
    def __init__(self, group: Any, device: Any) -> None:
        assert get_world_group()
        assert isinstance(device, torch.device)
        is_full = os.environ.get("VLLM_ROCM_QUICK_REDUCE_QUANTIZATION", "NONE") == "FP"
        self.casts = os.environ.get("VLLM_ROCM_QUICK_REDUCE_CAST_BF16_TO_FP16", "1") == "1"
        self.disabled, self.summing = not is_full or FAULT == "disabled", Summing(group)

    def should_quick_allreduce(self, inp: torch.Tensor) -> bool:
        assert not self.casts
        size = inp.numel() * inp.element_size()
        return not self.disabled and size % 16 == 0 and size >= LEAST_BYTES[inp.dtype.name]

    def quick_all_reduce(self, inp: torch.Tensor, *, out: torch.Tensor = None) -> torch.Tensor:
        self.summing.enqueue(inp, out)
        return out
