"""All-reduces summed by an NVSwitch (NVLS). See kernels/allreduce_multimem.cu.

All ranks' slabs lie behind one multicast address, serve all cases, and are made for the first.
Not measured yet: they should win from three ranks on, as a link's bytes do not grow with them."""

import contextlib
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from collectives.binding import bind_kernel
from collectives.collective import Traffic
from collectives.communicator import Communicator, Refusal
from collectives.descriptors import exchange
from collectives.operation import (
    Bound,
    CollectiveCase,
    KernelAlgorithm,
    Limits,
    Operation,
    Unsupported,
    World,
)
from kernels.devices.device import MOST_RANKS

if TYPE_CHECKING:
    from kernels.devices.gpu import GpuDevice
    from kernels.devices.multicast import GpuMulticast

# What multimem combines in 16 bytes, as in multimem.h: not integers, fp64, or fp32's minimum.
COMBINED = {
    "float32": ("sum",),
    "float16": ("sum", "min", "max"),
    "bfloat16": ("sum", "min", "max"),
}
CHUNKS, REST_BYTES = 4, 4096  # of a half: two chunks of input and two of sums, in whole packs


def _bind(entry: str, world: World, case: CollectiveCase) -> Bound:
    """Raises DeviceError."""
    peers = world.mapped
    if peers.multicast is None:
        peers.multicast = _shared_slabs(world)
    slabs, half_bytes = peers.multicast, peers.half_bytes
    if isinstance(slabs, str):
        return Unsupported(slabs)
    bound = bind_kernel(
        world, case, "allreduce_multimem", entry, (half_bytes - REST_BYTES) / CHUNKS
    )
    if isinstance(bound, Operation):
        arguments = bound.step.argument
        arguments.slab[:] = [slabs.own] * MOST_RANKS
        arguments.half_bytes, arguments.more = half_bytes, slabs.address
        return replace(bound, ignores_nan=False)  # PTX does not say what the switch does
    return bound


def _refuses(world: World, case: CollectiveCase) -> Unsupported | None:
    if (name := world.device.name) != "cuda":
        reason = f"the {name} device has no multicast; NVIDIA GPUs on an NVSwitch have it"
        return Unsupported(reason, depends_on_size=True)
    if world.ranks == 1:
        return Unsupported("a single rank has no peer to sum with", depends_on_size=True)
    if world.memory == "same_device":
        return Unsupported("ranks share a GPU, and a multicast address takes each GPU once")
    if case.redop not in COMBINED.get(case.datatype.name, ()):
        return Unsupported(f"multimem has no {case.redop} of {case.datatype.name} in 16 bytes")
    return None


def _shared_slabs(world: World) -> "GpuMulticast | str":
    """This rank's slab and the address of all, or why there are none; the same on all ranks."""
    communicator, undo = world.communicator, contextlib.ExitStack()
    try:
        with communicator.all_or_none():
            device = cast("GpuDevice", world.device)
            slabs = device.multicast(communicator.size, 2 * world.mapped.half_bytes)
            undo.callback(slabs.close)
        _connect(communicator, slabs)
    except Refusal as refusal:
        undo.close()
        return str(refusal)
    return slabs


def _connect(communicator: Communicator, slabs: "GpuMulticast") -> None:
    """Binds every rank's memory to one multicast object, whose descriptor each rank gets from
    rank 0's process. Raises Refusal."""
    with contextlib.ExitStack() as passed:
        created = None
        with communicator.all_or_none():
            if communicator.rank == 0:
                created = slabs.create()
                passed.callback(os.close, created)
        descriptor = exchange(communicator, created, passed)[0]
        with communicator.all_or_none():
            slabs.join(cast(int, descriptor))
    with communicator.all_or_none():  # all have joined
        slabs.bind()


through_switch = partial(KernelAlgorithm, refuses=_refuses, is_modelled=False)
ALGORITHMS = {
    "all_reduce": (
        through_switch(
            "one_shot_multimem",
            "each rank reads the sum of all slabs from the NVSwitch (NVLS)",
            partial(_bind, "one_shot_multimem"),
            lambda ranks, case: Traffic(1, ((0, case.segment_bytes),), case.segment_bytes),
            limits=Limits(wins_below=lambda world: 4 << 20),
        ),
        through_switch(
            "two_shot_multimem",
            "each rank reads one segment's sum, and the NVSwitch stores it to all (NVLS)",
            partial(_bind, "two_shot_multimem"),
            lambda ranks, case: Traffic(
                2, ((case.segment_bytes // ranks,) * 2,), case.segment_bytes
            ),
        ),
    )
}
