"""Machine code of gfx1201, gfx1100 and gfx942 executed by an emulator: `make test-emulated`.

machine.py says what the emulator shows and what it cannot show. Algorithms of the registry are
tested without a line here."""

from dataclasses import replace
from typing import cast

import pytest

from collectives.peer_buffer import PeerBuffer
from tests.emulated import machine
from tests.emulated.ranks import Grid, late_ranks, open_ranks, run_items
from tests.kernels.broken_kernels import PATCHES, copy_kernels
from tests.ranks.sanitized_ranks import fused_items, plain_items, routed_items

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
        Grid("gfx942", 3, 192, 2),
    )
}
ITEMS = {"plain": plain_items, "routed": routed_items, "fused": fused_items}


@pytest.mark.parametrize("grid", [name for name in GRIDS if "2 ranks" in name])
def test_kernels_for_uncached_slabs_are_right(grid):
    """Their flags write no cache back."""
    bed = open_ranks(GRIDS[grid], seed=5)
    for world in bed.worlds:
        peers = cast(PeerBuffer, world.peers)
        peers.shown = replace(peers.shown, writes_back=False)
    plain_items(bed, lambda name: name.startswith("all_reduce"))
    assert (run_items(bed, launches=2), late_ranks(bed)) == ({}, None)


@pytest.mark.parametrize("kind", ITEMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_item_is_right(grid, kind):
    """Every algorithm of every collective, in each shape, copied and registered, in place or not;
    and routed and fused kernels. Two launches each, in random order, and no meeting between
    them. The epoch wraps in launch 20."""
    bed = open_ranks(GRIDS[grid], seed=len(grid + kind))
    ITEMS[kind](bed, lambda name: True)
    assert (run_items(bed, launches=2), late_ranks(bed)) == ({}, None)
    assert len(bed.items) >= {"plain": 40, "routed": 6, "fused": 4}[kind]


# No patch takes out a fence: the emulated memory is sequentially consistent. Epochs wrap after 20
# launches.
FLAGS, PACKETS = ("one_shot_pull", "two_shot"), ("one_shot_ll", "one_shot_sentinel")
BROKEN = {
    "without the wait": FLAGS,
    "without the epoch flip": PACKETS,
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("arch", machine.FAMILIES)
def test_broken_kernels_are_noticed(arch, name, tmp_path):
    kernels, algorithms = copy_kernels(tmp_path, PATCHES[name]), BROKEN[name]
    bed = open_ranks(Grid(arch, 2, 128, 2), 1, kernels, paces=(1.0, 0.1), timeout_s=0.03)
    plain_items(bed, lambda item: item in [f"all_reduce {name} copied" for name in algorithms])
    assert run_items(bed, launches=16) or late_ranks(bed)
