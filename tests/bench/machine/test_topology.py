"""Tests the PCIe paths, links and barriers between GPUs on the folders of recorded machines.

A user would miss a slow link above a fast one and a switch that sends peer traffic through the CPU,
and would take a guess for a fact.
"""

import pytest

from bench.machine import pci
from bench.machine.pci import links, max_rate, path_between
from tests.bench.machines import lay_out, write

pytestmark = pytest.mark.unit


def test_the_inner_switch_of_a_recorded_card_differs_from_a_switch_of_the_board(tmp_path, machine):
    machine(lay_out(tmp_path / "a", "two_mi210_across_sockets"))
    assert links("0000:23:00.0")[-1][1] == "0000:21:00.0"
    assert max_rate(links("0000:23:00.0")[-1][1]) == (16.0, 16)
    machine(lay_out(tmp_path / "b", "two_vega20_under_a_switch"))
    assert links("0000:3f:00.0")[-1][1] == "0000:3d:00.0"
    root = machine(lay_out(tmp_path / "c", "x570_chipset"))
    # A chipset does not belong to the card, even if both are AMD's: it has more lower ports.
    write(
        root,
        {
            "sys/bus/pci/devices/0000:05:00.0/vendor": pci.AMD,
            "sys/bus/pci/devices/0000:02:00.0/0000:03:08.0/vendor": pci.AMD_CPU,
        },
    )
    assert links("0000:05:00.0")[-1][1] == "0000:05:00.0"


def test_the_path_of_recorded_cards_is_below_a_switch_or_across_sockets(tmp_path, machine):
    machine(lay_out(tmp_path / "one", "two_vega20_under_a_switch"))
    path, turns = path_between("0000:3f:00.0", "0000:43:00.0")
    assert (path, turns) == ("PCIe, below the same switch", ["0000:3c:04.0", "0000:3c:0c.0"])
    machine(lay_out(tmp_path / "two", "two_mi210_across_sockets"))
    assert path_between("0000:23:00.0", "0000:83:00.0")[0] == "PCIe, across sockets"
    path = path_between("0000:83:00.0", "0000:e4:00.0")[0]
    assert path == "PCIe, two root complexes of one socket"


def test_sockets_are_unknown_if_a_recorded_firmware_gives_no_numa_node(tmp_path, machine):
    machine(lay_out(tmp_path, "westmere_without_numa_of_pci"))
    assert "unknown" in path_between("0000:03:00.0", "0000:43:00.0")[0]
    assert path_between("0000:03:00.0", "0000:99:00.0") == ("unknown", [])
