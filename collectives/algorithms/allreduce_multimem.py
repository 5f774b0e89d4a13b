"""All-reduces summed by an NVSwitch (NVLS). See kernels/allreduce_multimem.cu.

All ranks' slabs lie behind one multicast address, serve all cases, and are made for the first.
Not measured yet: two-shot should win from four ranks on, as a link carries (1 + 1/n) S bytes each
way, in place of 2(n-1)/n S (S. Jeaugey in nccl-tests pull 239): the switch reads the slabs of all
ranks for each reader. One-shot's n S are no fewer than those of a push. The switch chooses the
order of a sum, so `auto` takes them from a measured row alone (docs/methods.md)."""

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


def _one_shot_traffic(ranks: int, case: CollectiveCase) -> Traffic:
    """A copy into the own slab; then the switch reads it once for each rank."""
    size_bytes = case.segment_bytes
    return Traffic(1, ((size_bytes, 0), (0, ranks * size_bytes)), size_bytes)


def _two_shot_traffic(ranks: int, case: CollectiveCase) -> Traffic:
    """A copy into the own slab; then the switch reads it, and takes this rank's sums."""
    size_bytes = case.segment_bytes
    return Traffic(2, ((size_bytes, 0), (0, size_bytes + size_bytes // ranks)), size_bytes)


through_switch = partial(KernelAlgorithm, refuses=_refuses, is_modelled=False)
ALGORITHMS = {
    "all_reduce": (
        through_switch(
            "one_shot_multimem",
            "each rank reads the sum of all slabs from the NVSwitch (NVLS)",
            partial(_bind, "one_shot_multimem"),
            _one_shot_traffic,
            limits=Limits(wins_below=lambda world: 4 << 20),
        ),
        through_switch(
            "two_shot_multimem",
            "each rank reads one segment's sum, and the NVSwitch stores it to all (NVLS)",
            partial(_bind, "two_shot_multimem"),
            _two_shot_traffic,
            varies=("chunks",),
            in_rounds=True,
        ),
    )
}
