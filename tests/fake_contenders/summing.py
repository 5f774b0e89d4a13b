"""The sum of all ranks' tensors in stream order, for the stand-ins, and their faults."""

import ctypes
import os
from typing import Any

import torch

FAULT = os.environ.get("FAKE_CONTENDER_FAULT", "")
OPS = {"sum": 0, "wrong": 2}
TYPES = {"int32": 2, "float16": 6, "float32": 7, "bfloat16": 9}


def start() -> None:
    """The faults of a start."""
    if FAULT == "raise" and torch.distributed.get_rank() == 1:
        raise RuntimeError("no NVLink between these GPUs,\n  says /usr/lib/driver.so")


class UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_uint8 * 128)]


class Summing:
    """A communicator of its own. All ranks make it."""

    def __init__(self, group: Any) -> None:
        self.library = ctypes.CDLL(os.environ["FAKE_NCCL_LIBRARY"])
        unique, self.handle = UniqueId(), ctypes.c_void_p()
        rank, size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)
        if rank == 0:
            assert self.library.ncclGetUniqueId(ctypes.byref(unique)) == 0
        words: list[Any] = [None] * size
        torch.distributed.all_gather_object(words, bytes(unique), group=group)
        unique = UniqueId.from_buffer_copy(words[0])
        assert self.library.ncclCommInitRank(ctypes.byref(self.handle), size, unique, rank) == 0

    def enqueue(self, tensor: torch.Tensor, out: torch.Tensor) -> None:
        assert tensor.numel() == out.numel()
        assert tensor.dtype is out.dtype
        status = self.library.ncclAllReduce(
            ctypes.c_void_p(tensor.data_ptr()),
            ctypes.c_void_p(out.data_ptr()),
            ctypes.c_size_t(tensor.numel()),
            TYPES[tensor.dtype.name],
            OPS["wrong" if FAULT == "wrong" else "sum"],
            self.handle,
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )
        if status:
            raise RuntimeError(f"error {status}")
