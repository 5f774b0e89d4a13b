"""A row-parallel layer in numpy: the BLAS multiplies in fp32, MPI sums in fp32, and each result is
rounded once."""

TITLE = "numpy matmul"
DISTRIBUTION = "numpy"
COLLECTIVES = "gemv_allreduce"
DEVICES = "cpu"
DATATYPES = "float32", "float16"

import numpy as np
from mpi4py import MPI


def bind(case):
    if case.weights_datatype == "bfloat16":
        case.refuse("numpy has no bfloat16")
    weights = case.weights.astype(np.float32).T
    scales = 1 if case.row_scales is None else case.row_scales
    products = np.empty(case.arrays[1].shape, np.float32)

    def layer():
        np.matmul(case.activations.astype(np.float32), weights, out=products)
        case.mpi.Allreduce(MPI.IN_PLACE, products)
        np.multiply(products, scales, out=case.arrays[1], casting="same_kind")

    return layer
