"""vLLM's QuickReduce for AMD's MI300 and MI355, in full precision: its quantised wires are lossy,
and the check of a contender's sum has no bound for them. vLLM takes it from 1 MiB on at the
earliest (by type and ranks: its table `_QR_MIN_SIZE`), and its custom all-reduce or RCCL below."""

import os

TITLE = "vLLM QuickReduce"
DISTRIBUTION = "vllm==0.33.0"
DEVICES = "hip"
DATATYPES = "float16", "bfloat16"
MULTIPLE = 16
ONE_HOST = True
UNVERIFIED = True

# vLLM's default casts bfloat16 to float16, whose largest value is 65504.
SETTINGS = {
    "VLLM_ROCM_QUICK_REDUCE_QUANTIZATION": "FP",
    "VLLM_ROCM_QUICK_REDUCE_CAST_BF16_TO_FP16": "0",
}
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # before vLLM is imported
os.environ.update(SETTINGS)
from vllm.distributed import parallel_state
from vllm.distributed.device_communicators.quick_all_reduce import QuickAllReduce


def start(world):
    assert world.group  # vLLM takes torch's group as its world
    parallel_state.init_distributed_environment(
        world_size=world.ranks, rank=world.rank, local_rank=world.local_rank, backend="gloo"
    )
    group = parallel_state.get_world_group().cpu_group
    reducer = QuickAllReduce(group=group, device=world.torch_device)
    if reducer.disabled:
        world.refuse(
            "vLLM disables QuickReduce between these GPUs: it wants gfx94 or gfx95, and 2, 4 or 8 "
            "of them on one host, more than two all linked by xGMI"
        )
    return reducer


def bind(case):
    reducer, (sent, received) = case.started, case.tensors
    if not reducer.should_quick_allreduce(sent):
        case.refuse("vLLM leaves a message of this size and type to its custom all-reduce or RCCL")
    return lambda: reducer.quick_all_reduce(sent, out=received)
