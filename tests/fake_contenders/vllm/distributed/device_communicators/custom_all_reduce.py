"""`vllm.distributed.device_communicators.custom_all_reduce`."""

import os
import sys
from typing import Any

import cupy
import torch
from summing import FAULT, Summing, start
from vllm.distributed.parallel_state import get_world_group

assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr", (
    "by default vLLM's log goes to standard output"
)


class CustomAllreduce:
    def __init__(self, group: Any, device: Any, max_size: int = 8192 * 1024) -> None:
        assert get_world_group()
        assert isinstance(device, torch.device)
        start()
        self.disabled, self.max_size, self.group = FAULT == "disabled", max_size, group
        self.unregistered, self.summing = 0, Summing(group)
        if self.disabled:
            print("WARNING Custom allreduce is disabled because of ...", file=sys.stderr)

    def register_graph_buffers(self) -> None:
        torch.distributed.all_gather_object([], "the buffers of the graph", group=self.group)
        self.unregistered = 0

    def _launched(self, _: Any) -> None:
        if self.unregistered:
            os._exit(1)  # the real kernel would read through a null pointer

    def should_custom_ar(self, inp: torch.Tensor) -> bool:
        size = inp.numel() * inp.element_size()
        return not self.disabled and size % 16 == 0 and size < self.max_size

    def all_reduce(
        self, inp: torch.Tensor, *, out: torch.Tensor = None, registered: bool = False
    ) -> torch.Tensor:
        if registered != torch.cuda.is_current_stream_capturing():
            raise RuntimeError("buffer address is not registered!")
        if registered:
            self.unregistered += 1
            cupy.cuda.runtime.launchHostFunc(
                torch.cuda.current_stream().cuda_stream, self._launched, 0
            )
        self.summing.enqueue(inp, out)
        return out
