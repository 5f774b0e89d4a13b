"""The norm of stable bits in machine code of GPUs, against numpy, bit by bit."""

from typing import cast

import pytest

from tests.emulated import machine
from tests.emulated.device import EmulatedDevice
from tests.emulated.ranks import Grid, enqueue, open_ranks
from tests.launch import few
from tests.ranks.stable_rows import TYPES, drawn, results

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(bool(machine.reason_against()), reason=str(machine.reason_against())),
]


def in_streams(worlds, steps):
    for step in steps:
        enqueue(step)
    devices = [cast(EmulatedDevice, world.device) for world in worlds]
    devices[0].machine.run([device.launches() for device in devices])


# The number of ranks, threads and blocks changes no bit.
GRIDS = few(
    [
        Grid("gfx1201", 2, 96, 2),
        Grid("gfx942", 4, 64, 1),
        Grid("gfx1100", 8, 64, 1),
        Grid("gfx1201", 1, 512, 1),
    ],
    1,
)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", TYPES)
def test_machine_code_has_the_bits_of_numpy(grid, name):
    rows = drawn(name, tokens=2)
    for from_sums in (False, True):
        worlds = open_ranks(grid, seed=1).worlds
        for world in worlds:
            world.device.most_chunk_bytes = 32 << 10  # room for a row
        for arrays in results(worlds, rows, from_sums, launch=in_streams):
            for array, wanted in zip(arrays, rows.expected(), strict=True):
                assert array.tobytes() == wanted.tobytes()
