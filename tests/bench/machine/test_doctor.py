"""Tests the doctor on recorded machines, with a fake NVML for the driver, and on the fake GPU.

The doctor must give the reason for each problem, must not show a guess as a fact, and must give
useful advice.
"""

import gzip
import json
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from bench.machine import gpu_state
from bench.machine.diagnosis import page, problems, summary, unknowns
from bench.machine.gpus import examine
from bench.machine.pci import new_errors
from collectives.peer_buffer import WireSpeed
from tests.bench.launches import run
from tests.bench.machines import fake_nvml, lay_out, recorded, with_acs, with_express, write
from tests.fake_gpu import environment, fake_nccl
from tests.launch import few, mpirun

QUICK_LIBRARY = """
import collectives.library.gpu as library
from bench.doctor import main
library.FIRST_CALL_S = 1.0
main()
"""


@pytest.fixture
def nvml(monkeypatch):
    """Installs `machines.fake_nvml`."""

    def install(gpus, status=0):
        fake = fake_nvml(gpus, status)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        forget()
        return fake

    def forget():
        gpu_state.nvml.cache_clear()
        gpu_state.handle.cache_clear()

    forget()
    yield install
    forget()


@pytest.fixture
def examined(tmp_path, machine, nvml):
    """A function that returns the facts of GPUs on a recorded machine, with more or other files."""

    def facts_of(name, *ids, nvml_of=None, status=0, **files):
        root = tmp_path / str(len([*tmp_path.iterdir()]))
        machine(write(lay_out(root, name) if name else root, files))
        if nvml_of is not None:
            nvml(nvml_of, status)
        return examine([f"0000:{bus}" for bus in ids])

    return facts_of


def only(sentences, *words):
    """Returns the only sentence with all these words."""
    sentences = list(sentences)
    matches = [sentence for sentence in sentences if all(word in sentence for word in words)]
    assert len(matches) == 1, sentences
    return matches[0]


def none(facts, word):
    """Whether no problem has this word."""
    return not [sentence for sentence in problems(facts) if word in sentence]


# -- slots and links

VEGAS = "two_vega20_under_a_switch", "3f:00.0", "43:00.0"
PLX = "acs_on_a_plx_switch", "0d:01.0", "11:01.0"
RTX5090S = "two_rtx5090_on_one_root_complex", "01:00.0", "03:00.0"
PORTS = ("0000:0b:00.0", "0000:0b:10.0")


def test_a_recorded_card_in_a_narrow_slot_is_reported_with_its_slowdown(examined):
    facts = examined("x570_chipset", "05:00.0", "0a:00.0")
    assert only(problems(facts), "times as long") == (
        "GPU 0 (0000:05:00.0) runs at PCIe 4 x4, its card supports PCIe 4 x16: "
        "32 MB takes about 4 times as long."
    )
    assert only(unknowns(facts), "PCIe links of GPU 0, 1: run lspci -vv as root")
    # The slot of a Radeon counts, and not its inner link.
    sentence = only(problems(examined("rdna4_in_x8_slot", "03:00.0")), "GPU 0 (0000:03:00.0) runs")
    assert "PCIe 4 x8, its card supports PCIe 5 x16: 32 MB takes about 4 times as long" in sentence
    own = "That is the link of 0000:01:00.0, above the GPU, which itself shows PCIe 5 x16."
    assert sentence.endswith(own)


def test_a_recorded_idle_card_is_not_reported_as_slow_but_its_small_bar_is(examined):
    card = {"name": "GeForce RTX 2070", "memory": 8 << 30, "bar1": 256 << 20}
    facts = examined("rtx2070_idle", "07:00.0", nvml_of={"0000:07:00.0": card})
    assert "256 of its 8192 MiB" in only(problems(facts), "resizable BAR")
    assert none(facts, "times as long")
    facts["gpus"][0]["bar_bytes"] = 16 << 30
    assert none(facts, "BAR")


def test_a_recorded_switch_with_acs_is_named_with_the_command_that_turns_it_off(examined, machine):
    facts = examined(*PLX)
    sentence = only(problems(facts), "ACS", ", ".join(PORTS))
    assert "setpci -s 0000:0b:00.0 ECAP_ACS+6.w=0000; setpci -s 0000:0b:10.0" in sentence


# -- peers


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "chipset"), (2, "GeForce"), (4, "RegistryDwords")],
)
def test_the_driver_s_refusal_for_a_recorded_pair_is_explained(examined, status, words):
    facts = examined(*RTX5090S, nvml_of={"0000:01:00.0": {}, "0000:03:00.0": {}}, status=status)
    assert facts["pairs"][0]["path"] == "PCIe, same root complex"
    sentence = only(problems(facts), "No peer access from GPU 0 to 1, 1 to 0", words)
    facts |= {"peers": "host_staged", "refusals": ["mapped: rank 0: the driver refuses"]}
    assert summary(facts) == [
        "Between the GPUs: PCIe, same root complex.",
        "GPU links at full speed: PCIe 5 x8 (card maximum: PCIe 5 x16).",
        sentence,
        "Some facts are unknown: python -m bench.doctor tells how to get them.",
    ]


ROOT_PORTS = "0000:00:01.1", "0000:00:01.3"


@pytest.mark.parametrize(("kind", "is_problem"), [("DMA-FQ", True), ("identity", False)])
def test_acs_at_root_ports_is_a_problem_where_the_iommu_translates(examined, kind, is_problem):
    """NCCL hung so between two PRO cards, which the driver calls peers."""
    card = {"name": "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"}
    files = {f"sys/bus/pci/devices/{port}/config": with_acs(0x1D) for port in ROOT_PORTS}
    files["sys/bus/pci/devices/0000:01:00.0/iommu_group/type"] = kind
    cards = {"0000:01:00.0": card, "0000:03:00.0": card}
    facts = examined(*RTX5090S, nvml_of=cards, **files)
    vegas = {"sys/bus/pci/devices/0000:3f:00.0/iommu_group/type": kind}
    assert none(examined(*VEGAS, **NO_PEERS, **vegas), "iommu=pt") != is_problem
    if not is_problem:
        assert none(facts, "ACS")
        return
    sentence = only(problems(facts), "ACS at root ports 0000:00:01.1, 0000:00:01.3")
    assert "NVIDIA/nccl issue 2079" in sentence
    assert "setpci -s 0000:00:01.1 ECAP_ACS+6.w=0000" in sentence


@pytest.mark.parametrize(
    ("used", "busy", "sentence"),
    [(30 << 30, 3, "3 % busy, 38% of its memory taken"), (1 << 30, 0, None)],
)
def test_a_card_in_use_is_told(nvml, machine, tmp_path, used, busy, sentence):
    nvml({"0000:01:00.0": {"memory": 80 << 30, "used": used, "busy": busy}})
    device = "sys/bus/pci/devices/0000:03:00.0"
    files = {
        f"{device}/gpu_busy_percent": str(busy),
        f"{device}/mem_info_vram_used": str(used),
        f"{device}/mem_info_vram_total": str(80 << 30),
    }
    machine(write(tmp_path, files))
    for bus_id in ("0000:01:00.0", "0000:03:00.0"):
        told = gpu_state.in_use(bus_id)
        assert (sentence in (told or "")) if sentence else (told is None)


def test_a_link_down_names_its_recorded_pair_on_a_fake_gpu(examined):
    four = recorded("nvlink_pairs_of_four_rtx3090")
    buses = [f"{bus}:00.0" for bus in ("01", "21", "41", "61")]
    peers = {a: b for pair in four["pairs"] for a, b in (pair, pair[::-1])}
    gpus = {
        f"0000:{bus}": {"nvlinks": [(True, f"0000:{buses[peers[number]]}")] * four["links"]}
        for number, bus in enumerate(buses)
    }
    facts = examined("", *buses, nvml_of=gpus)
    paths = [pair["path"] for pair in facts["pairs"]]
    assert set(paths) == {"NVLink x4", "unknown"}
    assert none(facts, "NVLink")
    gpus[f"0000:{buses[2]}"]["nvlinks"][3] = (False, f"0000:{buses[0]}")
    facts = examined("", *buses, nvml_of=gpus)
    assert only(problems(facts), "NVLinks of GPU 2 are down: 3 (to GPU 0);")


KFD_NODES = "sys/class/kfd/kfd/topology/nodes"
# The recorded pair below one switch, in KFD's format with no link between the two.
NO_PEERS = {
    f"{KFD_NODES}/{number}/properties": f"simd_count 240\np2p_links_count 0\nlocation_id {bus << 8}"
    for number, bus in ((1, 0x3F), (2, 0x43))
}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"sys/module/amdgpu/parameters/pcie_p2p": "N"}, "pcie_p2p=0"),
        (
            {
                "sys/module/amdgpu/parameters/pcie_p2p": "Y",
                "sys/bus/pci/devices/0000:43:00.0/mem_info_vram_total": "17163091968",
                "sys/bus/pci/devices/0000:43:00.0/resource": "0x380400000000 0x38040fffffff 0",
            },
            "resizable BAR is off",
        ),
        ({}, "the reason is unknown; as root on the host run dmesg"),
    ],
)
def test_the_reason_why_a_recorded_amd_pair_are_no_peers(examined, files, why):
    facts = examined(*VEGAS, **NO_PEERS, **files)
    assert why in only(problems(facts), "No peer access from GPU 0 to 1")
    assert facts["pairs"][0]["path"] == "PCIe, below the same switch"


@pytest.mark.parametrize(
    ("cpu", "sentence"),
    [
        ("GenuineIntel\ncpu family\t: 6", "below different root ports, 0000:00:01.1 and"),
        ("AuthenticAMD\ncpu family\t: 26", "the reason is unknown"),
    ],
)
def test_amd_cards_below_different_recorded_root_ports(examined, cpu, sentence):
    """Linux lets peers cross root ports of AMD's CPUs, and of few others."""
    files = {f"sys/bus/pci/devices/0000:{bus}/vendor": "0x1002" for bus in RTX5090S[1:]}
    files |= {
        f"{KFD_NODES}/{bus}/properties": f"simd_count 64\np2p_links_count 0\nlocation_id {bus << 8}"
        for bus in (1, 3)
    }
    files["proc/cpuinfo"] = f"vendor_id\t: {cpu}"
    facts = examined(*RTX5090S, **files)
    assert sentence in only(problems(facts), "No peer access from GPU 0 to 1, 1 to 0")


def test_xgmi_of_the_recorded_pair_is_its_path(examined):
    links = {
        f"{KFD_NODES}/{n}/io_links/0/properties": f"type 11\nnode_from {n}\nnode_to {3 - n}"
        for n in (1, 2)
    }
    facts = examined(*VEGAS, **NO_PEERS, **links)
    assert {pair["path"] for pair in facts["pairs"]} == {"xGMI"}
    assert none(facts, "peer")


# -- the slot and the card: facts of owners' reports, with the bits of pci_regs.h

RADEON = "rdna4_in_x8_slot", "03:00.0"
DEVICES = "sys/bus/pci/devices"
ROOT_PORT, INNER_PORT = "0000:00:01.1", "0000:02:00.0"
ROUTES, COMPLETES, BLOCKS = 0x40, 0x180, 0x80


def ports_of_radeon(root, others=ROUTES, control=0, **root_port):
    """The configuration spaces of the ports above RADEON, as root reads them."""
    above = {f"{DEVICES}/{ROOT_PORT}/config": with_express(root, **root_port)}
    inner = with_express(others, control)
    return above | {f"{DEVICES}/0000:0{bus}:00.0/config": inner for bus in (1, 2)}


@pytest.mark.parametrize(
    ("files", "state", "ports"),
    [
        (ports_of_radeon(COMPLETES), True, ""),
        (ports_of_radeon(ROUTES), False, ROOT_PORT),  # a slot of the chipset
        (ports_of_radeon(0x80), False, ROOT_PORT),  # 32 bits alone
        (ports_of_radeon(COMPLETES, 0x180), False, "0000:01:00.0, 0000:02:00.0"),
        (ports_of_radeon(COMPLETES, control=BLOCKS), False, "0000:01:00.0, 0000:02:00.0"),
        (ports_of_radeon(COMPLETES) | {f"{DEVICES}/{ROOT_PORT}/config": bytes(64)}, None, ""),
        ({}, None, ""),
    ],
)
def test_atomicops_end_at_a_port_or_are_unknown(examined, files, state, ports):
    """What only root may read, more than 64 bytes, is unknown and never fine."""
    facts = examined(*RADEON, **files)
    assert facts["gpus"][0]["atomics"] is state
    row = next(line for line in page(facts).splitlines() if re.match("0 +none|0 +unknown", line))
    assert row.split()[-2] == {True: "yes", False: "no", None: "unknown"}[state]
    if state is False:
        assert f"end at {ports}: RCCL" in only(problems(facts), "PCIe AtomicOps of GPU 0")
    else:
        assert none(facts, "AtomicOps")
    assert any("AtomicOps" in unknown for unknown in unknowns(facts)) == (state is None)


@pytest.mark.parametrize(("flags", "state"), [(1, True), (13, False)])
def test_without_root_amd_s_driver_knows_atomicops(examined, flags, state):
    """Bits 2 and 3 of a link's flags: no AtomicOps of 32 and 64 bits."""
    link = f"type 2\nnode_from 1\nnode_to 0\nflags {flags}"
    files = {f"{KFD_NODES}/1/io_links/0/properties": link}
    facts = examined(*VEGAS, **NO_PEERS, **files)
    assert [gpu["atomics"] for gpu in facts["gpus"]] == [state, True]
    assert none(facts, "AtomicOps of GPU 0") == state


def test_a_bios_that_pins_the_slot_is_named(examined):
    """The registers of the link claim more, and only the port's target speed tells."""
    facts = examined(*RADEON, **ports_of_radeon(COMPLETES, target=1))
    sentence = only(problems(facts), "GPU 0 (0000:03:00.0) runs at PCIe 1 x8")
    assert "The port above holds it at this speed (LnkCtl2): set the slot" in sentence
    free = examined(*RADEON, **ports_of_radeon(COMPLETES, target=5))
    assert "LnkCtl2" not in only(problems(free), "GPU 0 (0000:03:00.0) runs at PCIe 4 x8")


def test_a_link_that_stays_slow_under_load_is_told(examined):
    facts = examined("rtx2070_idle", "07:00.0")
    assert facts["gpus"][0]["now"][0] == 2.5
    assert none(facts, "under load")  # at rest it may
    facts["wire"] = WireSpeed(3e3, 1.6, 1.5, (100.0,))
    assert only(problems(facts), "GPU 0 (0000:07:00.0) runs at PCIe 1 x16 under load")
    facts["gpus"][0]["now"] = None
    assert none(facts, "under load")


def test_ranks_that_differ_apart_from_the_link_are_told(examined):
    facts = examined(*RTX5090S)
    facts["wire"] = WireSpeed(3e3, 25.0, 24.0, (910.0, 770.0))
    assert "run at 910, 770 GB/s" in only(problems(facts), "Ranks differ apart from the link")
    facts["wire"] = WireSpeed(3e3, 25.0, 24.0, (910.0, 900.0))
    assert none(facts, "Ranks differ")


def test_cards_of_one_name_that_differ_are_told_without_what_is_unknown(examined):
    """Two recorded cards: one has ECC, and so two GiB less."""
    card = {"name": "Radeon", "memory": 32 << 30, "vbios": "113-1", "cap_mw": 300000}
    gpus: dict[str, dict[str, Any]] = {
        f"0000:{bus}": {**card, "ecc": (0, 0)} for bus in RTX5090S[1:]
    }
    assert none(examined(*RTX5090S, nvml_of=gpus), "differ")
    gpus["0000:03:00.0"] |= {"ecc": (1, 1), "memory": 30 << 30, "clocks": [0, 2350, 1258]}
    del gpus["0000:03:00.0"]["vbios"]
    facts = examined(*RTX5090S, nvml_of=gpus)
    sentences = list(problems(facts))
    assert "differ in ECC: no on GPU 0; yes on GPU 1." in only(sentences, "differ in ECC")
    assert "32768 MiB on GPU 0; 30720 MiB on GPU 1." in only(sentences, "differ in memory")
    assert none(facts, "differ in VBIOS")
    assert re.search(
        r"^1 +30720 MiB +unknown +unknown +yes +300 +2350/1258$", page(facts), re.MULTILINE
    )


def test_a_card_of_amd_is_described_by_its_driver_s_files(examined):
    card = f"{DEVICES}/0000:03:00.0"
    files = {
        f"{card}/mem_info_vram_vendor": "samsung",
        f"{card}/vbios_version": "113-D7020100-102",
        f"{card}/hwmon/hwmon4/power1_cap": "300000000",
        f"{card}/pp_dpm_sclk": "0: 500Mhz\n1: 2350Mhz *\n2: 2900Mhz",
        f"{card}/pp_dpm_mclk": "0: 96Mhz\n1: 1258Mhz *",
    }
    row = r"^0 +unknown +samsung +113-D7020100-102 +unknown +300 +2350/1258$"
    assert re.search(row, page(examined(*RADEON, **files)), re.MULTILINE)


@pytest.mark.parametrize(
    ("count", "shown", "sentence"),
    [("", "unknown", False), ("TOTAL_ERR_COR 0", "0", False), ("TOTAL_ERR_COR 7", "7", True)],
)
def test_pcie_errors_are_counted_at_the_ports_above_too(examined, count, shown, sentence):
    file = f"{DEVICES}/{ROOT_PORT}/aer_dev_correctable"
    facts = examined(*RADEON, **({file: f"RxErr {count[-1]}\n{count}"} if count else {}))
    row = next(line for line in page(facts).splitlines() if re.match("0 +none|0 +unknown", line))
    assert row.split()[-1] == shown
    assert none(facts, f"(AER): 7 correctable at {ROOT_PORT}") != sentence
    assert any("PCIe errors" in unknown for unknown in unknowns(facts)) == (not count)


def test_errors_that_come_during_a_run_are_its_difference():
    a, b, c = "correctable at a", "fatal at b", "nonfatal at c"
    assert new_errors({a: 3, b: 0}, {a: 3, b: 0}) == []
    assert new_errors({a: 3}, {a: 15, b: 1}) == [f"12 {a}", f"1 {b}"]
    gone = [f"an unknown number of {a}", f"an unknown number of {c}"]
    assert new_errors({a: 3, b: 0, c: 0}, {a: 1, b: 0}) == gone


@pytest.mark.parametrize(
    ("config", "missing", "is_unknown"),
    [
        ("CONFIG_HSA_AMD_P2P=y\nCONFIG_PCI_P2PDMA=y\nCONFIG_DMABUF_MOVE_NOTIFY=y", "", False),
        (
            "# CONFIG_HSA_AMD_P2P is not set\nCONFIG_PCI_P2PDMA=y",
            "CONFIG_HSA_AMD_P2P, CONFIG_DMABUF_MOVE_NOTIFY",
            False,
        ),
        ("", "", True),
    ],
)
@pytest.mark.parametrize("is_in_boot", few([True, False], 2))
def test_options_of_the_kernel_that_amd_s_peers_need(
    examined, config, missing, is_unknown, is_in_boot
):
    files: dict[str, str | bytes] = {"proc/sys/kernel/osrelease": "6.12"}
    if config:
        path = "boot/config-6.12" if is_in_boot else "proc/config.gz"
        files[path] = config if is_in_boot else gzip.compress(config.encode())
    facts = examined(*RADEON, **files)
    facts["gpus"][0]["driver"] = "amdgpu"
    assert none(facts, f"This kernel lacks {missing}:") == (not missing)
    assert any("options of the kernel" in each for each in unknowns(facts)) == is_unknown


def test_a_card_that_belongs_to_a_virtual_machine_is_told(examined, machine, tmp_path):
    """On the machine's host, without any library of GPUs."""
    root = lay_out(tmp_path / "host", RADEON[0])
    device = root / f"{DEVICES}/0000:03:00.0"
    write(root, {f"{DEVICES}/0000:03:00.0/resource": "0x7c00000000 0x7fffffffff 0x14220c"})
    (root / "sys/bus/pci/drivers/vfio-pci").mkdir(parents=True)
    (device / "driver").symlink_to(root / "sys/bus/pci/drivers/vfio-pci")
    machine(root)
    facts = examine(["0000:03:00.0"])
    assert "it belongs to a virtual machine" in only(problems(facts), "bound to vfio-pci")
    assert re.search(r"^0 +vfio-pci .* 0x7c00000000 +16384 MiB", page(facts), re.MULTILINE)


# -- the machine


def test_the_small_shm_of_a_container_is_a_problem(examined, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=64 << 20))
    assert only(problems(examined(*VEGAS[:2])), "/dev/shm holds 64 MiB", "--ipc=host")


def test_the_page_of_a_recorded_machine_fits_and_its_summary_is_short(examined):
    facts = examined("two_mi210_across_sockets", "23:00.0", "83:00.0", "e4:00.0")
    assert max(map(len, page(facts).splitlines())) <= 100
    assert 1 <= len(summary(facts)) <= 4
    json.dumps(facts)  # the head of a run stores the facts as JSON


def test_the_fake_nvml_has_the_functions_and_numbers_of_the_real_one(nvml):
    real = pytest.importorskip("pynvml")
    fake = nvml({})
    for name, value in vars(fake).items():
        assert hasattr(real, name), name
        if isinstance(value, int):
            assert getattr(real, name) == value, name


# -- real ranks


def doctor(ranks=2, **variables):
    """What the doctor prints on GPUs in software."""
    done = mpirun(ranks, "-c", QUICK_LIBRARY, timeout_s=120, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_gpu_it_names_the_places_searched_and_exits_with_3():
    done = mpirun(1, "-m", "bench.doctor")
    assert (done.returncode, done.stderr) == (3, "")
    for place in ("/sys/bus/pci/devices", "libcuda.so.1", "libamdhip64.so"):
        assert place in done.stdout


def test_the_peer_memory_of_all_pairs_is_tested_on_a_fake_gpu():
    printed = doctor(**environment(vendor="hip", closed=1))
    reads = re.findall(r"^(\d reads \d) .* mapped +-$", printed, re.MULTILINE)
    assert reads == ["0 reads 1", "1 reads 0"]
    assert "- ROCm 7.0 gives gfx1201 fine-grained memory" in printed
    assert max(map(len, printed.splitlines())) <= 100


COUNTING_ERRORS = """
import runpy
from itertools import count
from bench.machine import pci
calls = count(3)
pci.errors = lambda bus_ids: {"correctable at 0000:00:01.1": next(calls)}
runpy.run_module("bench.allreduce", run_name="__main__")
"""


def test_errors_that_come_during_a_run_are_a_note_of_it(tmp_path):
    printed, result = run(
        tmp_path, "-b 16K -e 16K -n 20 --quiet", program=COUNTING_ERRORS, **environment()
    )
    noted = r"PCIe errors during the run \(AER\): \d+ correctable at 0000:00:01.1"
    assert result.end
    assert re.fullmatch(noted, result.end.note or "")
    assert re.search(noted, " ".join(printed.split()))


def test_refused_peers_are_reported_with_the_driver_s_error_on_a_fake_gpu():
    """The GPUs are examined even if no peer memory works."""
    printed = doctor(**environment(fail="cuMemHostRegister_v2,ipcOpenMemHandle"))
    assert re.search("0 reads 1 .* unknown", printed)
    refused = "Peer memory was refused: mapped: rank 0: on GPU 0000:41:00.0, ipcOpenMemHandle"
    assert refused in " ".join(printed.split())


@pytest.mark.parametrize(
    ("faults", "sentence"),
    few(
        [
            (
                {"way": "SHM/direct/direct"},
                "NCCL 2.32.3 went through host memory (SHM/direct/direct, ranks 0 -> 1): it is "
                "not a peer-to-peer baseline. Where our kernels reach the peers, unset "
                "NCCL_P2P_DISABLE or export NCCL_P2P_LEVEL=SYS.",
            ),
            (
                {"stands_still": "default"},
                "- plain: ncclAllReduce of NCCL 2.32.3 did not end in 1 s.",
            ),
        ],
        1,
    ),
)
def test_the_library_s_way_and_its_failures_follow_the_page_on_a_fake_gpu(faults, sentence):
    page, _, library = doctor(**fake_nccl.environment(**faults)).partition("\nLibrary:")
    assert "0 reads 1" in page
    assert sentence in " ".join(library.split())
