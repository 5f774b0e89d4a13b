"""Machine code of gfx1201, gfx1100 and gfx942 executed by an emulator: `make test-emulated`.

machine.py says what the emulator shows and what it cannot show. Algorithms of the registry are
tested without a line here; a kernel file that no test executes fails
`test_every_kernel_file_is_executed`."""

import re
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from collectives import allreduce_copy_engine
from kernels.devices.compile_cache import SOURCES
from kernels.devices.device import Step
from tests.collectives import collective_examples
from tests.collectives.collective_examples import check
from tests.emulated import machine
from tests.emulated.ranks import (
    Grid,
    devices_of,
    enqueue,
    examples_on,
    late_ranks,
    open_ranks,
    run,
    run_items,
)
from tests.kernels.broken_kernels import PATCHES, SYNC, WITH_FAULTS, Patch, copy_kernels
from tests.launch import count
from tests.ranks.sanitized_ranks import fused_items, link_items, plain_items, routed_items

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(bool(machine.reason_against()), reason=str(machine.reason_against())),
]

# A wave has 32 threads; on gfx942 it has 64.
GRIDS = {
    f"{grid.arch}, {grid.ranks} ranks": grid
    for grid in (
        Grid("gfx1201", 2, 64, 2),
        Grid("gfx1201", 3, 96, 1),
        Grid("gfx1100", 2, 64, 2),
        Grid("gfx942", 2, 128, 2),
        Grid("gfx942", 3, 192, 1),
    )
}
ITEMS = {"plain": plain_items, "routed": routed_items, "fused": fused_items, "link": link_items}


@pytest.fixture(autouse=True)
def copy_engines_take_short_messages(monkeypatch):
    monkeypatch.setattr(allreduce_copy_engine, "LEAST_BYTES", 0)
    monkeypatch.setattr(allreduce_copy_engine, "LEAST_PIECE_BYTES", 256)


@cache
def wrong_items(grid: str, kind: str) -> tuple[dict[str, int], str | None, int, set[str]]:
    """The wrong elements of each item, the first rank that waited in vain, the items, and the
    kernels executed."""
    bed = open_ranks(GRIDS[grid], seed=len(grid + kind))
    ITEMS[kind](bed, lambda name: True)
    wrong = run_items(bed, launches=2)
    return wrong, late_ranks(bed), len(bed.items), set(devices_of(bed)[0].machine.executed)


@pytest.mark.parametrize("kind", ITEMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_item_is_right(grid, kind):
    """Every algorithm of every collective, in each shape, copied and registered, in place or not;
    routed and fused kernels; and the probes of the link. Two launches each, in random order, and no
    meeting between them."""
    wrong, late, items, _ = wrong_items(grid, kind)
    assert (wrong, late) == ({}, None)
    assert items >= {"plain": 40, "routed": 6, "fused": 4, "link": 6}[kind]


@pytest.mark.parametrize("grid", GRIDS)
def test_random_examples_are_right(grid):
    """All types and operations, tails, and buffers that begin at any element."""
    bed = open_ranks(GRIDS[grid], seed=3)
    examples = count(6 * 30)
    with mock.patch.object(collective_examples, "MOST_BYTES", 16 << 10):
        check(examples, 5, examples_on(bed, examples // 2), bed.ranks)


# Fences are not in these tables: the emulated memory is sequentially consistent.
BARRIER = "  block_barrier();\n"
WITHOUT = {
    "the barrier before the flags": [
        Patch(SYNC, "hand_over_stores();\n" + BARRIER, "hand_over_stores();\n")
    ],
    "the barrier after the wait": [Patch(SYNC, "wanted, p);\n" + BARRIER, "wanted, p);\n")],
}
OFTEN = Patch("kernels/include/faults.h", "LAUNCHES_PER_FAULT = 1000", "LAUNCHES_PER_FAULT = 3")
FLAGS, PACKETS = ("one_shot_pull", "two_shot"), ("one_shot_ll", "one_shot_sentinel")
BROKEN = {
    **{f"without {name}": (patches, FLAGS) for name, patches in WITHOUT.items()},
    **{
        f"{algorithms[0]} {name}": (PATCHES[name], algorithms)
        for name in ("without the wait", "without the epoch flip")
        for algorithms in (FLAGS, *((packets,) for packets in PACKETS))
    },
    "without the reset": (PATCHES["without the reset"], PACKETS[1:]),
    **{
        name: ([*PATCHES[name], OFTEN], FLAGS)
        for name in ("flip_bit", "skip_push", "drop_flag", "stale_epoch")
    },
}


def errors_of(
    arch: str, patches: list[Patch], algorithms: tuple[str, ...], folder: Path
) -> list[object]:
    kernels = copy_kernels(folder, patches)
    bed = open_ranks(Grid(arch, 2, 128, 2), 1, kernels, paces=(1.0, 0.1), timeout_s=0.03)
    plain_items(bed, lambda item: item in [f"all_reduce {name} copied" for name in algorithms])
    return [error for error in (run_items(bed, launches=8), late_ranks(bed)) if error]


@pytest.mark.parametrize("arch", machine.FAMILIES)
def test_broken_kernels_are_the_only_wrong_ones(arch, tmp_path):
    assert errors_of(arch, [WITH_FAULTS], FLAGS + PACKETS, tmp_path) == []


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("arch", machine.FAMILIES)
def test_broken_kernels_are_noticed(arch, name, tmp_path):
    assert errors_of(arch, *BROKEN[name], tmp_path)


def test_a_matmul_is_right():
    from bench.features.background import STRUCTURES, Gemm

    bed = open_ranks(Grid("gfx1201", 1, 64, 2), seed=1)
    device, draw = devices_of(bed)[0], np.random.default_rng(1)
    a, b = (
        draw.normal(size=(16, 12)).astype(np.float32),
        draw.normal(size=(12, 32)).astype(np.float32),
    )
    memories = [device.store(a), device.store(b), device.private(4 * 16 * 32)]
    gemm = Gemm(*(memory.address for memory in memories), 32, 12, 0, 4)
    enqueue(Step(device.compile("gemm", {}, STRUCTURES).kernel("gemm"), gemm, 2))
    run(bed)
    assert np.allclose(memories[2].read().view(np.float32).reshape(16, 32), a @ b, atol=1e-5)


def test_a_delay_lasts_its_share():
    from bench.features.slowed import Slowdown

    bed = open_ranks(Grid("gfx1201", 1, 32, 1), seed=1)
    device = devices_of(bed)[0]
    start, module = device.private(8), device.compile("slowed", {}, (Slowdown,))
    slowdown = Slowdown(start.address, 3.0)
    enqueue(Step(module.kernel("note_start"), slowdown))
    device.stream.append(lambda: setattr(device.machine, "clock", device.machine.clock + 10_000))
    enqueue(Step(module.kernel("linger"), slowdown))
    end = run(bed).clock
    assert (
        4 * 10_000
        <= end - int(start.read().view("u8")[0]) // machine.NS_PER_INSTRUCTION
        <= 4 * 11_000
    )


def test_every_kernel_file_is_executed():
    """Its entries run in test_every_item_is_right; these run in other tests of this file, the last
    on the software GPU alone: AMD has no such instruction."""
    elsewhere = {"gemm", "slowed", "routed_records", "allreduce_multimem"}
    executed = set.union(*(wrong_items("gfx1201, 2 ranks", kind)[3] for kind in ITEMS))
    missing = set()
    for source in SOURCES.rglob("*.cu"):
        entries = set(
            re.findall(
                r"^(?:(?:RANK_)?KERNEL[ (]|extern .* void )(\w+)", source.read_text(), re.MULTILINE
            )
        )
        if not entries & executed:
            missing.add(source.stem)
    assert missing == elsewhere
