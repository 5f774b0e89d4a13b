"""A row-parallel layer as PyTorch users write it: F.linear, and an all-reduce of its products by
gloo, which sums in the type of the activations."""

TITLE = "torch F.linear"
DISTRIBUTION = "torch==2.13.0"
COLLECTIVES = "gemv_allreduce"
DEVICES = "cpu"
DATATYPES = "float32", "float16", "bfloat16"

import torch.distributed as dist
from torch.nn.functional import linear


def bind(case):
    stored, group, sums = case.weights_datatype, case.group, case.tensors[1]
    if stored != case.datatype and (stored, case.datatype) != ("float16", "float32"):
        case.refuse(f"torch multiplies one type, not {stored} weights by {case.datatype}")
    activations = case.tensor(case.activations)
    weights = case.tensor(case.weights, stored).to(activations.dtype)

    def layer():
        products = linear(activations, weights)
        dist.all_reduce(products, group=group)
        sums.copy_(products)

    return layer
