"""PyTorch's symmetric memory. Its kernels work on memory of its own, so a call copies the input
into it: PyTorch's one-shot does that itself, before the others stands a copy."""

TITLE = "torch symmetric memory"
DISTRIBUTION = "torch==2.13.0"
DEVICES = "cuda"
DATATYPES = "float32", "bfloat16"
MULTIPLE = 16
ONE_HOST = True
SHARES_GPUS = True  # with TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES=1
VARIANTS = "one_shot", "two_shot", "multimem"
UNVERIFIED = True

import torch
from torch.distributed import _symmetric_memory as symmetric


def bind(case):
    sent, received = case.tensors
    buffer = symmetric.empty(case.count, dtype=sent.dtype, device=case.torch_device)
    memory = symmetric.rendezvous(buffer, case.group)
    if case.variant == "multimem" and not memory.multicast_ptr:
        case.refuse("torch finds no multicast between these GPUs")
    kernels, name = torch.ops.symm_mem, case.group.group_name

    def one_shot():
        kernels.one_shot_all_reduce_copy_out(buffer, sent, "sum", name, received)

    def two_shot():
        buffer.copy_(sent)
        kernels.two_shot_all_reduce_out(buffer, "sum", name, received)

    def multimem():
        buffer.copy_(sent)
        kernels.multimem_one_shot_all_reduce_out(buffer, "sum", name, received)

    return {"one_shot": one_shot, "two_shot": two_shot, "multimem": multimem}[case.variant]
