"""What one launch sees of the last one's stores in a peer's ordinary memory, through the L2 of
l2.py: on gfx1100 it may miss them, which a probe that waits after each launch does not find."""

from pathlib import Path
from typing import Any, cast

import pytest

from collectives.probe import LAUNCHES, MEMORY_ACCESSES, PROBE_BYTES
from kernels.devices.device import MOST_RANKS
from kernels.devices.layout import SOURCES
from tests.emulated import machine
from tests.emulated.device import EmulatedDevice
from tests.emulated.l2 import L2
from tests.emulated.ranks import Grid, enqueue, late_ranks, open_ranks
from tests.kernels.broken_kernels import HIP, Patch, copy_kernels
from tests.ranks.sanitized_ranks import ExactMemory

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(bool(machine.reason_against()), reason=str(machine.reason_against())),
]
CACHED_BYTES = 2 * len(MEMORY_ACCESSES) * MOST_RANKS * PROBE_BYTES  # of each half of a slab
ACQUIRE = Patch(HIP, '__builtin_amdgcn_fence(__ATOMIC_ACQUIRE, ""); }', "}")


def wrong_packs(arch: str, waits: bool, kernels: Path = SOURCES, seed: int = 3) -> int:
    """Runs the probe's launches on two ranks, and returns how many packs were old; the host waits
    after each launch, or after all."""
    bed = open_ranks(Grid(arch, 2, 64, 2), seed, kernels)
    devices = [cast(EmulatedDevice, world.device) for world in bed.worlds]
    slabs: list[Any] = [*bed.worlds[0].mapped.slabs]
    counts, launches, caches = [], [], list[L2]()
    for rank, (world, device) in enumerate(zip(bed.worlds, devices, strict=True)):
        peers, view = world.mapped, cast(Any, ExactMemory(slabs[0].size_bytes))
        device.l2 = L2(arch, [(0, CACHED_BYTES), (peers.half_bytes, CACHED_BYTES)])
        device.l2.add(view.address, slabs[1 - rank].address)
        caches.append(device.l2)
        peers.slabs = [slab if owner == rank else view for owner, slab in enumerate(slabs)]
        counts.append(bed.memory(4 * len(MEMORY_ACCESSES) * MOST_RANKS))
        launches.append(
            [
                device.step(
                    "memory_probe",
                    "show_later",
                    peers.arguments(0, counts[-1].address, number, PROBE_BYTES),
                    device.blocks_for(PROBE_BYTES),
                    WT_WORLD=2,
                )
                for number in range(LAUNCHES)
            ]
        )

    for steps in zip(*launches, strict=True):
        for step in steps:
            enqueue(step)
        if waits:
            devices[0].machine.run([device.launches() for device in devices])
            for cache in caches:
                cache.host_waited()
    devices[0].machine.run([device.launches() for device in devices])
    assert late_ranks(bed) is None
    return sum(int(memory.read().view("u4").sum()) for memory in counts)


@pytest.mark.parametrize(
    ("arch", "waits", "is_stale"),
    [
        ("gfx1100", False, True),
        ("gfx1100", True, False),
        ("gfx942", False, False),
        ("gfx1201", False, False),
    ],
)
def test_a_launch_misses_the_last_one_s_stores_on_gfx1100_unless_the_host_waits(
    arch, waits, is_stale
):
    assert bool(wrong_packs(arch, waits)) == is_stale


def test_kernels_that_do_not_acquire_miss_them_on_gfx942(tmp_path):
    """There the kernels' own instruction makes L2 forget, and no dispatch does."""
    assert wrong_packs("gfx942", False, copy_kernels(tmp_path, [ACQUIRE]))
