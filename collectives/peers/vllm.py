"""vLLM's custom all-reduce, as vLLM calls it: without a graph it first copies the input into a
buffer that ranks share; from a graph ranks read the input itself, registered after the capture."""

import importlib

from collectives.operation import Case, Operation, World
from collectives.peers.peer import Binder, Peer, enqueued
from collectives.peers.torch_gpu import TorchGpu
from kernels.devices.device import DeviceError

STATE = "vllm.distributed.parallel_state"
CUSTOM = "vllm.distributed.device_communicators.custom_all_reduce"
TITLE = "vLLM's custom all-reduce"


def start(world: World) -> Binder:
    torch_gpu, ranks = TorchGpu(world), world.communicator
    state = importlib.import_module(STATE)
    state.init_distributed_environment(
        world_size=ranks.size,
        rank=ranks.rank,
        distributed_init_method=torch_gpu.address,
        local_rank=ranks.local_rank,
        backend="gloo",
    )
    reducer = importlib.import_module(CUSTOM).CustomAllreduce(
        group=state.get_world_group().cpu_group, device=torch_gpu.device
    )
    if reducer.disabled:
        raise DeviceError(
            "vLLM disables its custom all-reduce between these GPUs: its warning above says why"
        )

    def bind(case: Case) -> Operation:
        sent, received = (torch_gpu.tensor(at, case) for at in (case.send, case.receive))
        if not reducer.should_custom_ar(sent):
            raise DeviceError(
                "vLLM leaves this message to NCCL: its custom all-reduce takes "
                f"messages below {reducer.max_size} B"
            )

        def reduce() -> None:
            registered = torch_gpu.torch.cuda.is_current_stream_capturing()
            reducer.all_reduce(sent, out=received, registered=registered)

        return enqueued(world, TITLE, torch_gpu.on_stream(reduce), reducer.register_graph_buffers)

    return bind


PEER = Peer(
    "vLLM",
    "vllm",
    "0.33.0",
    "pip install vllm",
    ("torch", STATE, CUSTOM),
    start,
    settings={"VLLM_LOGGING_STREAM": "ext://sys.stderr"},
)
