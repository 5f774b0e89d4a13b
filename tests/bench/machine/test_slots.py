"""Tests what the doctor says of slots and cards: AtomicOps, speeds that a BIOS pins, PCIe errors,
cards that differ, and cards of virtual machines. The facts are those of owners' reports, the bits
those of Linux's pci_regs.h."""

import re
from typing import Any

import pytest

from bench.machine.diagnosis import page, problems, unknowns
from bench.machine.gpus import examine
from tests.bench.machines import RTX5090S, lay_out, none, only, with_express, write

RADEON = "rdna4_in_x8_slot", "03:00.0"
DEVICES = "sys/bus/pci/devices"
ROOT_PORT = "0000:00:01.1"
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
        (ports_of_radeon(COMPLETES, control=BLOCKS), False, "0000:01:00.0, 0000:02:00.0"),
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


def test_a_bios_that_pins_the_slot_is_named(examined):
    """The registers of the link claim more, and only the port's target speed tells."""
    facts = examined(*RADEON, **ports_of_radeon(COMPLETES, target=1))
    sentence = only(problems(facts), "GPU 0 (0000:03:00.0) runs at PCIe 1 x8")
    assert "The port above holds it at this speed (LnkCtl2): set the slot" in sentence
    free = examined(*RADEON, **ports_of_radeon(COMPLETES, target=5))
    assert "LnkCtl2" not in only(problems(free), "GPU 0 (0000:03:00.0) runs at PCIe 4 x8")


def test_cards_of_one_name_that_differ_are_told_without_what_is_unknown(examined):
    """Two recorded cards: one has ECC, and so two GiB less."""
    card = {"name": "Radeon", "memory": 32 << 30, "vbios": "113-1"}
    gpus: dict[str, dict[str, Any]] = {
        f"0000:{bus}": {**card, "ecc": (0, 0)} for bus in RTX5090S[1:]
    }
    assert none(examined(*RTX5090S, nvml_of=gpus), "differ")
    gpus["0000:03:00.0"] |= {"ecc": (1, 1), "memory": 30 << 30}
    del gpus["0000:03:00.0"]["vbios"]
    facts = examined(*RTX5090S, nvml_of=gpus)
    sentences = list(problems(facts))
    assert "differ in ECC: no on GPU 0; yes on GPU 1." in only(sentences, "differ in ECC")
    assert "32768 MiB on GPU 0; 30720 MiB on GPU 1." in only(sentences, "differ in memory")
    assert none(facts, "differ in VBIOS")


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


def test_a_card_that_belongs_to_a_virtual_machine_is_told(machine, tmp_path):
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
