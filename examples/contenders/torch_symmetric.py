"""PyTorch's symmetric memory. Its kernels read memory of its own. The forms `*_symmetric` have
their input there, as a model's kernels can write it; before the others stands a copy, which
PyTorch's one-shot makes itself. Its two-shot changes its input: without a copy it is in place. All
but `multimem` ran with torch 2.11 on one H200, with right results."""

TITLE = "torch symmetric memory"
DISTRIBUTION = "torch==2.13.0"
DEVICES = "cuda"
DATATYPES = "float32", "bfloat16"
IN_PLACE = True
MULTIPLE = 16
ONE_HOST = True
SHARES_GPUS = True  # with TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES=1
VARIANTS = "one_shot", "two_shot", "multimem", "one_shot_symmetric", "two_shot_symmetric"

import torch
from torch.distributed import _symmetric_memory as symmetric


def bind(case):
    if case.in_place != (case.variant == "two_shot_symmetric"):
        how = "only out of place" if case.in_place else "only in place: it changes its input"
        case.refuse(f"torch's {case.variant} works {how}")
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

    def one_shot_symmetric():
        kernels.one_shot_all_reduce_out(buffer, "sum", name, received)

    def two_shot_symmetric():
        kernels.two_shot_all_reduce_(buffer, "sum", name)

    one_shot_symmetric.buffers = buffer.data_ptr(), received.data_ptr()
    two_shot_symmetric.buffers = buffer.data_ptr(), buffer.data_ptr()
    forms = one_shot, two_shot, multimem, one_shot_symmetric, two_shot_symmetric
    return {form.__name__: form for form in forms}[case.variant]
