"""Binds a case to an entry of a kernel file."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from collectives.operation import NOT_MAPPED, Bound, CollectiveCase, Operation, Unsupported, World
from collectives.probe import UNCACHED
from kernels.devices.device import PACK_BYTES, Arguments, Step

# From here on a CPU walks several pages at once in sums: it gained 1.07 times, and lost 1.25 times
# at 2 MiB. A copy loses (docs/experiments/performance.md). No effect on a GPU.
SEVERAL_PAGES_BYTES = 8 << 20
GEMV_THREADS = 256  # of a block: UP_TO_256_THREADS
Key = TypeVar("Key")


def binder(
    stem: str, entry: str, chunks: Callable[[int], float], rest_bytes: int = 0
) -> Callable[[World, CollectiveCase], Bound]:
    """Binds an entry of kernels/<stem>.cu; half a slab holds `chunks(ranks)` and `rest_bytes`."""

    def bind(world: World, case: CollectiveCase) -> Bound:
        room_bytes = (world.mapped.half_bytes - rest_bytes) / chunks(world.ranks)
        return bind_kernel(world, case, stem, entry, room_bytes)

    return bind


def bind_kernel(
    world: World,
    case: CollectiveCase,
    stem: str,
    entry: str,
    room_bytes: float,
    thread_packs: int = 1,
    **macros: str | int,
) -> Bound:
    """Binds an entry of `kernels/<stem>.cu` that stores into slabs by `Slab` or in packets alone; a
    chunk may take up to `room_bytes`. A GPU's thread takes `thread_packs` packs at once: more
    blocks than that needs would only send flags. All ranks call it for a registered variant. Raises
    DeviceError."""
    peers, build, chunk_bytes = world.mapped, case.build, chunk_that_fits(world, case, room_bytes)
    arguments = peers.arguments(case.send, case.receive, case.count, chunk_bytes)
    if case.variant == "registered":
        entry += "_registered"
        if not (
            peers.locate(case.send, arguments.sends)
            and peers.locate(case.receive, arguments.receives)
        ):
            return NOT_MAPPED
    elif not peers.shown.writes_back:  # no cache holds a line of a slab, as of users' buffers
        macros |= UNCACHED
    macros |= build_macros(world, case)
    blocks = world.device.blocks_for(min(case.segment_bytes, chunk_bytes) // thread_packs)
    blocks = min(blocks, build.blocks or blocks)
    step = world.device.step(stem, entry, arguments, blocks, build.threads, **macros)
    return Operation(step, ignores_nan=True)


def build_macros(world: World, case: CollectiveCase) -> dict[str, str | int]:
    macros: dict[str, str | int] = {
        "WT_WORLD": world.ranks,
        "WT_ELEMENT": case.datatype.element,
        "WT_STREAM_SLAB": int(case.build.stream_slab),
        "WT_STREAM_RECEIVE": int(case.build.stream_receive),
    }
    if case.collective.reduces:
        buffer_bytes = case.segment_bytes * max(case.collective.segments(world.ranks))
        macros["WT_REDOP"] = case.redop.capitalize()
        macros["WT_SEVERAL_PAGES"] = int(buffer_bytes >= SEVERAL_PAGES_BYTES)
    return macros


def python_operation(
    world: World,
    name: str,
    function: Callable[[], object],
    sentence_about: Callable[[BaseException], str],
    entries: int = 1,
) -> Operation:
    """A function of Python for the timed loop, which takes no exception: the loop stops after one,
    and `failure` is the sentence about it."""
    failures = list[str]()

    def call() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - also sys.exit
            failures.append(sentence_about(error))
            world.watch.stop = 1

    step = world.device.python(name, call, entries)
    return Operation(step, failure=lambda: next(iter(failures), None))


def first_failure(operations: Sequence[Operation]) -> str | None:
    return next(filter(None, (operation.failure() for operation in operations)), None)


def run_sequence(world: World, bounds: Sequence[Bound]) -> Bound:
    """The operations in sequence as one, with the first choice among theirs, or the first reason
    why one of them cannot be bound. A single one is returned unchanged."""
    if len(bounds) == 1:
        return bounds[0]

    operations = list[Operation]()
    for bound in bounds:
        if isinstance(bound, Unsupported):
            return bound
        if bound.own_case:
            return Unsupported("its input lies in buffers of its own, where no compute writes")
        operations.append(bound)
    parts = tuple(operation.step for operation in operations)
    step = replace(world.device.sequence(parts), parts=parts)
    choice = next((each.choice for each in operations if each.choice), None)
    return Operation(step, choice=choice, failure=partial(first_failure, operations))


def fastest(world: World, steps: Mapping[Key, Step], rounds: int, calls: int) -> Key:
    """The step that takes the slowest rank the shortest time, launched as a case is, from a graph
    or not. They take turns, so a disturbance hits all. All ranks call it. Raises Refusal if a file
    of an earlier case does not compile, for which `time_us` would wait."""
    device = world.device
    with world.communicator.all_or_none():
        device.finish_builds()
    launched = [device.replayed(step) if world.graph else step for step in steps.values()]
    times_us = [
        [device.time_us(step, calls, world.watch) for step in launched] for _ in range(rounds)
    ]
    slowest_us = np.max(world.communicator.all_gather(np.median(times_us, axis=0)), axis=0)
    return list(steps)[int(np.argmin(slowest_us))]


def launch_with(
    world: World,
    case: CollectiveCase,
    arguments: Arguments,
    structure: Any,
    stem: str,
    entry: str,
    blocks: int,
    threads: int | None = None,
    **macros: str | int,
) -> Operation:
    """An entry of kernels/<stem>.cu that reads a structure of its own, with `arguments` as its
    `ranks`, in device memory, to which `arguments` point, and which they keep. Raises
    DeviceError."""
    # The bits of a row must not depend on the length of all rows.
    macros = build_macros(world, case) | {"WT_SEVERAL_PAGES": 0} | macros
    memory = world.device.private(ctypes.sizeof(structure))
    arguments.keep(memory, structure)
    arguments.more, structure.ranks = memory.address, arguments
    memory.write(np.frombuffer(structure, np.uint8))
    return Operation(world.device.step(stem, entry, arguments, blocks, threads, **macros))


def set_chunk(
    world: World, case: CollectiveCase, arguments: Arguments, slots: int, row_bytes: int
) -> Unsupported | None:
    """Sets the chunk for so many slots in half a slab, of whole rows; returns why none fits."""
    arguments.chunk_bytes = chunk_that_fits(world, case, world.mapped.half_bytes / slots)
    if arguments.chunk_bytes >= row_stride(row_bytes):
        return None
    return Unsupported(
        f"a token's {row_bytes} B are more than a slot of {arguments.chunk_bytes} B",
        depends_on_size=True,
    )


def beyond_slab(world: World, parts: int, part_bytes: int) -> Unsupported | None:
    """Why so many parts do not fit into half a slab at once."""
    if parts * part_bytes <= world.mapped.half_bytes:
        return None
    return Unsupported(
        f"{parts} parts of {part_bytes} B do not fit into a slab", depends_on_size=True
    )


def launch_gemv(world: World, case: Any, stem: str, entry: str) -> Bound:
    """A GEMV_KERNEL of kernels/<stem>.cu, for a GemvCase of `layers.fused`. Raises DeviceError."""
    return launch_with(
        world,
        case,
        world.mapped.arguments(case.send, case.receive, case.count),
        case.layer,
        stem,
        entry,
        world.device.blocks_for(1 << 30),
        GEMV_THREADS,
        WT_TOKENS=case.count // case.layer.hidden,
        WT_WEIGHT=case.weight_type.element,
    )


def row_stride(row_bytes: int) -> int:
    """`stride_of` of exchange.h: the bytes of a row in a slot."""
    return (row_bytes + 63) // 64 * 64


def chunk_that_fits(world: World, case: CollectiveCase, room_bytes: float) -> int:
    """The bytes of a chunk: whole packs, at least one, within `room_bytes`."""
    most = case.build.chunk_bytes or world.device.most_chunk_bytes
    return max(PACK_BYTES, int(min(most, room_bytes)) // PACK_BYTES * PACK_BYTES)
