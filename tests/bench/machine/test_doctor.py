"""Tests the doctor on recorded machines, with a fake NVML for the driver, and on the fake GPU.

The doctor must give the reason for each problem, must not show a guess as a fact, and must give
useful advice.
"""

import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.machine import gpu_state, pci
from bench.machine.diagnosis import page, problems, summary, unknowns
from collectives.peer_buffer import WireSpeed
from kernels.devices import gpu_driver
from tests.bench.launches import run
from tests.bench.machines import KFD_NODES, NO_PEERS, RTX5090S, VEGAS, none, only, with_acs, write
from tests.fake_gpu import environment, fake_nccl
from tests.launch import few, mpirun

QUICK_LIBRARY = """
import collectives.library.gpu_library as library
from bench.doctor import main
library.FIRST_CALL_S = 1.0
main()
"""


# -- slots and links

PLX = "acs_on_a_plx_switch", "0d:01.0", "11:01.0"
PORTS = ("0000:0b:00.0", "0000:0b:10.0")
MI210S = "two_mi210_across_sockets", "23:00.0", "83:00.0", "e4:00.0"


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


def test_a_recorded_switch_with_acs_is_named_with_the_command_that_turns_it_off(examined):
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
        "Some facts are unknown: python -m bench.doctor says how to get them.",
    ]


def test_two_recorded_geforce_cards_are_told_to_go_through_the_host(examined):
    card = {"name": "NVIDIA GeForce RTX 5090"}
    cards = {"0000:01:00.0": card, "0000:03:00.0": card}
    facts = examined(*RTX5090S, nvml_of=cards, status=2)
    sentence = only(problems(facts), "No peer access from GPU 0 to 1, 1 to 0")
    assert "It offers none between GeForce cards, PRO cards have it: measure through" in sentence


ROOT_PORTS = "0000:00:01.1", "0000:00:01.3"


@pytest.mark.parametrize(("kind", "is_problem"), [("DMA-FQ", True), ("identity", False)])
def test_acs_at_root_ports_is_a_problem_where_the_iommu_translates(examined, kind, is_problem):
    """NCCL hung so between two PRO cards, which the driver calls peers."""
    card = {"name": "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"}
    files = {f"sys/bus/pci/devices/{port}/config": with_acs(0x1D) for port in ROOT_PORTS}
    files["sys/bus/pci/devices/0000:01:00.0/iommu_group/type"] = kind
    cards = {"0000:01:00.0": card, "0000:03:00.0": card}
    facts = examined(*RTX5090S, nvml_of=cards, **files)
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


def test_a_link_down_names_its_pair_on_a_fake_gpu(examined):
    one, other = "0000:01:00.0", "0000:21:00.0"
    gpus = {gpu: {"nvlinks": [(True, end)] * 4} for gpu, end in ((one, other), (other, one))}
    facts = examined("", "01:00.0", "21:00.0", nvml_of=gpus)
    assert [pair["path"] for pair in facts["pairs"]] == ["NVLink x4"] * len(facts["pairs"])
    assert none(facts, "NVLink")
    gpus[other]["nvlinks"][3] = (False, one)
    facts = examined("", "01:00.0", "21:00.0", nvml_of=gpus)
    assert only(problems(facts), "NVLinks of GPU 1 are down: 3 (to GPU 0);")


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


def test_the_variable_of_public_images_is_named_before_a_run_fails(examined, monkeypatch):
    monkeypatch.setattr(gpu_driver, "AMD_MODULE", Path("/sys/module/amdgpu/absent"))
    amd = {f"sys/bus/pci/devices/0000:{bus}/vendor": "0x1002" for bus in RTX5090S[1:]}
    assert none(examined(*RTX5090S, **amd), "LEGACY")
    monkeypatch.setenv("HSA_ENABLE_IPC_MODE_LEGACY", "1")
    facts = examined(*RTX5090S, **amd)
    assert only(problems(facts), "module: unset HSA_ENABLE_IPC_MODE_LEGACY.")
    assert none(facts | {"peers": "mapped"}, "LEGACY")
    assert none(examined(*RTX5090S), "LEGACY")  # NVIDIA's cards


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
    first, second = (gpu["bus_id"] for gpu in facts["gpus"])
    assert pci.over_xgmi(first) == [second]  # so its HDP holds nothing back, seen or not
    assert none(facts, "peer")


def test_a_processor_s_own_gpu_is_told_from_the_recorded_cards(examined):
    """Alone the doctor reads kinds from KFD; of cards of unlike kinds nothing is compared."""
    version = "gfx_target_version"
    properties = {
        f"{KFD_NODES}/1/properties": f"{NO_PEERS[f'{KFD_NODES}/1/properties']}\n{version} 120001",
        f"{KFD_NODES}/2/properties": f"{NO_PEERS[f'{KFD_NODES}/2/properties']}\n{version} 100306",
        "sys/bus/pci/devices/0000:43:00.0/hwmon/hwmon1/in1_label": "vddnb",
        "sys/bus/pci/devices/0000:3f:00.0/mem_info_vram_total": "34208743424",
        "sys/bus/pci/devices/0000:43:00.0/mem_info_vram_total": "536870912",
    }
    facts = examined(*VEGAS, **properties)
    assert [(gpu["arch"], gpu["integrated"]) for gpu in facts["gpus"]] == [
        ("gfx1201", None),
        ("gfx1036", True),
    ]
    text = page(facts)
    assert "gfx1036, integrated" in text
    assert only(problems(facts), "unlike kinds", "gfx1201: 1; gfx1036, integrated: 1")
    assert none(facts, "differ in memory")
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("version", "name"),
    [(120001, "gfx1201"), (90010, "gfx90a"), (90402, "gfx942"), (100306, "gfx1036"), (0, None)],
)
def test_kfd_s_version_is_the_compiler_s_name(version, name):
    assert pci.gfx_name(version) == name


@pytest.mark.parametrize(("kind", "is_problem"), [("DMA-FQ", True), ("identity", False)])
def test_a_translating_iommu_is_reported_with_its_remedy(examined, kind, is_problem):
    iommu = {"sys/bus/pci/devices/0000:3f:00.0/iommu_group/type": kind}
    told = [each for each in problems(examined(*VEGAS, **NO_PEERS, **iommu)) if "IOMMU" in each]
    remedy = "boot the host with iommu=pt. Ubuntu, Debian: add it to GRUB_CMDLINE_LINUX_DEFAULT in"
    assert [remedy in each for each in told] == [True] * is_problem


def test_refused_peers_without_a_common_root_complex_are_sent_to_another_slot(examined):
    facts = examined(*MI210S)
    facts |= {"refusals": ["mapped: rank 0: the driver refuses peer access"]}
    sentence = only(problems(facts), "share no root complex")
    assert sentence.startswith("The PCIe paths of GPU 0 and 1, 0 and 2, 1 and 2 share no root ")
    assert "move a card (lspci -tv shows the slots), or measure through the host" in sentence


# -- the machine


def test_what_keeps_the_ranks_from_the_gpus_is_the_first_problem(examined):
    """It stood apart, above `Problems: none`."""
    facts = examined(*VEGAS) | {"obstacles": ["AMD's GPU 0000:3f:00.0 has no /dev/kfd here."]}
    assert next(problems(facts)) == "AMD's GPU 0000:3f:00.0 has no /dev/kfd here."
    assert "Problems:\n- AMD's GPU 0000:3f:00.0 has no /dev/kfd here." in page(facts)


def test_host_memory_is_tuned_by_a_command_that_starts_all_ranks(examined):
    """It started one, which bench.tune refuses."""
    card = {"name": "NVIDIA GeForce RTX 5090"}
    cards = {"0000:01:00.0": card, "0000:03:00.0": card}
    facts = examined(*RTX5090S, nvml_of=cards, status=2)
    command = "mpirun -n 2 python -m bench.tune --memory host_staged"
    assert only(problems(facts), "No peer access").endswith(f"first with {command}.")
    facts |= {"peers": "host_staged", "refusals": ["mapped: rank 0: the driver refuses it"]}
    through = "the driver refuses it; ranks go through host memory."
    assert through in " ".join(page(facts).split())


def test_the_small_shm_of_a_container_is_a_problem(examined, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=64 << 20))
    assert only(problems(examined(*VEGAS[:2])), "/dev/shm holds 64 MiB", "--ipc=host")


def test_a_slow_link_under_load_and_ranks_that_run_apart_are_told(examined):
    facts = examined(*RTX5090S)
    facts["gpus"][1]["now"] = facts["gpus"][1]["links"]["0000:03:00.0"][0], 1
    assert none(facts, "under load")  # a link at rest may be slow
    facts["wire"] = WireSpeed(1200.0, 5.0, 4.0, (900.0, 700.0))
    sentence = only(problems(facts), "GPU 1 (0000:03:00.0) runs at PCIe 5 x1 under load")
    assert "where both ends claim PCIe 5 x8: reseat the card, check the riser" in sentence
    assert "own memory run at 900, 700 GB/s" in only(problems(facts), "Ranks differ apart from")
    assert "stores 5 GB/s, reads 4 GB/s, a flag there and back 1.2 us" in page(facts)
    facts["wire"] = facts["wire"]._replace(read_gb_s=None)
    assert "stores 5 GB/s, reads not routed, a flag there and back 1.2 us" in page(facts)


CONFIG = "CONFIG_HSA_AMD_P2P=y\n# CONFIG_PCI_P2PDMA is not set\nCONFIG_DMABUF_MOVE_NOTIFY=y\n"


@pytest.mark.parametrize(
    "files", [{"boot/config-6.1": CONFIG}, {"proc/config.gz": gzip.compress(CONFIG.encode())}, {}]
)
def test_an_option_that_the_kernel_lacks_or_hides_is_told(examined, files):
    facts = examined(*VEGAS, **NO_PEERS, **{"proc/sys/kernel/osrelease": "6.1"}, **files)
    facts["gpus"][0]["driver"] = "amdgpu"
    if not files:
        assert none(facts, "This kernel lacks")
        assert only(unknowns(facts), "options of the kernel: run zgrep -E 'HSA_AMD_P2P|PCI_P2PDMA")
        return
    lacks = "This kernel lacks CONFIG_PCI_P2PDMA: AMD's GPUs are no peers over PCIe then."
    assert only(problems(facts), "This kernel lacks") == lacks
    assert not any("options of the kernel" in each for each in unknowns(facts))


def test_who_knows_what_is_hidden_here_is_told(examined):
    facts = examined(*RTX5090S) | {"virtualisation": "kvm"}
    assert only(unknowns(facts), "the host of this virtual machine (kvm)", "BAR addresses")
    assert only(unknowns(facts), "peer access: run mpirun -n 2 ", "topo -p2p r")


@pytest.mark.parametrize(
    "gpus", [("x570_chipset", "05:00.0", "0a:00.0"), VEGAS, MI210S, ("rdna4_in_x8_slot", "03:00.0")]
)
def test_the_page_fits_and_the_summary_is_short_for_every_recorded_machine(examined, gpus):
    facts = examined(*gpus)
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


def test_refused_peers_are_reported_with_the_driver_s_error_on_a_fake_gpu():
    """The GPUs are examined even if no peer memory works."""
    printed = doctor(**environment(fail="cuMemHostRegister_v2,ipcOpenMemHandle,cuMemCreate"))
    assert re.search("0 reads 1 .* unknown", printed)
    refused = "Peer memory was refused: mapped: rank 0: on GPU 0000:41:00.0, ipcOpenMemHandle"
    assert refused in " ".join(printed.split())


@pytest.mark.parametrize("way", ["uncached", "vmm uncached"])
def test_the_peer_memory_of_all_pairs_is_tested_on_a_fake_gpu(way):
    fails = "ipcGetMemHandle" if way.startswith("vmm") else ""
    printed = doctor(**environment(vendor="hip", closed=1, fail=fails))
    reads = re.findall(rf"^(\d reads \d) .* mapped {way} +-$", printed, re.MULTILINE)
    assert reads == ["0 reads 1", "1 reads 0"]
    assert "- HIP 7.0 gives gfx1201 fine-grained memory" in printed
    assert "Graphs:" not in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_a_runtime_that_corrupts_graphs_is_named_on_a_fake_gpu():
    printed = doctor(**environment(vendor="hip", runtime=70253211))
    section = " ".join(printed.partition("\nGraphs:\n")[2].split())
    assert section.startswith("- ROCm 7.2.0 to 7.2.3 now and then corrupt replays of graphs")
    assert "- HIP 7.2 gives gfx1201 the uncached memory" in printed
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
    options = "-b 16K -e 16K -n 2 -w 0 --mode isolated --algorithm one_shot_pull --quiet"
    printed, result = run(tmp_path, options, program=COUNTING_ERRORS, **environment())
    noted = r"PCIe errors during the run \(AER\): \d+ correctable at 0000:00:01.1"
    assert result.end
    assert re.fullmatch(noted, result.end.note or "")
    assert re.search(noted, " ".join(printed.split()))


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
                {"way": "SHM/direct/direct", "gpu": {"peer": 0}},  # no more do ours
                "(SHM/direct/direct, ranks 0 -> 1): it is not a peer-to-peer baseline. - NCCL",
            ),
            (
                {"stands_still": "default"},
                "- plain: ncclAllReduce of NCCL 2.32.3 did not end in 1 s.",
            ),
        ],
        2,
    ),
)
def test_the_library_s_way_and_its_failures_follow_the_page_on_a_fake_gpu(faults, sentence):
    page, _, library = doctor(**fake_nccl.environment(**faults)).partition("\nLibrary:")
    assert "0 reads 1" in page
    assert sentence in " ".join(library.split())
