"""What a contender's functions get: `start` a ContenderWorld, `bind` a ContenderCase."""

import importlib
import socket
import zlib
from datetime import timedelta
from functools import cached_property, partial
from typing import Any, NoReturn

import numpy as np

from collectives.operation import CollectiveCase, World

TIMEOUT_S = 60  # a rank that failed keeps the others of torch's group waiting so long
TORCH_NAMES = {"float8_e4m3": "float8_e4m3fn"}  # where torch names a type otherwise
TORCH_RANKS = list[int]()  # the ranks of the run in the default group that `group` has made


class Refused(Exception):
    """The contender says why it does not run, or not a case."""


class ContenderWorld:
    """The ranks: those of the run, or some of them, which the file is then started on anew. All of
    these ranks make it together.

    `mpi` is a communicator of mpi4py of the contender's own, `device` cpu, cuda or hip; `stream` is
    CuPy's stream, None on a CPU; with `graph` a call is captured and replayed. `started` is what
    the file's `start` has returned."""

    started: Any = None

    def __init__(self, world: World, file: Any) -> None:
        ranks, self.file = world.communicator, file  # as a module
        self.mpi = ranks.world.Dup()
        self.rank, self.ranks, self.local_rank = ranks.rank, ranks.size, ranks.local_rank
        self.ranks_of_run = ranks.ranks
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
        """A gloo group of these ranks, which call this together: torch's default group. A file that
        is started on other ranks later has another one, and this one ends."""
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        address = self.mpi.bcast(f"tcp://127.0.0.1:{port}")  # before anything that can fail
        every = self.mpi.allgather([*TORCH_RANKS])
        distributed = self.torch.distributed
        if TORCH_RANKS and any(ranks != self.ranks_of_run for ranks in every):
            distributed.destroy_process_group()
            TORCH_RANKS.clear()
        if not distributed.is_initialized():
            distributed.init_process_group(
                "gloo",
                init_method=address,
                timeout=timedelta(seconds=TIMEOUT_S),
                world_size=self.ranks,
                rank=self.rank,
            )
            TORCH_RANKS[:] = self.ranks_of_run
        return distributed.group.WORLD


class ContenderCase:
    """One case, and all that its ContenderWorld has.

    `arrays` are the send and the receive buffer of the run, in place the same memory: NumPy's on a
    CPU, CuPy's on a GPU, of shape (count,), or (ranks, count) with a segment for each rank. NumPy
    has neither bfloat16 nor fp8: there the elements are unsigned integers.

    Of `allreduce_rmsnorm` the arrays are (tokens, hidden), and the receive buffer gets the RMS norm
    of the sums plus `residual`, times `weight`, of (hidden,); `residual_out` gets the sums plus
    `residual`. `epsilon` is added to the mean of squares.

    Of `gemv_allreduce` the arrays are (tokens, hidden): the first is room for this rank's products,
    the receive buffer gets the sums over all ranks of `activations` times `weights` transposed, of
    (tokens, inner) and (hidden, inner): this rank's columns. `weights` is the first of
    `weight_copies`, which ours use in turn so that weights come from memory. With int8 weights, of
    which `weights_datatype` tells, a sum is multiplied by its row's scale in `row_scales`, fp32 of
    (hidden,). Weights and activations may not change."""

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
        if hasattr(case, "layer"):
            shapes = [self._layer(world, case)] * 2
        self.arrays = array(case.send, shapes[0]), array(case.receive, shapes[1])

    def _layer(self, world: World, case: Any) -> tuple[int, int]:
        """The fields of `gemv_allreduce`; returns (tokens, hidden)."""
        layer, stored, array = case.layer, case.weight_type, world.device.array
        tokens, matrix = case.count // layer.hidden, (layer.hidden, layer.inner)
        vectors = array(layer.activations, (tokens, layer.stride), case.datatype.storage)
        # AMD's bindings for Python slice no array.
        is_whole = layer.stride == layer.inner
        self.activations = vectors if is_whole else vectors[:, : layer.inner]
        self.weights, self.weight_copies = (
            array(layer.weights, shape, stored.storage)
            for shape in (matrix, (layer.copies, *matrix))
        )
        scales = None if stored.is_float else array(layer.row_scales, matrix[:1], np.float32)
        self.weights_datatype, self.row_scales = stored.name, scales
        return tokens, layer.hidden

    def __getattr__(self, name: str) -> Any:
        # rank, ranks, mpi, stream, torch, started, refuse ...
        return getattr(self.contender_world, name)

    def digest_of_layer(self) -> list[int]:
        """Of what may not change in a layer, on a CPU; else none."""
        if self.collective != "gemv_allreduce" or self.device != "cpu":
            return []
        given = self.weights, self.row_scales, self.activations
        return [zlib.crc32(np.ascontiguousarray(each).data) for each in given if each is not None]

    def tensor(self, array: Any, datatype: str = "") -> Any:
        """An array of the case as a tensor of torch over the same memory, with the case's type, or
        another `datatype`, such as that of the weights."""
        signed = array.view(f"i{array.dtype.itemsize}")  # torch takes no other from CuPy
        tensor = self.torch.as_tensor(signed, device=self.torch_device)
        name = datatype or self.datatype
        return tensor.view(getattr(self.torch, TORCH_NAMES.get(name, name)))

    @cached_property
    def tensors(self) -> tuple[Any, Any]:
        """The arrays as tensors."""
        return self.tensor(self.arrays[0]), self.tensor(self.arrays[1])
