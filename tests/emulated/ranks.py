"""Ranks of one process on emulated GPUs, over the examples and items that other tests use too."""

import ctypes
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from collectives.communicator import Refusal
from collectives.operation import Operation, Parts, World
from kernels.devices.device import DeviceError, Gate, Step
from kernels.devices.layout import SOURCES
from tests.emulated.device import EmulatedDevice
from tests.emulated.machine import Machine
from tests.ranks.sanitized_ranks import Bed, meeting, open_bed

INBOX_BYTES = 1 << 19  # of the copy engines, for the largest case
TIMEOUT_S = 0.5  # of the emulated clock: 50 million instructions


class Grid(NamedTuple):
    """Ranks on GPUs of an architecture, their threads a block and most blocks."""

    arch: str
    ranks: int
    threads: int
    blocks: int


@contextmanager
def refused() -> Iterator[None]:
    """What all ranks do with an error, of which each has the same."""
    try:
        yield
    except DeviceError as error:
        raise Refusal(str(error)) from error


def open_ranks(
    grid: Grid,
    seed: int,
    kernels: Path = SOURCES,
    paces: Sequence[float] = (1.0,),
    timeout_s: float = TIMEOUT_S,
) -> Bed:
    machine = Machine(seed, paces)
    devices = [
        EmulatedDevice(machine, grid.arch, grid.threads, grid.blocks, kernels)
        for _ in range(grid.ranks)
    ]
    bed = open_bed(devices, seed, timeout_s=timeout_s, library=Exchange())
    inboxes: Any = [device.private(INBOX_BYTES) for device in devices]
    for world in bed.worlds:
        world.mapped.inboxes["two_shot"] = [inboxes]
        cast(Any, world.communicator).all_or_none = refused
    return bed


class Exchange:
    """The part of a library that the routed all-to-all needs: parts of the ranks' buffers, each a
    number of bytes for another rank, that the host copies while the ranks meet."""

    def variants(self, world: World) -> tuple[str, ...]:
        return ("plain",)

    def bind_exchange(self, world: World, send: Parts, receive: Parts) -> Operation:
        device, rank, at = world.device, world.rank, receive[0]
        copies = list[Step]()
        for address, sizes in world.communicator.all_gather(send):
            source, size_bytes = address + int(sizes[:rank].sum()), int(sizes[rank])
            move = partial(ctypes.memmove, at, source, size_bytes)
            copies.append(device.python("copy", move))
            at += size_bytes
        return Operation(device.sequence([meeting(world), *copies, meeting(world)]))


def enqueue(step: Step) -> None:
    step.function(step.blocks, step.argument)


def late_ranks(bed: Bed) -> str | None:
    """A sentence about the first rank that waited in vain."""
    return next(
        (
            f"rank {r}: rank {world.watch.peer} never came"
            for r, world in enumerate(bed.worlds)
            if world.watch.timed_out
        ),
        None,
    )


def run_items(bed: Bed, launches: int) -> dict[str, int]:
    """Launches each item several times, in an order that is random and the same on every rank.
    Returns the number of wrong elements by item. The ranks meet once, at the start."""
    order = random.Random(bed.seed).sample([*bed.items] * launches, launches * len(bed.items))
    for rank, world in enumerate(bed.worlds):
        begin = world.device.loop_step("begin_iteration", Gate(watch=ctypes.addressof(world.watch)))
        enqueue(meeting(world))
        for name in order:
            for step in [begin, *bed.items[name][rank][0]]:
                enqueue(step)
    devices = [cast(EmulatedDevice, world.device) for world in bed.worlds]
    devices[0].machine.run([device.launches() for device in devices])
    return {
        name: wrong
        for name, of_ranks in bed.items.items()
        if (wrong := sum(int(memory.read()[:4].view("u4")[0]) for _, memory in of_ranks if memory))
    }
