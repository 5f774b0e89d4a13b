"""Machine code of gfx1201, gfx1100 and gfx942 executed by an emulator: `make test-emulated`, on
fewer grids than with FULL_COUNT=1.

machine.py says what the emulator shows and what it cannot show. Algorithms of the registry are
tested without a line here. A kernel file that nothing executes fails
`test_every_kernel_file_is_executed_and_right`."""

from dataclasses import replace
from itertools import product
from typing import cast

import pytest

from collectives.algorithms import allreduce_copy_engine
from collectives.operation import Limits
from collectives.registry import ALGORITHMS
from kernels.devices.layout import SOURCES
from tests.emulated import machine
from tests.emulated.counts import counted
from tests.emulated.device import EmulatedDevice
from tests.emulated.ranks import Grid, late_ranks, open_ranks, run_items
from tests.kernels.broken_kernels import PATCHES, copy_kernels
from tests.launch import few
from tests.ranks.sanitized_ranks import Bed, fused_items, link_items, plain_items, routed_items

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(bool(machine.reason_against()), reason=str(machine.reason_against())),
]

# A wave has 32 threads; on gfx942 it has 64.
GRIDS = {
    f"{grid.arch}, {grid.ranks} ranks": grid
    for grid in (
        Grid("gfx1201", 2, 64, 2),
        Grid("gfx942", 3, 192, 2),
        Grid("gfx1201", 3, 96, 1),
        Grid("gfx1100", 2, 64, 2),
        Grid("gfx942", 2, 128, 2),
    )
}
FIRST, *REST = GRIDS
# The items of each kind, and how many there are at least.
KINDS = {
    "plain": (plain_items, 40),
    "routed": (routed_items, 9),
    "fused": (fused_items, 5),
    "link": (link_items, 10),
}
# AMD has no instruction for multicast addresses: the software GPU executes this file.
NOT_FOR_AMD = {"allreduce_multimem"}


@pytest.fixture(autouse=True)
def copy_engines_take_short_messages(monkeypatch):
    name, all_reduce = "two_shot_copy_engine", ALGORITHMS["all_reduce"]
    monkeypatch.setitem(all_reduce, name, replace(all_reduce[name], limits=Limits()))
    monkeypatch.setattr(allreduce_copy_engine, "LEAST_PIECE_BYTES", 256)


def uncached(bed: Bed) -> Bed:
    """The flags of kernels for uncached slabs write no cache back."""
    for world in bed.worlds:
        world.mapped.shown = replace(world.mapped.shown, writes_back=False)
    return bed


def assert_right(grid: str, kind: str) -> set[str]:
    """Launches each item of a kind twice, in random order, without a meeting between two launches.
    The epoch wraps in launch 20. Returns the kernel files that were executed."""
    bed = open_ranks(GRIDS[grid], seed=len(grid + kind))
    items, least = KINDS[kind]
    items(bed, lambda name: True)
    assert (run_items(bed, launches=2), late_ranks(bed)) == ({}, None)
    assert len(bed.items) >= least
    return {*cast(EmulatedDevice, bed.worlds[0].device).machine.executed}


def test_every_kernel_file_is_executed_and_right():
    """Every algorithm of every collective, in each shape, copied and registered, in place or not;
    routed and fused kernels; and the probes of the link and of memory."""
    executed = set[str]().union(*(assert_right(FIRST, kind) for kind in KINDS))
    every = {str(path.relative_to(SOURCES).with_suffix("")) for path in SOURCES.rglob("*.cu")}
    missing = sorted(every - executed - NOT_FOR_AMD)
    assert not missing, f"the emulator executes no kernel of {', '.join(missing)}"


@pytest.mark.parametrize(("grid", "kind"), few(product(REST, KINDS), 1))
def test_other_architectures_and_ranks_are_right(grid, kind):
    assert_right(grid, kind)


@pytest.mark.parametrize("grid", few([name for name in GRIDS if "2 ranks" in name], 1))
def test_kernels_for_uncached_slabs_are_right(grid):
    bed = uncached(open_ranks(GRIDS[grid], seed=5))
    plain_items(bed, lambda name: name.startswith("all_reduce"))
    assert (run_items(bed, launches=2), late_ranks(bed)) == ({}, None)


@pytest.mark.parametrize(
    ("arch", "bits"), few([("gfx1201", 8), ("gfx942", 6), ("gfx942", 8), ("gfx1201", 6)], 2)
)
def test_one_shot_of_codes_waits_and_executes_less_than_two(arch, bits):
    """A wave passes three barriers of its block with one flag, and five with two. It rounds a unit
    of the input, and neither rounds nor awaits the sums. docs/experiments/kernels.md has the
    table."""
    one, two = (counted(arch, f"{form}_push_int{bits}", 4096) for form in ("one_shot", "two_shot"))
    assert (one.blocks, one.barriers, two.barriers) == (1, 3, 5)
    assert one.instructions < two.instructions / 2
    assert (one.waits, one.stores) < (two.waits, two.stores)


# No patch takes out a fence: the emulated memory is sequentially consistent. Epochs wrap after 20
# launches.
FLAGS = "all_reduce one_shot_pull copied", "all_reduce two_shot copied"
PACKETS = "all_reduce one_shot_ll copied", "all_reduce one_shot_sentinel copied"
BROKEN = [
    ("without the wait", "plain", FLAGS),
    ("without the wait", "routed", ("routed direct_push round_trip copied",)),
    (
        "without the wait",
        "fused",
        ("allreduce_rmsnorm copied 3", "allreduce_rmsnorm push 3", "gemv_allreduce"),
    ),
    ("without the wait", "link", ("link link_push",)),
    ("without the wait", "uncached", FLAGS),
    ("without the epoch flip", "plain", PACKETS),
]


@pytest.mark.parametrize(("patch", "kind", "names"), BROKEN)
@pytest.mark.parametrize("arch", few(machine.FAMILIES, 1))
def test_broken_kernels_are_noticed(arch, patch, kind, names, tmp_path):
    kernels = copy_kernels(tmp_path, PATCHES[patch])
    bed = open_ranks(Grid(arch, 2, 128, 2), 1, kernels, paces=(1.0, 0.1), timeout_s=0.03)
    if kind == "uncached":
        uncached(bed)
    items, _ = KINDS["plain" if kind == "uncached" else kind]
    items(bed, lambda item: item in names)
    assert len(bed.items) == len(names)
    assert run_items(bed, launches=16) or late_ranks(bed)
