"""FlashInfer's fused all-reduce, plain or with residual and RMSNorm, with the kernels that it
chooses."""

import math
from functools import partial

TITLE = "FlashInfer"
DISTRIBUTION = "flashinfer-python==0.7.2.post1"
COLLECTIVES = "all_reduce", "allreduce_rmsnorm"
DEVICES = "cuda"
DATATYPES = "float32", "float16", "bfloat16"
MULTIPLE = 16
ONE_HOST = True

from flashinfer import comm
from flashinfer.comm.comm_backend import TorchDistBackend

ROW_BYTES = 16 << 10  # a row of 4096 float32: more threads than one block has on older GPUs


def start(world):
    return TorchDistBackend(group=world.group), {}


def bind(case):
    backend, workspaces = case.started
    row = math.gcd(case.count, ROW_BYTES // case.arrays[0].dtype.itemsize)
    is_fused = case.collective == "allreduce_rmsnorm"
    shape = case.arrays[0].shape if is_fused else (case.count // row, row)
    sent, received = (tensor.view(shape) for tensor in case.tensors)
    key = *shape, case.datatype
    if key not in workspaces:
        workspaces[key] = comm.create_allreduce_fusion_workspace(
            backend="auto",
            world_size=case.ranks,
            rank=case.rank,
            max_token_num=shape[0],
            hidden_dim=shape[1],
            dtype=sent.dtype,
            comm_backend=backend,
            group=case.group,
        )
    patterns = comm.AllReduceFusionPattern
    reduce = partial(comm.allreduce_fusion, input=sent, workspace=workspaces[key])
    if not is_fused:
        return partial(reduce, pattern=patterns.kAllReduce, output=received)
    return partial(
        reduce,
        pattern=patterns.kARResidualRMSNorm,
        residual_in=case.tensor(case.residual),
        residual_out=case.tensor(case.residual_out),
        norm_out=received,
        rms_gamma=case.tensor(case.weight),
        rms_eps=case.epsilon,
    )
