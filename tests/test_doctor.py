"""What the doctor says of recorded machines, with their drivers' answers given at NVML's boundary, and of the software
GPU.

A user would miss a reason that is not named, a guess that is told as a fact, and advice that nobody can follow.
"""

import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.doctor import examine
from bench.machine import gpu_state
from bench.machine.diagnosis import findings, page, summary, unknowns
from bench.machine.gpu_state import link_facts
from tests.fake_gpu import environment
from tests.launch import mpirun
from tests.machines import lay_out, recorded, with_acs, write

NVML = SimpleNamespace(
    NVML_CLOCK_SM=1,
    NVML_CLOCK_MEM=2,
    NVML_FEATURE_ENABLED=1,
    NVML_NVLINK_MAX_LINKS=36,
    NVML_NVLINK_DEVICE_TYPE_SWITCH=2,
    NVML_P2P_STATUS_OK=0,
    NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED=1,
    NVML_P2P_STATUS_GPU_NOT_SUPPORTED=2,
    NVML_P2P_STATUS_IOH_TOPOLOGY_NOT_SUPPORTED=3,
    NVML_P2P_STATUS_DISABLED_BY_REGKEY=4,
    NVML_P2P_STATUS_NOT_SUPPORTED=5,
    nvmlClocksEventReasonSwPowerCap=4,
    nvmlClocksEventReasonHwSlowdown=8,
)


@pytest.fixture
def nvml(monkeypatch):
    """Installs an NVML that answers from `gpus` ({bus id: {memory, bar1, nvlinks: [(up, to)]}}) and one peer status."""

    class NVMLError(Exception):
        pass

    def install(gpus, status=0):
        def ask(key):
            def answer(gpu, *_):
                if key not in gpus[gpu]:
                    raise NVMLError("Not Supported")
                return gpus[gpu][key]

            return answer

        def handle(bus_id):
            if bus_id not in gpus:
                raise NVMLError("Not Found")
            return bus_id

        def nvlink(gpu, number):
            if number >= len(gpus[gpu].get("nvlinks", [])):
                raise NVMLError("Invalid Argument")
            return gpus[gpu]["nvlinks"][number]

        def remote(gpu, number):
            if nvlink(gpu, number)[1] is None:
                raise NVMLError("Not Supported")
            return SimpleNamespace(busId=f"0000{nvlink(gpu, number)[1].upper()}".encode())

        fake = SimpleNamespace(
            **vars(NVML),
            NVMLError=NVMLError,
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByPciBusId=handle,
            nvmlDeviceGetCount=lambda: len(gpus),
            nvmlDeviceGetHandleByIndex=lambda number: list(gpus)[number],
            nvmlDeviceGetPciInfo=lambda gpu: SimpleNamespace(busId=f"0000{gpu.upper()}".encode()),
            nvmlDeviceGetName=ask("name"),
            nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(total=ask("memory")(gpu)),
            nvmlDeviceGetBAR1MemoryInfo=lambda gpu: SimpleNamespace(bar1Total=ask("bar1")(gpu)),
            nvmlDeviceGetNvLinkState=lambda gpu, number: int(nvlink(gpu, number)[0]),
            nvmlDeviceGetNvLinkRemotePciInfo=remote,
            nvmlDeviceGetNvLinkRemoteDeviceType=lambda gpu, number: 0,
            nvmlDeviceGetP2PStatus=lambda one, other, index: status,
            nvmlDeviceGetClockInfo=lambda gpu, kind: {1: 2520, 2: 14001}[kind],
            nvmlDeviceGetCurrPcieLinkGeneration=lambda gpu: 5,
            nvmlDeviceGetCurrPcieLinkWidth=lambda gpu: 8,
            nvmlDeviceGetPowerUsage=lambda gpu: 281_500,
            nvmlDeviceGetCurrentClocksEventReasons=lambda gpu: 4 | 1,
        )
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        forget()
        return fake

    def forget():
        gpu_state.library.cache_clear()
        gpu_state._nvidia.cache_clear()

    forget()
    yield install
    forget()


def one(sentences, *words):
    """The one sentence that has all these words."""
    sentences = list(sentences)
    found = [sentence for sentence in sentences if all(word in sentence for word in words)]
    assert len(found) == 1, sentences
    return found[0]


def test_a_recorded_card_in_a_chipset_slot_costs_so_many_times_as_long(tmp_path):
    facts = examine(["0000:05:00.0", "0000:0a:00.0"], lay_out(tmp_path, "x570_chipset"))
    assert one(findings(facts), "chipset") == (
        "GPU 0 (0000:05:00.0) runs PCIe 4 x4 through the chipset, and the card can do PCIe 4 x16: 32 MB takes about 4 "
        "times as long."
    )
    assert one(unknowns(facts), "links of GPU 1: as root")
    assert one(unknowns(facts), "slot of GPU 0, 1 can do: as root")


def test_a_recorded_radeon_in_a_narrow_slot_is_told_from_its_inner_link(tmp_path):
    facts = examine(["0000:03:00.0"], lay_out(tmp_path, "rdna4_in_x8_slot"))
    sentence = one(findings(facts), "GPU 0 (0000:03:00.0) runs")
    assert "PCIe 4 x8, and the card can do PCIe 5 x16: 32 MB takes about 4 times as long" in sentence


def test_a_recorded_idle_card_is_not_said_to_be_slow_and_its_small_bar_is_seen(tmp_path, nvml):
    nvml({"0000:07:00.0": {"name": "NVIDIA GeForce RTX 2070", "memory": 8 << 30, "bar1": 256 << 20}})
    facts = examine(["0000:07:00.0"], lay_out(tmp_path, "rtx2070_idle"))
    assert "256 of its 8192 MiB" in one(findings(facts), "resizable BAR")
    assert not [sentence for sentence in findings(facts) if "times as long" in sentence]
    facts["gpus"][0]["bar_bytes"] = 16 << 30
    assert not [sentence for sentence in findings(facts) if "BAR" in sentence]


def test_a_recorded_switch_with_acs_is_named_with_what_turns_it_off(tmp_path):
    root = lay_out(tmp_path, "acs_on_a_plx_switch")
    facts = examine(["0000:0d:01.0", "0000:11:01.0"], root)
    sentence = one(findings(facts), "ACS")
    assert "0000:0b:00.0, 0000:0b:10.0" in sentence
    assert "setpci -s 0000:0b:00.0 ECAP_ACS+6.w=0000; setpci -s 0000:0b:10.0" in sentence
    for port in ("0000:0b:00.0", "0000:0b:10.0"):
        (root / f"sys/bus/pci/devices/{port}/config").write_bytes(with_acs(1))  # SrcValid alone redirects nothing
    assert not [s for s in findings(examine(["0000:0d:01.0", "0000:11:01.0"], root)) if "ACS" in s]


def test_acs_that_only_root_may_read_is_unknown_with_what_to_run(tmp_path):
    root = lay_out(tmp_path, "acs_on_a_plx_switch")
    for path in (root / "sys/devices").rglob("config"):
        path.write_bytes(path.read_bytes()[:64])
    facts = examine(["0000:0d:01.0", "0000:11:01.0"], root)
    assert not [sentence for sentence in findings(facts) if "ACS" in sentence]
    assert one(unknowns(facts), "ACS at 0000:0b:00.0, 0000:0b:10.0: as root on the host itself, lspci -vvv")


@pytest.mark.parametrize(("status", "words"), [(1, "chipset"), (2, "GeForce"), (3, "topology"), (4, "RegistryDwords"),
                                               (5, "does not support")])  # fmt: skip
def test_what_a_recorded_pair_s_driver_says_against_peers_is_told_on_a_fake_gpu(tmp_path, nvml, status, words):
    nvml({"0000:01:00.0": {}, "0000:03:00.0": {}}, status)
    root = lay_out(tmp_path, "two_rtx5090_on_one_root_complex")
    facts = examine(["0000:01:00.0", "0000:03:00.0"], root)
    assert facts["pairs"][0]["path"] == "PCIe, same root complex"
    sentence = one(findings(facts), "No peer access from GPU 0 to 1, 1 to 0", words)
    assert f"topo -p2p r: {['OK', 'CNS', 'GNS', 'TNS', 'DR', 'NS'][status]}" in sentence
    facts |= {"peers": "host_staged", "refusals": ["mapped: rank 0: the driver refuses peer access"]}
    assert summary(facts) == [
        "Between the GPUs: PCIe, same root complex.",
        "Their links can come up to PCIe 5 x8 of the card's PCIe 5 x16.",
        sentence,
        "python -m bench.doctor tells how to learn what is unknown.",
    ]


def test_peers_that_a_driver_allows_or_does_not_speak_of_are_no_finding(tmp_path, nvml):
    root = lay_out(tmp_path, "two_rtx5090_on_one_root_complex")
    nvml({"0000:01:00.0": {}, "0000:03:00.0": {}}, 0)
    facts = examine(["0000:01:00.0", "0000:03:00.0"], root)
    assert "allowed" in page(facts)
    assert not [s for s in findings(facts) if "peer" in s]
    nvml({})
    facts = examine(["0000:01:00.0", "0000:03:00.0"], root)
    assert not [s for s in findings(facts) if "peer" in s]
    assert one(unknowns(facts), "peer access: as any user, mpirun -n 2", "nvidia-smi topo -p2p r")
    assert one(unknowns(facts), "NVLink or xGMI from GPU 0, 1: as any user, nvidia-smi nvlink -s")
    assert one(unknowns(facts), "resizable BAR of GPU 0, 1: as any user, nvidia-smi -q -d MEMORY")


def test_a_link_down_names_its_recorded_pair_on_a_fake_gpu(tmp_path, nvml):
    record = recorded("nvlink_pairs_of_four_rtx3090")
    ids = [f"0000:{bus}:00.0" for bus in ("01", "21", "41", "61")]
    other = {a: b for pair in record["pairs"] for a, b in (pair, pair[::-1])}
    gpus = {bus_id: {"nvlinks": [(True, ids[other[n]])] * record["links"]} for n, bus_id in enumerate(ids)}
    nvml(gpus)
    facts = examine(ids, tmp_path)
    paths = {(pair["reader"], pair["owner"]): pair["path"] for pair in facts["pairs"]}
    assert paths[0, 2] == paths[3, 1] == "NVLink x4"
    assert paths[0, 1] == "unknown"
    assert one(unknowns(facts), "the path between GPUs", "lspci -tv")
    assert not [s for s in findings(facts) if "NVLink" in s]
    gpus[ids[2]]["nvlinks"][3] = (False, ids[0])
    facts = examine(ids, tmp_path)
    assert one(findings(facts), "NVLink") == "NVLink 3 between GPU 2 and GPU 0 is down."


def test_recorded_links_that_lead_nobody_knows_where_are_named_as_such(tmp_path, nvml):
    ups = recorded("nvlinks_of_a_v100")["nvlinks_up"]
    nvml({"0000:01:00.0": {"nvlinks": [(up, "0000:02:00.0" if up else None) for up in ups]}})
    found = list(findings(examine(["0000:01:00.0"], tmp_path)))
    for link in (3, 5):
        assert one(found, f"NVLink {link} between GPU 0 and an end that is unknown", "nvidia-smi nvlink -R", "is down")
    nvml({"0000:01:00.0": {"nvlinks": [(False, None)] * 4}})
    assert one(findings(examine(["0000:01:00.0"], tmp_path)), "has 4 NVLinks and none is up")


def amd_pair(root, **files):
    """The recorded pair below one switch, in KFD's format with no link between the two."""
    nodes = {
        f"sys/class/kfd/kfd/topology/nodes/{n}/properties": f"simd_count 240\np2p_links_count 0\nlocation_id {bus << 8}"
        for n, bus in ((1, 0x3F), (2, 0x43))
    }
    return write(lay_out(root, "two_vega20_under_a_switch"), {**nodes, **files})


WITHOUT_P2P = {"proc/sys/kernel/osrelease": "6", "boot/config-6": "CONFIG_PCI_P2PDMA=y"}


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (WITHOUT_P2P, "built without CONFIG_HSA_AMD_P2P"),
        ({"sys/module/amdgpu/parameters/pcie_p2p": "N"}, "pcie_p2p=0"),
        ({"proc/sys/kernel/osrelease": "6", "boot/config-6": "CONFIG_PCI_P2PDMA=y\nCONFIG_HSA_AMD_P2P=y",
          "sys/bus/pci/devices/0000:43:00.0/mem_info_vram_total": "17163091968",
          "sys/bus/pci/devices/0000:43:00.0/resource": "0x0000380400000000 0x000038040fffffff 0x000000000014220c"},
         "resizable BAR is off"),
        ({}, "why is unknown; as any user on the host itself, grep P2P /boot/config"),
    ],
)  # fmt: skip
def test_why_a_recorded_pair_of_amd_s_are_no_peers(tmp_path, files, why):
    facts = examine(["0000:3f:00.0", "0000:43:00.0"], amd_pair(tmp_path, **files))
    assert why in one(findings(facts), "No peer access from GPU 0 to 1")
    assert facts["pairs"][0]["path"] == "PCIe, below the same switch"


def test_amdsmi_is_asked_where_kfd_is_not_shown_on_a_fake_gpu(tmp_path, monkeypatch, nvml):
    accessible = {("0000:3f:00.0", "0000:43:00.0"): True, ("0000:43:00.0", "0000:3f:00.0"): False}
    fake = SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handle_from_bdf=lambda bus_id: bus_id,
        amdsmi_is_P2P_accessible=lambda one, other: accessible[one, other],
    )
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    facts = examine(["0000:3f:00.0", "0000:43:00.0"], lay_out(tmp_path, "two_vega20_under_a_switch"))
    assert [pair["status"] for pair in facts["pairs"]] == ["OK", "NOT_SUPPORTED"]
    assert one(findings(facts), "No peer access from GPU 1 to 0: why is unknown")


def test_a_copy_much_slower_than_its_link_is_told(tmp_path):
    facts = examine(["0000:3f:00.0", "0000:43:00.0"], lay_out(tmp_path, "two_vega20_under_a_switch"))
    facts["peers"] = "mapped"
    facts["pairs"][0]["gb_s"], facts["pairs"][1]["gb_s"] = 5.0, 13.0
    assert one(findings(facts), "reads GPU") == (
        "GPU 0 reads GPU 1 at 5.0 GB/s, less than half of the 15.8 GB/s that the link allows."
    )
    assert re.search(r"1 reads 0 .* mapped +13.0 GB/s +15.8 GB/s", page(facts))


def test_ranks_that_share_a_gpu_are_peers_on_it(tmp_path):
    facts = examine(["0000:0d:01.0"] * 2, lay_out(tmp_path, "acs_on_a_plx_switch"))
    assert {pair["path"] for pair in facts["pairs"]} == {"the same GPU"}
    assert not [s for s in findings(facts) if "peer" in s or "ACS" in s]


def test_xgmi_of_the_recorded_pair_is_its_path(tmp_path):
    links = {f"sys/class/kfd/kfd/topology/nodes/{n}/io_links/0/properties": f"type 11\nnode_from {n}\nnode_to {3 - n}"
             for n in (1, 2)}  # fmt: skip
    facts = examine(["0000:3f:00.0", "0000:43:00.0"], amd_pair(tmp_path, **links))
    assert {pair["path"] for pair in facts["pairs"]} == {"xGMI"}
    assert not [sentence for sentence in findings(facts) if "peer" in sentence]


def test_an_iommu_that_translates_between_two_is_told_with_how_to_stop_it(tmp_path):
    root = amd_pair(tmp_path, **{"sys/bus/pci/devices/0000:3f:00.0/iommu_group/type": "DMA-FQ"})
    assert "iommu=pt" in one(findings(examine(["0000:3f:00.0", "0000:43:00.0"], root)), "IOMMU")
    write(root, {"sys/bus/pci/devices/0000:3f:00.0/iommu_group/type": "identity"})
    assert not [s for s in findings(examine(["0000:3f:00.0", "0000:43:00.0"], root)) if "IOMMU" in s]


def test_the_small_shm_of_a_recorded_container_is_told(tmp_path):
    root = lay_out(amd_pair(tmp_path), "docker_shm")
    assert one(findings(examine(["0000:3f:00.0"], root)), "/dev/shm holds 64 MiB", "--ipc=host")


def test_ranks_of_several_containers_are_told_what_keeps_them_apart(tmp_path):
    facts = examine(["0000:3f:00.0"], amd_pair(tmp_path)) | {"apart": True}
    assert one(findings(facts), "docker run --ipc=host --pid=host")


def test_a_link_above_the_switch_that_a_pair_shares_does_not_count_on_its_path(tmp_path):
    facts = examine(["0000:3f:00.0", "0000:43:00.0"], lay_out(tmp_path, "two_vega20_under_a_switch"))
    for gpu in facts["gpus"]:
        gpu["links"] = {"0000:3a:00.0": (16.0, 4)} | gpu["links"]
    assert "15.8 GB/s" in page(facts)
    assert "PCIe 4 x4" in page(facts)


def test_the_page_fits_and_the_summary_is_short_for_every_recorded_machine(tmp_path):
    for name in ("x570_chipset", "two_vega20_under_a_switch", "two_mi210_across_sockets", "rdna4_in_x8_slot"):
        root = lay_out(tmp_path / name, name)
        ids = sorted(path.name for path in (root / "sys/bus/pci/devices").glob("*") if (path / "class").exists()
                     and (path / "class").read_text().startswith("0x03"))  # fmt: skip
        facts = examine(ids, root)
        text = page(facts)
        assert max(map(len, text.splitlines())) <= 100, text
        assert 1 <= len(summary(facts)) <= 4
        json.dumps(facts)  # as the head of a run holds it


def test_without_a_gpu_it_says_where_it_looked_and_ends_with_3():
    done = mpirun(1, "-m", "bench.doctor")
    assert done.returncode == 3
    for place in ("/sys/bus/pci/devices", "libcuda.so.1", "libamdhip64.so"):
        assert place in done.stdout
    assert not done.stderr


def test_a_bad_option_is_one_sentence_and_2():
    done = mpirun(2, "-m", "bench.doctor", "--format")
    assert done.returncode == 2
    assert done.stderr.count("bench.doctor:") == 1


@pytest.mark.parametrize("vendor", ["cuda", "hip"])
def test_every_directed_pair_is_copied_over_and_every_kind_of_memory_timed_on_a_fake_gpu(vendor):
    done = mpirun(2, "-m", "bench.doctor", timeout_s=120, **environment(vendor=vendor))
    assert done.returncode == 0, done.stderr
    reads = re.findall(r"^(\d reads \d) .* mapped +(\S+) GB/s", done.stdout, re.MULTILINE)
    assert [pair for pair, _ in reads] == ["0 reads 1", "1 reads 0"]
    kinds = {"cuda": ["plain"], "hip": ["uncached", "fine_grained", "coarse_grained"]}[vendor]
    own = re.findall(r"^Own copies of GPU \d, both ways, GB/s: (.*)", done.stdout, re.MULTILINE)
    copies = [copy.split() for line in own for copy in line.split(", ")]
    assert [kind for kind, _ in copies] == kinds * 2
    assert min(float(rate) for _, rate in reads + copies) > 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "Links may idle now" not in done.stdout


def test_refused_peers_are_said_with_the_driver_s_word_on_a_fake_gpu():
    done = mpirun(2, "-m", "bench.doctor", timeout_s=120, **environment(peer=0))
    assert done.returncode == 0, done.stderr
    assert re.search(r"0 reads 1 .* host_staged", done.stdout)
    assert "Peer memory was refused: mapped: " in done.stdout


def test_where_no_way_to_peers_is_left_the_gpus_are_still_told_of_on_a_fake_gpu():
    done = mpirun(2, "-m", "bench.doctor", timeout_s=120, **environment(fail="hostRegister,ipcOpenMemHandle"))
    assert done.returncode == 0, done.stderr
    assert re.search(r"0 reads 1 .* unknown", done.stdout)
    told = " ".join(done.stdout.split())
    assert "Peer memory was refused: mapped: rank 0: on GPU 0000:41:00.0, ipcOpenMemHandle" in told


def test_clocks_link_and_throttling_now_on_a_fake_gpu_and_from_amdgpu_s_files(tmp_path, nvml):
    nvml({"0000:01:00.0": {}})
    assert link_facts("0000:01:00.0") == {"sm_clock_mhz": 2520, "memory_clock_mhz": 14001, "pcie_generation": 5,
                                          "pcie_width": 8, "power_w": 281.5, "throttle": ["SwPowerCap"]}  # fmt: skip
    assert link_facts("0000:02:00.0") == {}
    root = write(lay_out(tmp_path, "rdna4_in_x8_slot"), {
        "sys/bus/pci/devices/0000:03:00.0/pp_dpm_sclk": "0: 500Mhz\n1: 2350Mhz *",
        "sys/bus/pci/devices/0000:03:00.0/pp_dpm_mclk": "0: 96Mhz *\n1: 1258Mhz"})  # fmt: skip
    assert link_facts("0000:03:00.0", root) == {"sm_clock_mhz": 2350, "memory_clock_mhz": 96, "pcie_generation": 4,
                                                "pcie_width": 8}  # fmt: skip
    idle = write(
        lay_out(tmp_path / "idle", "rtx2070_idle"), {"sys/bus/pci/devices/0000:07:00.0/pp_dpm_sclk": "0: 1Mhz *"}
    )
    assert link_facts("0000:07:00.0", idle) == {"sm_clock_mhz": 1, "pcie_generation": 1, "pcie_width": 16}
    began = time.perf_counter()
    for _ in range(100):
        link_facts("0000:03:00.0", root)
    assert (time.perf_counter() - began) / 100 < 2e-3  # a millisecond, and room for a busy machine


def test_what_is_asked_of_nvml_is_there_and_its_numbers_are_the_real_ones(nvml):
    real = pytest.importorskip("pynvml")
    fake = nvml({})
    for name, value in vars(fake).items():
        assert hasattr(real, name), name
        if isinstance(value, int):
            assert getattr(real, name) == value, name
    asked = set(re.findall(r'"(nvml\w+)"', Path(gpu_state.__file__).read_text()))
    assert asked <= set(vars(fake))
