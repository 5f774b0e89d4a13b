"""What stands in the way of a survey is told before its first step, with what helps."""

import shutil
from types import SimpleNamespace

import pytest

from bench.survey import main
from bench.surveys import preflight
from kernels.devices import gpu_access, gpu_driver
from tests.bench.machines import write

PCI = "sys/bus/pci/devices"
R9700 = "0000:03:00.0"


@pytest.fixture
def here(tmp_path, machine, monkeypatch):
    """A function that gives the machine cards, and names the device nodes that are there."""

    def lay_out(cards, *nodes):
        root = machine(tmp_path / "root")
        for bus_id, driver in cards.items():
            vendor = "0x10de" if driver == "nvidia" else "0x1002"
            write(root / PCI / bus_id, {"vendor": vendor, "class": "0x030000"})
            (root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
            (root / PCI / bus_id / "driver").symlink_to(root / "drivers" / driver)
        named = {name: root / name for name in ("nvidiactl", "kfd", "renderD128")}
        for name in nodes:
            named[name].touch()
        monkeypatch.setattr(gpu_access, "NVIDIACTL", str(named["nvidiactl"]))
        monkeypatch.setattr(gpu_driver, "KFD", str(named["kfd"]))
        monkeypatch.setattr(gpu_driver, "PCI_DEVICES", root / PCI)
        return root

    return lay_out


def test_a_survey_in_a_container_without_kfd_does_not_measure_the_cpu(
    here, tmp_path, refused, monkeypatch
):
    """Three minutes later its owner had figures of the wrong processor."""
    here({R9700: "amdgpu"})
    monkeypatch.setattr(gpu_driver, "DEVICE_NODES", ())
    monkeypatch.setattr(gpu_access, "find_spec", lambda name: None)  # also without CuPy
    monkeypatch.setattr("bench.survey.run_survey", lambda survey: 0)
    status, said = refused(main, "--out", tmp_path / "survey")
    assert status == 3
    assert f"AMD's GPU {R9700} has no " in said
    assert said.endswith("; to measure the CPU add --device cpu")
    assert not (tmp_path / "survey").exists()


def test_a_hidden_second_card_and_little_shared_memory_are_told(here, monkeypatch):
    here({R9700: "amdgpu", "0000:43:00.0": "amdgpu"}, "kfd", "renderD128")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0")
    small = SimpleNamespace(total=64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    hidden, shm = preflight.remarks([R9700])
    assert hidden == "0000:43:00.0 is here too, and not visible: unset HIP_VISIBLE_DEVICES."
    assert shm.startswith("/dev/shm holds 64 MiB, ")
    assert "--ipc=host" in shm
    assert preflight.remarks([]) == []  # of the CPU


def test_an_mpirun_that_starts_no_ranks_is_told(tmp_path, refused, monkeypatch):
    """As Open MPI's does below root; each step failed with its complaint."""
    mpirun = tmp_path / "mpirun"
    complaint = "mpirun has detected an attempt to run as root."
    mpirun.write_text(f"#!/bin/sh\necho '{complaint}' >&2; exit 1\n")
    mpirun.chmod(0o755)
    monkeypatch.setattr("bench.survey.find_mpirun", lambda: str(mpirun))
    status, said = refused(main, "--device", "cpu", "--out", tmp_path / "survey")
    assert status == 3
    assert said.startswith(f"mpirun starts no ranks: {complaint}")
