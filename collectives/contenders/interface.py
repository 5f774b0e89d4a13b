"""What a contender's functions get: `start` a ContenderWorld, `bind` a ContenderCase."""

import importlib
import socket
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, NoReturn

from collectives.operation import CollectiveCase, World

TIMEOUT_S = 60  # a rank that failed keeps the others of torch's group waiting so long
TORCH_NAMES = {"float8_e4m3": "float8_e4m3fn"}  # where torch names a type otherwise


class Refused(Exception):
    """The contender says why it does not run, or not a case."""


class ContenderWorld:
    """The ranks. All ranks make it together.

    `mpi` is a communicator of mpi4py of the contender's own, `device` cpu, cuda or hip; `stream` is
    CuPy's stream, None on a CPU; with `graph` a call is captured and replayed. `started` is what
    the file's `start` has returned."""

    started: Any = None

    def __init__(self, world: World, file: Any) -> None:
        ranks, self.file = world.communicator, file  # as a module
        self.mpi = ranks.world.Dup()
        self.rank, self.ranks, self.local_rank = ranks.rank, ranks.size, ranks.local_rank
        self.device, self.graph = world.device.name, world.graph
        self.stream = getattr(world.device, "stream", None)
        self.ordinal = getattr(world.device, "ordinal", 0)
        if hasattr(file, "start"):
            self.started = file.start(self)

    def refuse(self, sentence: str) -> NoReturn:
        """Ends `start` or `bind`: the table says the sentence, and the run goes on."""
        raise Refused(sentence)

    @cached_property
    def torch(self) -> Any:
        """torch, from now on with this rank's GPU and the run's stream as the current ones."""
        torch = importlib.import_module("torch")
        if self.stream:
            torch.cuda.set_device(self.ordinal)
            stream = torch.cuda.ExternalStream(self.stream.ptr, device=self.torch_device)
            torch.cuda.set_stream(stream)
        return torch

    @property
    def torch_device(self) -> Any:
        device = importlib.import_module("torch").device
        return device("cuda", self.ordinal) if self.stream else device("cpu")

    @cached_property
    def group(self) -> Any:
        """A gloo group of all ranks, which call this together."""
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        address = self.mpi.bcast(f"tcp://127.0.0.1:{port}")  # before anything that can fail
        distributed = self.torch.distributed
        if not distributed.is_initialized():
            distributed.init_process_group(
                "gloo",
                init_method=address,
                timeout=timedelta(seconds=TIMEOUT_S),
                world_size=self.ranks,
                rank=self.rank,
            )
        return distributed.group.WORLD


class ContenderCase:
    """One case, and all that its ContenderWorld has.

    `arrays` are the send and the receive buffer of the run, in place the same memory: NumPy's on a
    CPU, CuPy's on a GPU, of shape (count,), or (ranks, count) with a segment for each rank. NumPy
    has neither bfloat16 nor fp8: there the elements are unsigned integers.

    Of `allreduce_rmsnorm` the arrays are (tokens, hidden), and the receive buffer gets the RMS norm
    of the sums plus `residual`, times `weight`, of (hidden,); `residual_out` gets the sums plus
    `residual`. `epsilon` is added to the mean of squares."""

    def __init__(self, contender_world: ContenderWorld, world: World, case: CollectiveCase) -> None:
        self.contender_world = contender_world
        self.collective, self.redop, self.in_place = case.collective.name, case.redop, case.in_place
        self.datatype, self.count, self.size_bytes = case.datatype.name, case.count, case.size_bytes
        self.variant, self.shape = case.variant, dict(case.shape)
        array = partial(world.device.array, dtype=case.datatype.storage)
        segments = case.collective.segments(self.ranks)
        shapes: list[tuple[int, ...]] = [
            (case.count,) if number == 1 else (number, case.count) for number in segments
        ]
        if norm := getattr(case, "norm", None):
            shapes = [(case.count // norm.hidden, norm.hidden)] * 2
            self.residual, self.residual_out = (
                array(address, shapes[0]) for address in (norm.residual, norm.residual_out)
            )
            self.weight, self.epsilon = array(norm.weight, (norm.hidden,)), norm.epsilon
        self.arrays = array(case.send, shapes[0]), array(case.receive, shapes[1])

    def __getattr__(self, name: str) -> Any:
        # rank, ranks, mpi, stream, torch, started, refuse ...
        return getattr(self.contender_world, name)

    def tensor(self, array: Any) -> Any:
        """An array of the case as a tensor of torch with the case's type, over the same memory."""
        signed = array.view(f"i{array.dtype.itemsize}")  # torch takes no other from CuPy
        tensor = self.torch.as_tensor(signed, device=self.torch_device)
        return tensor.view(getattr(self.torch, TORCH_NAMES.get(self.datatype, self.datatype)))

    @cached_property
    def tensors(self) -> tuple[Any, Any]:
        """The arrays as tensors."""
        return self.tensor(self.arrays[0]), self.tensor(self.arrays[1])
