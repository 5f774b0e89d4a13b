"""The benchmarks of whole steps, decode and prefill: the splits of a step, and how one is measured.

A split is checked once against float64, and from then on bit by bit against its first result.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil

from bench.harness.iteration import Iteration, loop_kernels, nothing, on_device
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.harness.verify import WrongResult
from bench.layers.fused import fastest
from collectives.collective import Array
from collectives.layers.fused import Bound
from collectives.layers.steps import Net, hold
from collectives.operation import Operation, Unsupported, plain_arguments
from collectives.peer_buffer import probe_kernels, register
from kernels.devices.device import WRONG_BYTES, Memory, Pattern, Step
from reports.result import CaseHeader

ROOM = 0.6  # of the free memory
# Of a result's error, in units of the result's root mean square: each of 160 sums is rounded to the
# wire's datatype, and the residual after it.
TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.4}

Image = Sequence[tuple[int, Array]]  # values at the begin of a step, by address
ONE_RANK = Unsupported("one rank makes no pipeline")


def room_bytes(session: Session) -> float:
    """The memory that a rank's weights may use, on this host or its GPU, as rank 0 sees it."""
    facts, ranks = session.world.device.facts, session.communicator.size
    free = facts.get("memory_bytes") or psutil.virtual_memory().available / ranks
    return float(session.communicator.broadcast(ROOM * free))


@dataclass(frozen=True)
class Weights:
    """The addresses of matrices by number: this rank's share of each; the matrices of its stage;
    all of them on rank 0, empty if they do not fit."""

    shares: dict[int, int]
    stage: dict[int, int]
    whole: dict[int, int]


def hold_weights(net: Net, numbers: Sequence[int], whole_fits: bool = True) -> Weights:
    """Puts the matrices of all splits on the device. Raises DeviceError."""
    rank, ranks = net.world.communicator.rank, net.world.communicator.size
    of_stage = len(numbers) // ranks
    stage = numbers[rank * of_stage : (rank + 1) * of_stage] if ranks > 1 else []
    whole = numbers if rank == 0 and whole_fits else []
    return Weights(hold(net, numbers, rank, 1), hold(net, stage, 0, ranks),
                   hold(net, whole, 0, ranks))


def open_inboxes(net: Net, size_bytes: int) -> list[Memory]:
    """A buffer for each beat of a pipeline, mapped by all ranks, which all call it."""
    world = net.world
    assert not isinstance(world.peers, Unsupported)
    inboxes: list[Memory] = [register(world.communicator, world.device, world.peers, size_bytes)
                             for _ in range(world.communicator.size)]
    net.keep.append(inboxes)
    return inboxes


@dataclass(frozen=True)
class Split:
    """One way to split a step over the ranks. A step begins with `image`; its result lies at
    `result`, None on a rank without one, and must be `expected`.

    `once` is the operation to check, if `bound` computes only a part. Only the times of `ranks`
    count; empty means all.
    """

    image: Image
    result: int | None
    expected: Array
    algorithm: str = "tensor_parallel"
    bound: Bound = ONE_RANK
    chosen: str | None = None
    variant: str = "copied"
    library: str | None = None
    once: Operation | None = None
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Splits:
    """Measures the splits of one step, and adds them to a suite. `scale` is the ratio of a whole
    step to the timed part."""

    session: Session
    net: Net
    suite: Suite
    shape: Mapping[str, Any]
    size_bytes: int
    scale: float = 1.0
    from_python: bool = False

    def add(self, split: Split) -> None:
        """Adds a split. All ranks call it. Raises WrongResult if its first result is wrong."""
        world, datatype = self.session.world, self.net.datatype
        assert not isinstance(world.peers, Unsupported)
        header = CaseHeader(
            collective=self.session.options.command, shape=dict(self.shape),
            size_bytes=self.size_bytes, count=self.size_bytes // datatype.size_bytes,
            datatype=datatype.name, redop="sum", algorithm=split.algorithm,
            memory=world.peers.kind, chosen=split.chosen, variant=split.variant,
            library=split.library)
        if isinstance(split.bound, Unsupported):
            header.status, header.reason = "unsupported", split.bound.reason
            self.suite.add(header, None)
            return
        self.session.flight.note("check the step", text=split.algorithm)
        self.suite.add(header, self.checked_iteration(split, split.bound))

    def add_by_tensor(self, split: Split, by_tensor: Callable[[str, str], Bound],
                      names: Sequence[str], library_form: str) -> None:
        """Adds the splits by tensor that `by_tensor(form, variant)` binds: the compute alone, the
        fastest of `names`, and the library's. `split` has the fields that they share. All ranks
        call it."""
        self.add(replace(split, algorithm="compute", bound=by_tensor("compute", "copied"),
                         result=None))
        forms = {name: by_tensor(*name.split()) for name in names}
        idle, prepare = self.idle(), self.prepare(split.image)
        best = fastest(self.session, {
            name: Iteration(-1, name, prepare, bound, idle, idle, from_python=self.from_python)
            for name, bound in forms.items() if isinstance(bound, Operation)})
        form, _, variant = best.partition(" ")
        chosen = "gemv_allreduce" if form == "fused" else form
        self.add(replace(split, bound=forms[best], chosen=chosen, variant=variant))
        library = self.session.world.library
        for variant in library.variants(self.session.world):
            self.add(replace(split, algorithm="tensor_parallel_library", library=library.name,
                             bound=by_tensor(library_form, variant), variant=variant))

    def idle(self) -> Step:
        return nothing(self.session.world, self.session.flight.watch)

    def constant(self, address: int, contents: Memory, wrong: int = 0) -> Pattern:
        """A buffer that has these contents in each iteration."""
        size_bytes, watch = contents.size_bytes, ctypes.addressof(self.session.flight.watch)
        return Pattern(address, contents.address, 1, size_bytes, size_bytes, 1,
                       self.net.datatype.size_bytes, wrong, watch)

    def prepare(self, image: Image) -> Step:
        """Writes the values at the begin of a step."""
        world, kernel = self.session.world, loop_kernels(self.session.world).kernel("write_pattern")
        writes: list[Step] = []
        for address, values in image:
            contents = on_device(world, self.net.datatype.encode(values))
            self.net.keep.append(contents)
            blocks = world.device.blocks_for(contents.size_bytes)
            writes.append(Step(kernel, self.constant(address, contents), blocks))
        return world.device.sequence(writes) if writes else self.idle()

    def checked_iteration(self, split: Split, operation: Operation) -> Iteration:
        """Writes the image, performs the step and reads its result, which is checked. All ranks
        call it. Raises WrongResult."""
        world, watch = self.session.world, self.session.flight.watch
        communicator, device = world.communicator, world.device
        prepare, check, consume = self.prepare(split.image), self.idle(), self.idle()
        device.caller(prepare)()
        communicator.barrier()
        (split.once or operation).call()
        communicator.barrier()
        mistake, wrong = None, device.private(WRONG_BYTES)
        if split.result is not None:
            first, mistake = self.first_result(split, split.result)
            kernels = probe_kernels(world.device, 1, ELEMENT=self.net.datatype.element)
            reading = plain_arguments(0, split.result, split.result, split.expected.size, watch)
            consume = Step(kernels.kernel("read_own"), reading)
            if split.once is None:
                pattern = self.constant(split.result, first, wrong.address)
                check = Step(loop_kernels(world).kernel("count_wrong"), pattern,
                             device.blocks_for(first.size_bytes))
        if complaint := communicator.first_word(mistake):
            raise WrongResult(complaint)
        is_checked = any(communicator.all_gather(split.result is not None and not split.once))
        return Iteration(
            -1, f"{split.algorithm} {self.size_bytes} B", prepare, operation, consume, check,
            wrong=wrong if is_checked else None, scale=self.scale, ranks=split.ranks,
            from_python=self.from_python, keep=[self.net, wrong])

    def first_result(self, split: Split, result: int) -> tuple[Memory, str | None]:
        """A copy of the first result, and a sentence if it is wrong."""
        world, datatype, expected = self.session.world, self.net.datatype, split.expected
        first = world.device.private(expected.size * datatype.size_bytes)
        self.net.keep.append(first)
        copying = plain_arguments(0, result, first.address, expected.size,
                                  self.session.flight.watch)
        kernels = probe_kernels(world.device, 1, ELEMENT=datatype.element)
        world.device.caller(Step(kernels.kernel("copy_local"), copying))()
        stored: Array = first.read().view(datatype.storage)[: expected.size]
        values = datatype.decode(stored).reshape(expected.shape)
        error = float(np.max(np.abs(values - expected)) / np.sqrt(np.mean(expected**2)))
        if error <= TOLERANCE[datatype.name]:
            return first, None
        return first, (f"{split.algorithm} {self.size_bytes} B is off by {error:.2g} of its "
                       "result's root mean square, so it is not timed")
