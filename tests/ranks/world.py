"""Shared code of the test programs that run as ranks: a world, and launches."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from collectives.communicator import Communicator
from collectives.operation import World
from collectives.peer_buffer import WaitPolicy
from collectives.world import open_device, open_world
from kernels.devices.device import Device, Step, Watch

# The largest relative error of one rounding: half a unit in the last place.
ROUNDING = {
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float64": 2.0**-53,
    "int32": 0.0,
    "int64": 0.0,
    "int8": 0.0,
    "uint8": 0.0,
    "float8_e4m3": 2.0**-4,
    "float8_e5m2": 2.0**-3,
}
WITHOUT_MACROS = ("iteration", "link_probe", "memory_probe")  # they measure; no test checks them


def connect(
    timeout_s: float = 30.0, device: str = "cpu", memory: str = "auto", **macros: int
) -> tuple[World, Watch]:
    """Open a world of all ranks of this launch over a device, which the ranks may share.

    `macros` of platform.h, such as WT_STREAM_SLAB=1, apply to the collectives.
    """
    communicator = Communicator()
    opened, _ = open_device(communicator, device, share_gpus=True)
    watch = opened.watch(Watch())
    world = open_world(communicator, opened, WaitPolicy(watch, True, timeout_s), memory)
    compile_with(world.device, macros)
    return world, watch


def compile_with(device: Device, macros: Mapping[str, int]) -> None:
    """Add these macros to every later build of a kernel under test."""
    plain = device.step
    settings = {name: value for name, value in macros.items() if value}  # 0 is the default

    def step(stem: str, *words: Any, **own_macros: Any) -> Step:
        more = {} if stem in WITHOUT_MACROS else settings
        return plain(stem, *words, **{**own_macros, **more})

    device.step = step  # type: ignore


def launch(device: Device, step: Step, times: int) -> None:
    """Launch a step `times` times without a pause, and wait for its end."""
    for _ in range(times - 1):
        if device.is_cpu:
            device.caller(step)()
        else:
            step.function(step.blocks, step.argument)
    device.caller(step)()


def same_on_all_ranks(
    world: World, watch: Watch, error: str | None, *bits: np.ndarray
) -> str | None:
    """The first error of any rank, and whether the ranks got different bits; the same on every
    rank."""
    if watch.timed_out:
        error = f"rank {watch.peer} never came"
    digest = [sha256(array.tobytes()).digest() for array in bits]
    errors, digests = zip(*world.communicator.all_gather((error, digest)), strict=True)
    wrong = [f"rank {rank}: {sentence}" for rank, sentence in enumerate(errors) if sentence][:1]
    wrong += ["ranks got different bits"] if any(each != digest for each in digests) else []
    return "; ".join(wrong) or None
