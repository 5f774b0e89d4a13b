"""FlashInfer's all-reduce, the plain pattern of its fused one, with the kernels that it chooses."""

import importlib
import math
from functools import partial
from typing import Any

from collectives.operation import Case, Operation, World
from collectives.peers.peer import Binder, Peer, enqueued
from collectives.peers.torch_gpu import TorchGpu

COMM, BACKEND = "flashinfer.comm", "flashinfer.comm.comm_backend"
ROW_BYTES = 16 << 10  # a row of 4096 float32: more threads than one block has on older GPUs


def start(world: World) -> Binder:
    torch_gpu, ranks, comm = TorchGpu(world), world.communicator, importlib.import_module(COMM)
    backend = importlib.import_module(BACKEND).TorchDistBackend(group=torch_gpu.group)
    workspaces: dict[tuple[int, int, str], Any] = {}

    def bind(case: Case) -> Operation:
        row = math.gcd(case.count, ROW_BYTES // case.datatype.size_bytes)
        shape = case.count // row, row
        sent, received = (
            torch_gpu.tensor(at, case).view(shape) for at in (case.send, case.receive)
        )
        key = *shape, case.datatype.name
        if key not in workspaces:
            workspaces[key] = comm.create_allreduce_fusion_workspace(
                backend="auto",
                world_size=ranks.size,
                rank=ranks.rank,
                max_token_num=shape[0],
                hidden_dim=row,
                dtype=sent.dtype,
                comm_backend=backend,
                group=torch_gpu.group,
            )
        reduce = partial(
            comm.allreduce_fusion,
            input=sent,
            workspace=workspaces[key],
            pattern=comm.AllReduceFusionPattern.kAllReduce,
            output=received,
        )
        return enqueued(world, "FlashInfer's all-reduce", torch_gpu.on_stream(reduce))

    return bind


PEER = Peer(
    "FlashInfer",
    "flashinfer-python",
    "0.7.2.post1",
    "pip install flashinfer-python",
    ("torch", COMM, BACKEND),
    start,
    devices=("cuda",),
)
