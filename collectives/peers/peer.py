"""The form of a peer, and the algorithm from it: our buffers, stream, clock and checks.

Any error of a peer on some rank refuses the case on all ranks, in the peer's words."""

import importlib
import importlib.metadata
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from collectives.operation import Algorithm, Bound, Case, Operation, Unsupported, World
from collectives.registry import LIBRARY
from kernels.devices.device import DeviceError, Kernel, Step
from kernels.devices.gpu import GpuDevice

VECTOR_BYTES = 16  # kernels of all peers move vectors of this size
MOST_CHARACTERS = 300  # of an error message

T = TypeVar("T")
Binder = Callable[[Case], Operation]


@dataclass(frozen=True)
class Peer:
    """Another project's all-reduce. `written_for` is the version with the interface that its file
    calls. `modules` are imported after setting `settings` in the environment, where the user set
    nothing. `start(world)` starts the peer on all ranks and returns the function that binds a
    case."""

    title: str
    distribution: str
    written_for: str
    install: str
    modules: tuple[str, ...]
    start: Callable[[World], Binder]
    datatypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    redops: tuple[str, ...] = ("sum",)
    devices: tuple[str, ...] = ("cuda", "hip")
    in_place: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Of the installed distribution; "" if there is none."""
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(self.distribution)
        return ""

    def reason_against_world(self, world: World, versions: list[str]) -> str | None:
        """Why it cannot run between these ranks. `versions` by rank: "" if not installed."""
        device, ranks = world.device, world.communicator
        if device.name not in self.devices:
            return f"{self.title} runs on {' and '.join(self.devices)}, not on {device.name}"
        if not all(versions):
            return f"{self.title} is not installed: {self.install}"
        if len(set(versions)) > 1:
            return f"ranks have {self.title} {' and '.join(sorted(set(versions)))}"
        if ranks.size == 1 or ranks.hosts > 1:
            return f"{self.title} takes part in runs of several ranks on one host"
        assert isinstance(device, GpuDevice)
        return f"{self.title} wants one GPU a rank" if device.sharers > 1 else None

    def reason_against(self, case: Case) -> str | None:
        """Why it cannot perform this case."""
        if case.datatype.name not in self.datatypes:
            return f"{self.title} does not reduce {case.datatype.name}"
        if case.redop not in self.redops:
            return f"{self.title} has no {case.redop}"
        if case.in_place and not self.in_place:
            return f"{self.title} has no in-place form"
        if not case.segment_bytes or case.segment_bytes % VECTOR_BYTES:
            return f"{self.title} takes whole vectors of {VECTOR_BYTES} B, at least one"
        return None

    def load(self) -> bool:
        """Imports it."""
        for variable, value in self.settings.items():
            os.environ.setdefault(variable, value)
        for module in self.modules:
            importlib.import_module(module)
        return True


def algorithm_of(name: str, world: World) -> Algorithm:
    """The peer of this name as an algorithm; its first case starts it. All ranks call it."""
    peer: Peer = importlib.import_module(f"{__package__}.{name}").PEER
    refusal = peer.reason_against_world(world, world.communicator.all_gather(peer.version))
    started: list[Binder | Unsupported] = [Unsupported(refusal)] if refusal else []

    def bind(world: World, case: Case) -> Bound:
        if not started:
            # No rank begins to talk to the others before all have imported it.
            loaded = result_or_reason(world, peer, peer.load)
            started.append(
                loaded
                if isinstance(loaded, Unsupported)
                else result_or_reason(world, peer, lambda: peer.start(world))
            )
        binder = started[0]
        if isinstance(binder, Unsupported):
            return binder
        if reason := peer.reason_against(case):
            return Unsupported(reason)
        return result_or_reason(world, peer, lambda: performed_once(world, binder(case)))

    return replace(
        LIBRARY,
        base=name,
        about=f"{peer.title}, where it is installed",
        perform=bind,
        library_variants=0,
        peer=f"{peer.title} {peer.version}".rstrip(),
    )


def result_or_reason(world: World, peer: Peer, work: Callable[[], T]) -> T | Unsupported:
    """The work's result, or on all ranks the reason of the rank that failed first: the ranks of a
    peer talk to each other, and the others only time out."""
    failure: tuple[float, str] | None = None
    result: T | Unsupported = Unsupported("")
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - a fault of a peer must not end the run
        is_ours = isinstance(error, DeviceError)
        failure = time.monotonic(), str(error) if is_ours else sentence_about(peer, error)
    failures = world.communicator.all_gather(failure)
    if not (failed := [(*failure, rank) for rank, failure in enumerate(failures) if failure]):
        return result
    _, text, rank = min(failed)
    is_everywhere = [other for _, other, _ in failed] == [text] * len(failures)
    return Unsupported(text if is_everywhere else f"rank {rank}: {text}")


def sentence_about(peer: Peer, error: Exception) -> str:
    """One sentence about an error, without paths."""
    text = re.sub(r"(?<!\w)/\S+", "<path>", " ".join(str(error).split()))[:MOST_CHARACTERS]
    other = f" (called here as {peer.written_for} is)" if peer.version != peer.written_for else ""
    return f"{peer.title} {peer.version} fails: {type(error).__name__}: {text}{other}"


def performed_once(world: World, operation: Operation) -> Operation:
    """The operation, performed once as the run will: the first call loads and connects."""
    operation.call()
    if world.graph:
        assert isinstance(world.device, GpuDevice)
        with world.device.calling(f"a graph of {operation.step.kernel.name}"):
            world.device.captured(operation.step).launch(world.device.stream)
            world.device.stream.synchronize()
    return operation


def enqueued(
    world: World,
    title: str,
    enqueue: Callable[[], object],
    after_capture: Callable[[], object] | None = None,
) -> Operation:
    """The operation that `enqueue` puts into the device's stream: a copy and a kernel at most."""
    kernel = Kernel(title, lambda blocks, argument: enqueue())
    step = Step(kernel, None, entries=2, after_capture=after_capture)
    return Operation(step, world.device.caller(step))
