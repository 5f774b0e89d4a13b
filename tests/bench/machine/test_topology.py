"""Tests the PCIe paths, links and barriers between GPUs on the folders of recorded machines.

A user would miss a slow link above a fast one and a switch that sends peer traffic through the CPU,
and would take a guess for a fact.
"""

import pytest

from bench.machine import pci
from bench.machine.pci import (
    acs_redirects,
    chain,
    iommu,
    kfd_peers,
    links,
    most,
    path_between,
    rates,
    through_chipset,
)
from tests.bench.machines import lay_out, recorded, with_acs, write

pytestmark = pytest.mark.unit


def test_a_recorded_card_behind_the_chipset_has_the_links_above_the_chipset(tmp_path, machine):
    machine(lay_out(tmp_path, "x570_chipset"))
    devices = ["pci0000:00", "0000:00:01.2", "0000:02:00.0", "0000:03:02.0", "0000:05:00.0"]
    assert chain("0000:05:00.0") == devices
    assert through_chipset(chain("0000:05:00.0")[1:-1])
    assert not through_chipset(chain("0000:0a:00.0")[1:-1])
    uplink = links("0000:05:00.0")[0][1]
    now = rates("0000:05:00.0", under_load=True)[uplink]
    assert (uplink, now, most(uplink)) == ("0000:02:00.0", (16.0, 4), (16.0, 8))
    assert path_between("0000:05:00.0", "0000:0a:00.0") == ("PCIe, same root complex", [])


def test_the_inner_switch_of_a_recorded_card_differs_from_a_switch_of_the_board(tmp_path, machine):
    machine(lay_out(tmp_path / "a", "two_mi210_across_sockets"))
    assert links("0000:23:00.0")[-1][1] == "0000:21:00.0"
    assert most(links("0000:23:00.0")[-1][1]) == (16.0, 16)
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


def test_a_recorded_idle_link_counts_with_its_full_speed(tmp_path, machine):
    machine(lay_out(tmp_path, "rtx2070_idle"))
    assert rates("0000:07:00.0") == {"0000:07:00.0": (8.0, 16)}
    assert rates("0000:07:00.0", under_load=True) == {"0000:07:00.0": (2.5, 16)}


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


LOOPED = bytearray(bytes(0x1000))
LOOPED[0x100:0x104] = (0x100 << 20 | 1 << 16 | 0x000B).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("config", "redirects"),
    [
        (
            bytes(0x100) + bytes.fromhex(recorded("acs_of_a_haswell_root_port")["config_from_100"]),
            True,
        ),
        (with_acs(0b0010011), False),  # all redirects except the recorded ones
        (with_acs(0x1F)[:64], None),
        (LOOPED, False),
        (None, None),
    ],
)
def test_acs_is_read_from_the_recorded_bytes_of_a_port(tmp_path, machine, config, redirects):
    machine(tmp_path)
    device = tmp_path / "sys/bus/pci/devices/0000:00:02.0"
    device.mkdir(parents=True)
    if config:
        size = 0x1000 if len(config) > 64 else 64
        (device / "config").write_bytes(bytes(config).ljust(size, b"\0"))
    assert acs_redirects("0000:00:02.0") is redirects


@pytest.mark.parametrize(
    ("kind", "word"),
    [("identity", "passthrough"), ("DMA-FQ", "translating"), ("unmanaged", None)],
)
def test_the_iommu_follows_the_type_of_its_group(tmp_path, kind, word, machine):
    devices = "sys/bus/pci/devices"
    files = {f"{devices}/0000:01:00.0/iommu_group/type": kind, f"{devices}/0000:02:00.0/class": ""}
    machine(write(tmp_path, files))
    assert iommu("0000:01:00.0") == word
    assert iommu("0000:02:00.0") == "off"
    assert iommu("0000:03:00.0") is None


def kfd_node(number, bus, links, peers=True):
    """A node in KFD's format; `links` are (folder, type, to)."""
    folder = f"sys/class/kfd/kfd/topology/nodes/{number}"
    simds = 240 if bus else 0
    count = "p2p_links_count 1\n" if peers else ""
    properties = f"cpu_cores_count 0\nsimd_count {simds}\n{count}location_id {bus << 8}\ndomain 0"
    files = {f"{folder}/properties": properties}
    for index, (group, kind, to) in enumerate(links):
        properties = f"type {kind}\nnode_from {number}\nnode_to {to}\nweight 15"
        files[f"{folder}/{group}/{index}/properties"] = properties
    return files


def test_xgmi_of_the_recorded_pair_and_peers_over_pcie_are_read_from_kfd_peers(tmp_path, machine):
    xgmi = {
        **kfd_node(0, 0, []),
        **kfd_node(1, 0x3F, [("io_links", 2, 0), ("io_links", 11, 2)]),
        **kfd_node(2, 0x43, [("io_links", 2, 0), ("io_links", 11, 1)]),
    }
    machine(write(tmp_path / "a", xgmi))
    assert kfd_peers() == {
        "0000:3f:00.0": {"0000:43:00.0": "xGMI"},
        "0000:43:00.0": {"0000:3f:00.0": "xGMI"},
    }
    pcie = {
        **kfd_node(1, 0x3F, [("io_links", 2, 0), ("p2p_links", 2, 2)]),
        **kfd_node(2, 0x43, [("io_links", 2, 0)]),
    }
    peers = {"0000:3f:00.0": {"0000:43:00.0": "PCIe"}, "0000:43:00.0": {}}
    machine(write(tmp_path / "b", pcie))
    assert kfd_peers() == peers


def test_a_recorded_kfd_that_does_not_count_peers_has_none(tmp_path, machine):
    machine(lay_out(tmp_path, "kfd_of_linux_4"))
    assert kfd_peers() == {}


def test_amdgpu_s_peer_parameter_is_read_absent_or_unknown(tmp_path, machine):
    machine(tmp_path)
    assert pci.amdgpu_p2p() is None
    write(tmp_path, {"sys/module/amdgpu/parameters/pcie_p2p": "N"})
    assert pci.amdgpu_p2p() == "N"
    (tmp_path / "sys/module/amdgpu/parameters/pcie_p2p").unlink()
    assert pci.amdgpu_p2p() == "not built"


def test_gpus_are_devices_of_the_two_vendors_and_no_bridge_or_network_card(tmp_path, machine):
    machine(lay_out(tmp_path / "a", "two_vega20_under_a_switch"))
    assert pci.gpu_bus_ids() == ["0000:3f:00.0", "0000:43:00.0"]
    machine(lay_out(tmp_path / "b", "westmere_without_numa_of_pci"))
    assert pci.gpu_bus_ids() == []
