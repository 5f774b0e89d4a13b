"""Who starts a container without its GPUs, or may not open them, is told so with the remedy. Tests
lay out /sys/bus/pci and /dev as Linux does; a container shows the host's /sys."""

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import doctor, survey
from bench.campaigns.campaign_options import Stop
from collectives import world
from kernels.devices import gpu_access, gpu_driver
from kernels.devices.device import DeviceError
from tests.another_user import NOBODY, as_root, said_as
from tests.bench.machines import write
from tests.kernels.test_cupy import CARD, OWN_GPU, amd_gpu

pytestmark = pytest.mark.unit

R9700S = amd_gpu(CARD) | amd_gpu("0000:07:00.0")
NVIDIA = {f"{CARD}/vendor": "0x10de", f"{CARD}/class": "0x030000"}
ETHERNET = {f"{CARD}/vendor": "0x10de", f"{CARD}/class": "0x020000"}
NO_KFD = (
    f"AMD's GPU {CARD} has no /dev/kfd here: start the container with --device /dev/kfd --device "
    "/dev/dri; on a host load its driver, sudo modprobe amdgpu"
)
NO_NVIDIACTL = (
    f"NVIDIA's GPU {CARD} has no /dev/nvidiactl here: start the container with --gpus all (podman: "
    "--device nvidia.com/gpu=all); on a host install its driver"
)
CLOSED = (
    "{} is closed to you: sudo usermod -aG render,video $USER, and log in again; start a container "
    "with --group-add 991"
)
WITH_CUPY, WITHOUT_CUPY = True, False


@pytest.fixture
def host(open_folder, monkeypatch):
    """A function that makes a host with these PCI devices and files in /dev, and returns that."""

    def made(devices, *nodes, has_cupy=WITH_CUPY):
        for node in nodes:
            (open_folder / Path(node).name).touch()
        kfd, nvidiactl = f"{open_folder}/kfd", f"{open_folder}/nvidiactl"
        monkeypatch.setattr(gpu_driver, "PCI_DEVICES", write(open_folder / "devices", devices))
        monkeypatch.setattr(gpu_driver, "KFD", kfd)
        monkeypatch.setattr(gpu_driver, "DEVICE_NODES", (nvidiactl, kfd))
        monkeypatch.setattr(gpu_access, "NVIDIACTL", nvidiactl)
        monkeypatch.setattr(gpu_access, "RENDER_NODES", f"{open_folder}/renderD*")
        monkeypatch.setattr(gpu_access, "find_spec", lambda name: has_cupy or None)
        return open_folder

    return made


@pytest.mark.parametrize(
    ("devices", "nodes", "sentences"),
    [
        (R9700S, [], [NO_KFD]),
        (
            R9700S,
            ["/dev/kfd"],
            ["no /dev/renderD* is here: start the container with --device /dev/kfd --device "
             "/dev/dri"],
        ),
        (R9700S, ["/dev/kfd", "/dev/dri/renderD128"], []),
        (OWN_GPU, [], []),
        (OWN_GPU, ["/dev/kfd"], []),
        (NVIDIA, [], [NO_NVIDIACTL]),
        (
            NVIDIA,
            ["/dev/nvidiactl"],
            ["libcuda.so.1 cannot be loaded: start the container with --gpus all (podman: --device "
             "nvidia.com/gpu=all)"],
        ),
        (ETHERNET, [], []),
        ({}, [], []),
    ],
)  # fmt: skip
def test_what_a_container_lacks_is_named_with_the_options(
    host, monkeypatch, devices, nodes, sentences
):
    monkeypatch.setattr(gpu_driver, "first_library", lambda names: None)
    folder = host(devices, *nodes)
    assert [each.replace(f"{folder}/", "/dev/", 1) for each in gpu_access.obstacles()] == sentences


@as_root
@pytest.mark.parametrize("closed", ["kfd", "renderD128"])
def test_a_node_that_is_closed_to_the_user_is_named_with_its_group(host, closed):
    folder = host(R9700S, "/dev/kfd", "/dev/dri/renderD128")
    for path in folder.glob("*[8d]"):
        os.chown(path, 0, 991)
        path.chmod(0o660 if path.name == closed else 0o666)
    said = said_as(NOBODY, NOBODY, gpu_access.obstacles)
    assert said == str([CLOSED.format(f"{folder}/{closed}")])


@pytest.mark.parametrize(
    ("devices", "nodes", "has_cupy", "shown"),
    [
        (R9700S, [], WITH_CUPY, CARD),
        (R9700S, [], WITHOUT_CUPY, ""),  # a display card of a machine whose CPU is meant
        (R9700S, ["/dev/kfd"], WITHOUT_CUPY, "/dev/kfd"),
        (OWN_GPU, [], WITH_CUPY, ""),
        ({}, [], WITH_CUPY, ""),
    ],
)
def test_a_card_without_its_driver_counts_where_cupy_is(host, devices, nodes, has_cupy, shown):
    folder = host(devices, *nodes, has_cupy=has_cupy)
    assert (gpu_access.gpu_here() or "").replace(str(folder), "/dev") == shown


def refuse(mixed):
    raise DeviceError("no hip device can be used: hipErrorNoDevice")


def test_a_survey_in_a_container_without_its_gpus_does_not_measure_the_cpu(
    host, tmp_path, monkeypatch
):
    """Three minutes later its owner would have an archive of two cores."""
    monkeypatch.setattr(gpu_driver, "visible_gpus", refuse)
    folder = host(R9700S)
    with pytest.raises(Stop) as refusal:
        survey.find_gpus("auto", False)
    assert str(refusal.value).replace(str(folder), "/dev") == (
        f"no hip device can be used: hipErrorNoDevice; {NO_KFD}; to measure the CPU add --device "
        "cpu"
    )
    host(R9700S, has_cupy=WITHOUT_CUPY)
    options = survey.make_parser().parse_args(["--out", str(tmp_path / "survey")])
    remarks = survey.open_survey(options).remarks
    assert [each.replace(str(folder), "/dev") for each in remarks] == [
        f"The CPU is measured: {NO_KFD}."
    ]


@pytest.mark.parametrize("device", ["auto", "hip"])
def test_ranks_in_a_container_without_its_gpus_say_how_to_start_it(host, monkeypatch, device):
    monkeypatch.setattr(gpu_driver, "visible_gpus", refuse)
    folder = host(R9700S)
    alone: Any = SimpleNamespace(all_or_none=nullcontext, node_gather=lambda gpus: [gpus])
    with pytest.raises(DeviceError) as refusal:
        world.open_device(alone, device, share_gpus=False)
    assert f"hipErrorNoDevice; {NO_KFD}" in str(refusal.value).replace(str(folder), "/dev")


def test_the_doctor_of_such_a_container_does_not_find_it_healthy(host, monkeypatch, capsys):
    folder = host(R9700S)
    for place, name, value in (
        (sys, "argv", ["bench.doctor", "--quiet"]),
        (sys, "excepthook", sys.excepthook),
        (signal, "setitimer", lambda *_: None),
    ):
        monkeypatch.setattr(place, name, value)
    with pytest.raises(SystemExit):
        doctor.main()
    assert f"{NO_KFD}." in capsys.readouterr().out.replace(str(folder), "/dev")
