"""AITER's custom all-reduce for AMD GPUs: without a graph it first copies the input."""

TITLE = "AITER"
DISTRIBUTION = "amd-aiter==0.1.7.post2.dev18"
DEVICES = "hip"
DATATYPES = "float32", "float16", "bfloat16"
MULTIPLE = 16
ONE_HOST = True
UNVERIFIED = True

from aiter.dist.device_communicators.custom_all_reduce import CustomAllreduce


def start(world):
    reducer = CustomAllreduce(group=world.group, device=world.torch_device)
    if reducer.disabled:
        world.refuse("AITER disables its custom all-reduce between these GPUs")
    return reducer


def bind(case):
    reducer, (sent, received) = case.started, case.tensors
    if not reducer.should_custom_ar(sent):
        case.refuse(f"AITER's custom all-reduce takes messages of at most {reducer.max_size} B")

    def reduce():
        registered = case.torch.cuda.is_current_stream_capturing()
        reducer.all_reduce(sent, out=received, registered=registered)

    reduce.after_capture = reducer.register_graph_buffers
    return reduce
