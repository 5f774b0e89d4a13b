"""Tests the doctor and the head of a run on forged machines: whatever /sys and /proc say or refuse
to say, a fact is unknown or a sentence, and never a traceback or a nonsense figure."""

import random
import re

import pytest

from bench.doctor import json_of
from bench.machine import pci
from bench.machine.diagnosis import page, problems, summary, unknowns
from bench.machine.environment import cpu_ticks, describe, numa_node, threats
from bench.machine.gpu_state import in_use
from bench.machine.gpu_watch import look, watched
from bench.machine.gpus import examine
from bench.machine.node import host_label
from bench.machine.placement import cores
from tests.bench.machine.forged import (
    HUGE,
    MACHINES,
    NEGATIVE,
    cards_below_switches,
    forge,
    forget,
    whole_machine,
)
from tests.bench.machines import RTX5090S, none, only, with_express, write

pytestmark = pytest.mark.unit

FORGERIES = 60  # of each machine
NONSENSE = re.compile(rf"(?<![\d.])(?:{HUGE}|{NEGATIVE}|nan|inf)(?![\w.])|Traceback|�|x0\b|x63\b")


def all_that_reads(bus_ids):
    """What the doctor prints, and what the head of a run and its looks at the cards hold."""
    facts = examine(bus_ids)
    env = describe()
    looks = [look(bus_id) for bus_id in bus_ids for _ in range(3)]
    said = [
        page(facts),
        json_of(facts),
        *summary(facts),
        *threats(env, [(0, [0]), (1, [1])]),
        *(str(fact["value"]) for fact in env.values()),
        *(in_use(bus_id) or "" for bus_id in bus_ids),
        *(str(watched(0, "", looks[at : at + 3])) for at in range(0, len(looks), 3)),
        *pci.new_errors(pci.errors(bus_ids), {}),
    ]
    pci.gpu_bus_ids(), pci.intel_cards(), host_label(), cpu_ticks([0]), numa_node(0), cores([0, 1])
    return "\n".join(said)


@pytest.mark.parametrize("name", MACHINES)
def test_forged_files_are_unknown_and_neither_raise_nor_show_nonsense(
    name, tmp_path, machine, nvml
):
    root = machine(tmp_path)
    bus_ids = whole_machine(root, name)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    honest = {path: path.read_bytes() for path in files}
    wrong = []
    for seed in range(FORGERIES):
        chance = random.Random(seed)
        forged = chance.sample(files, chance.randint(1, 4))
        story = [f"{path.relative_to(root)}: {forge(path, chance)}" for path in forged]
        try:
            nonsense = NONSENSE.findall(all_that_reads(bus_ids))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            nonsense = [repr(error)]
        if nonsense:
            wrong.append(f"{name}, seed {seed}, {', '.join(story)}: {nonsense}")
        for path in forged:
            forget(path)
            path.write_bytes(honest[path])
    assert not wrong, "\n".join([f"{len(wrong)} of {FORGERIES}", *wrong])


CARD = "sys/bus/pci/devices/0000:01:00.0"


@pytest.mark.parametrize(
    ("speed", "shown"),
    [
        ("64.0 GT/s PCIe", "PCIe 6 x8"),
        ("128.0 GT/s PCIe", "PCIe 7 x8"),
        ("256.0 GT/s PCIe", "unknown"),
        ("Unknown speed", "unknown"),
    ],
)
def test_a_link_of_any_speed_has_its_generation_or_is_unknown(examined, speed, shown):
    facts = examined(*RTX5090S, **{f"{CARD}/max_link_speed": speed})
    first = page(facts).splitlines()[1]
    assert first.split("GPU")[1].startswith(f"  {shown} ")
    assert summary(facts)


def test_a_lost_card_is_named_as_lost_and_its_link_as_unknown(examined):
    ones = {
        f"{CARD}/config": b"\xff" * 4096,
        f"{CARD}/max_link_speed": "32.0 GT/s PCIe",
        f"{CARD}/max_link_width": "63",
        f"{CARD}/current_link_width": "63",
    }
    facts = examined(*RTX5090S, **ones)
    assert only(problems(facts), "GPU 0 (0000:01:00.0) is lost", "0000:01:00.0 reads as ones")
    assert "x63" not in page(facts)
    assert only(unknowns(facts), "AtomicOps").startswith("PCIe AtomicOps of GPU 1:")
    there = examined(*RTX5090S, **{f"{CARD}/config": with_express()})
    assert none(there, "is lost")


@pytest.mark.parametrize(
    ("limit", "quota"),
    [("150000 100000", 1.5), ("max 100000", "none"), ("100 0", "unknown"), ("100", "unknown")],
)
def test_a_quota_of_cpus_is_a_number_none_or_unknown(tmp_path, machine, limit, quota):
    machine(write(tmp_path, {"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": limit}))
    assert describe()["os.cgroup_cpu_quota"]["value"] == quota


def test_what_cannot_be_read_is_not_said_to_be_absent(tmp_path, machine):
    """A file that is there and shows nothing: `off`, `not built` and `none` would be guesses."""
    root = machine(tmp_path)
    bus_id, *_ = whole_machine(root, RTX5090S[0])
    hidden = (
        f"sys/bus/pci/devices/{bus_id}/iommu_group",
        "sys/module/amdgpu/parameters/pcie_p2p",
        "sys/fs/cgroup/job/cpu.max",
    )
    for name in hidden:
        forget(root / name)
        (root / name).symlink_to((root / name).name)
    assert pci.iommu(bus_id) is None
    assert pci.amdgpu_p2p() is None
    assert describe()["os.cgroup_cpu_quota"]["value"] == "unknown"


def test_the_page_of_40_cards_has_a_matrix_of_their_kinds_and_no_sentence_twice(tmp_path, machine):
    narrow = {"current_link_width": "8", "max_link_width": "16", "max_link_speed": "32.0 GT/s PCIe"}
    facts = examine(cards_below_switches(machine(tmp_path), 40, **narrow))
    lines = page(facts).splitlines()
    assert len(lines) < 130
    assert max(map(len, lines)) <= 100
    assert only(lines, "A     280    PCIe, below the same switch")
    assert only(lines, "B     256    PCIe, same root complex")
    assert only(lines, f"9              {8 * 'B'}A-{6 * 'A'}{24 * 'C'}")
    assert only(problems(facts), "Each of GPU 0-39 runs at PCIe 5 x8")
    facts["peers"], facts["refusals"] = None, ["mapped: rank 0: the driver refuses peer access"]
    assert len(only(problems(facts), "share no root complex")) < 600


def test_few_cards_keep_a_line_for_each_pair(tmp_path, machine):
    facts = examine(cards_below_switches(machine(tmp_path), 4))
    assert only(page(facts).splitlines(), "3 reads 2  PCIe, below the same switch")
    many = examine(cards_below_switches(machine(tmp_path / "more"), 8))
    assert only(page(many).splitlines(), "A     56     PCIe, below the same switch")
