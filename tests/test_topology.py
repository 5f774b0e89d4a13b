"""Paths, links and barriers between GPUs, read from the folders of recorded machines.

A user would miss a slow link that hides behind a fast one, a switch that sends peers through the CPU, and an unknown
that is told as a fact.
"""

import gzip

import pytest

from bench.machine import pci as topology
from bench.machine.pci import card, chain, iommu, kfd, links, narrowest, path_between, rates, redirects, through_chipset
from tests.machines import lay_out, recorded, with_acs, write


def test_a_recorded_card_behind_the_chipset_is_found_there_with_the_links_above_it(tmp_path):
    root = lay_out(tmp_path, "x570_chipset")
    assert chain("0000:05:00.0", root) == ["pci0000:00", "0000:00:01.2", "0000:02:00.0", "0000:03:02.0", "0000:05:00.0"]
    assert through_chipset(chain("0000:05:00.0", root)[1:-1], root)
    assert not through_chipset(chain("0000:0a:00.0", root)[1:-1], root)
    uplink = links("0000:05:00.0", root)[0]
    assert (uplink.at, uplink.now, uplink.card) == ("0000:02:00.0", (16.0, 4), (16.0, 8))
    assert path_between("0000:05:00.0", "0000:0a:00.0", root) == ("PCIe, same root complex", [])


def test_the_link_of_a_recorded_radeon_is_that_of_its_slot_not_of_its_inner_switch(tmp_path):
    root = lay_out(tmp_path, "rdna4_in_x8_slot")
    assert card("0000:03:00.0", root) == "0000:01:00.0"
    (slot,) = found = links("0000:03:00.0", root)
    assert narrowest(rates(found, under_load=True)) == slot.at == "0000:01:00.0"
    assert (slot.now, slot.card, slot.port) == ((16.0, 8), (32.0, 16), None)
    assert topology.gb_s(slot.card) / topology.gb_s(slot.now) == pytest.approx(4.0)


def test_an_inner_switch_of_a_recorded_card_is_told_from_a_switch_of_the_board(tmp_path):
    root = lay_out(tmp_path / "a", "two_mi210_across_sockets")
    assert card("0000:23:00.0", root) == "0000:21:00.0"
    assert links("0000:23:00.0", root)[-1].card == (16.0, 16)
    root = lay_out(tmp_path / "b", "two_vega20_under_a_switch")
    assert card("0000:3f:00.0", root) == "0000:3d:00.0"
    root = lay_out(tmp_path / "c", "x570_chipset")
    write(root, {"sys/bus/pci/devices/0000:05:00.0/vendor": topology.AMD})  # the chipset is not the card's, whose ever
    assert card("0000:05:00.0", root) == "0000:05:00.0"


def test_a_recorded_idle_link_counts_by_what_it_comes_up_to(tmp_path):
    root = lay_out(tmp_path, "rtx2070_idle")
    (link,) = links("0000:07:00.0", root)
    assert (link.full, link.now) == ((8.0, 16), (2.5, 16))
    assert rates([link]) == {"0000:07:00.0": (8.0, 16)}
    assert rates([link], under_load=True) == {"0000:07:00.0": (2.5, 16)}
    assert topology.memory_bytes("0000:07:00.0", root) == (None, 256 << 20)


def test_recorded_cards_below_one_switch_are_told_from_those_across_sockets(tmp_path):
    root = lay_out(tmp_path / "one", "two_vega20_under_a_switch")
    path, turns = path_between("0000:3f:00.0", "0000:43:00.0", root)
    assert (path, turns) == ("PCIe, below the same switch", ["0000:3c:04.0", "0000:3c:0c.0"])
    root = lay_out(tmp_path / "two", "two_mi210_across_sockets")
    assert path_between("0000:23:00.0", "0000:83:00.0", root)[0] == "PCIe, across sockets"
    assert path_between("0000:83:00.0", "0000:e4:00.0", root)[0] == "PCIe, two root complexes of one socket"


def test_where_a_recorded_firmware_gives_no_numa_node_the_sockets_are_unknown(tmp_path):
    root = lay_out(tmp_path, "westmere_without_numa_of_pci")
    assert "unknown" in path_between("0000:03:00.0", "0000:43:00.0", root)[0]
    assert path_between("0000:03:00.0", "0000:99:00.0", root) == ("unknown", [])


def test_acs_is_read_from_the_recorded_bytes_of_a_port(tmp_path):
    device = tmp_path / "sys/bus/pci/devices/0000:00:02.0"
    device.mkdir(parents=True)
    recording = bytes.fromhex(recorded("acs_of_a_haswell_root_port")["config_from_100"])
    (device / "config").write_bytes(bytes(0x100) + recording + bytes(0x1000 - 0x100 - len(recording)))
    assert redirects("0000:00:02.0", tmp_path)
    (device / "config").write_bytes(with_acs(0b0010011))  # all but the redirects of what was recorded
    assert redirects("0000:00:02.0", tmp_path) is False


def test_acs_is_unknown_where_the_kernel_shows_the_first_64_bytes_only_and_nothing_where_a_list_lacks_it(tmp_path):
    device = tmp_path / "sys/bus/pci/devices/0000:00:02.0"
    device.mkdir(parents=True)
    (device / "config").write_bytes(with_acs(0x1F)[:64])
    assert redirects("0000:00:02.0", tmp_path) is None
    assert redirects("0000:00:03.0", tmp_path) is None
    looped = bytearray(bytes(0x1000))
    looped[0x100:0x104] = (0x100 << 20 | 1 << 16 | 0x000B).to_bytes(4, "little")
    (device / "config").write_bytes(looped)
    assert redirects("0000:00:02.0", tmp_path) is False


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("identity", "passthrough"),
        ("DMA", "translating"),
        ("DMA-FQ", "translating"),
        ("unmanaged", None),
        (None, None),
    ],
)
def test_the_iommu_is_what_the_group_says(tmp_path, kind, word):
    group = tmp_path / "sys/bus/pci/devices/0000:01:00.0/iommu_group"
    group.mkdir(parents=True)
    if kind:
        (group / "type").write_text(f"{kind}\n")
    assert iommu("0000:01:00.0", tmp_path) == word
    group.parent.joinpath("iommu_group").rename(tmp_path / "elsewhere")
    assert iommu("0000:01:00.0", tmp_path) == "off"
    assert iommu("0000:02:00.0", tmp_path) is None


def kfd_node(number, bus, links, peers=True):
    """A node in KFD's format; `links` are (folder, type, to)."""
    folder = f"sys/class/kfd/kfd/topology/nodes/{number}"
    simds = 240 if bus else 0
    count = "p2p_links_count 1\n" if peers else ""
    return {
        f"{folder}/properties": f"cpu_cores_count 0\nsimd_count {simds}\n{count}location_id {bus << 8}\ndomain 0",
        **{
            f"{folder}/{where}/{i}/properties": f"type {kind}\nnode_from {number}\nnode_to {to}\nweight 15"
            for i, (where, kind, to) in enumerate(links)
        },
    }


def test_xgmi_of_the_recorded_pair_and_peers_over_pcie_are_read_from_kfd(tmp_path):
    xgmi = {
        **kfd_node(0, 0, []),
        **kfd_node(1, 0x3F, [("io_links", 2, 0), ("io_links", 11, 2)]),
        **kfd_node(2, 0x43, [("io_links", 2, 0), ("io_links", 11, 1)]),
    }
    assert kfd(write(tmp_path / "a", xgmi)) == {
        "0000:3f:00.0": {"0000:43:00.0": "xGMI"},
        "0000:43:00.0": {"0000:3f:00.0": "xGMI"},
    }
    pcie = {**kfd_node(1, 0x3F, [("io_links", 2, 0), ("p2p_links", 2, 2)]), **kfd_node(2, 0x43, [("io_links", 2, 0)])}
    assert kfd(write(tmp_path / "b", pcie)) == {"0000:3f:00.0": {"0000:43:00.0": "PCIe"}, "0000:43:00.0": {}}


def test_a_recorded_kfd_that_does_not_count_peers_says_nothing(tmp_path):
    assert kfd(lay_out(tmp_path, "kfd_of_linux_4")) == {}


def test_the_kernel_s_options_are_read_where_they_are_and_else_unknown(tmp_path):
    assert topology.kernel_p2p(tmp_path) == {"PCI_P2PDMA": "unknown", "HSA_AMD_P2P": "unknown"}
    write(
        tmp_path,
        {
            "proc/sys/kernel/osrelease": "6.8.0-45-generic",
            "boot/config-6.8.0-45-generic": "CONFIG_PCI_P2PDMA=y\n# CONFIG_HSA_AMD_P2P is not set",
        },
    )
    assert topology.kernel_p2p(tmp_path) == {"PCI_P2PDMA": "y", "HSA_AMD_P2P": "n"}
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_PCI_P2PDMA=y\nCONFIG_HSA_AMD_P2P=y\n"))
    assert topology.kernel_p2p(tmp_path) == {"PCI_P2PDMA": "y", "HSA_AMD_P2P": "y"}
    write(tmp_path, {"sys/module/amdgpu/parameters/pcie_p2p": "N"})
    assert topology.kernel_p2p(tmp_path)["pcie_p2p"] == "n"
    (tmp_path / "sys/module/amdgpu/parameters/pcie_p2p").unlink()
    assert topology.kernel_p2p(tmp_path)["HSA_AMD_P2P"] == "n"


def test_a_recorded_docker_container_has_a_small_shm(tmp_path):
    assert topology.shm_bytes(lay_out(tmp_path, "docker_shm")) == 64 << 20
    assert topology.shm_bytes(tmp_path / "nothing") is None


def test_gpus_are_those_of_the_two_vendors_and_no_bridge_or_network_card(tmp_path):
    assert topology.gpus(lay_out(tmp_path / "a", "two_vega20_under_a_switch")) == ["0000:3f:00.0", "0000:43:00.0"]
    assert topology.gpus(lay_out(tmp_path / "b", "westmere_without_numa_of_pci")) == []
