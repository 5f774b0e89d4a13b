"""torch on this rank's GPU, for peers that work on tensors: our stream, our buffers, all ranks."""

import importlib
import socket
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from collectives.operation import Case, World
from kernels.devices.device import DeviceError
from kernels.devices.gpu import GpuDevice

TIMEOUT_S = 60  # a rank that failed keeps the others waiting so long


def free_address() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"


class TorchGpu:
    """All ranks make it together. `group` is a gloo group of all ranks."""

    def __init__(self, world: World) -> None:
        ranks, gpu = world.communicator, world.device
        assert isinstance(gpu, GpuDevice)
        self.address = ranks.broadcast(free_address())  # before anything that can fail
        self.torch: Any = importlib.import_module("torch")
        self.torch.cuda.set_device(gpu.ordinal)
        self.device = self.torch.device("cuda", gpu.ordinal)
        self.stream = self.torch.cuda.ExternalStream(gpu.stream.ptr, device=self.device)
        distributed = self.torch.distributed
        if not distributed.is_initialized():
            distributed.init_process_group(
                "gloo",
                init_method=self.address,
                timeout=timedelta(seconds=TIMEOUT_S),
                world_size=ranks.size,
                rank=ranks.rank,
            )
        self.group = distributed.group.WORLD

    def tensor(self, address: int, case: Case) -> Any:
        """A buffer of the case as a tensor of (count,), without a copy. Raises DeviceError."""
        array = {
            "shape": (case.count,),
            "typestr": f"<i{case.datatype.size_bytes}",  # it has no bfloat16
            "data": (address, False),
            "version": 3,
        }
        buffer = SimpleNamespace(__cuda_array_interface__=array)
        tensor = self.torch.as_tensor(buffer, device=self.device)
        if tensor.data_ptr() != address:
            raise DeviceError("torch copies the run's buffers, and a peer gets the same ones")
        return tensor.view(getattr(self.torch, case.datatype.name))

    def on_stream(self, call: Callable[[], object]) -> Callable[[], None]:
        def enqueue() -> None:
            with self.torch.cuda.stream(self.stream):
                call()

        return enqueue
