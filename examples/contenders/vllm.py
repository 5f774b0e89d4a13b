"""vLLM's custom all-reduce, as vLLM calls it: without a graph it first copies the input into a
buffer that ranks share; from a graph ranks read the input itself, registered after the capture."""

import os

TITLE = "vLLM"
DISTRIBUTION = "vllm==0.33.0"
DEVICES = "cuda", "hip"
DATATYPES = "float32", "float16", "bfloat16"
MULTIPLE = 16
ONE_HOST = True

os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # before vLLM is imported
from vllm.distributed import parallel_state
from vllm.distributed.device_communicators.custom_all_reduce import CustomAllreduce


def start(world):
    assert world.group  # vLLM takes torch's group as its world
    parallel_state.init_distributed_environment(
        world_size=world.ranks, rank=world.rank, local_rank=world.local_rank, backend="gloo"
    )
    group = parallel_state.get_world_group().cpu_group
    reducer = CustomAllreduce(group=group, device=world.torch_device)
    if reducer.disabled:
        world.refuse(
            "vLLM disables its custom all-reduce between these GPUs: its warning above says why"
        )
    return reducer


def bind(case):
    reducer, (sent, received) = case.started, case.tensors
    if not reducer.should_custom_ar(sent):
        case.refuse(
            "vLLM leaves this message to NCCL: its custom all-reduce takes "
            f"messages below {reducer.max_size} B"
        )

    def reduce():
        registered = case.torch.cuda.is_current_stream_capturing()
        reducer.all_reduce(sent, out=received, registered=registered)

    reduce.after_capture = reducer.register_graph_buffers
    return reduce
