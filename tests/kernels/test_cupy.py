"""What the real wheel of CuPy does without a GPU, and what a rank says without CuPy. Its errors
must become one sentence, and it must compile for GPUs."""

import os
import struct
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.devices import gpu_driver
from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import compile_kernel
from tests.bench.machines import write
from tests.fake_gpu import environment
from tests.launch import ROOT, mpirun
from tests.reliability.launch_matrix import SMALL


@pytest.fixture
def real_cupy():
    if find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    gpu_driver.load_bindings.cache_clear()
    return gpu_driver.load_bindings()


def test_the_real_cupy_without_a_driver_gives_one_sentence(real_cupy, monkeypatch):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver here")
    with pytest.raises(DeviceError, match="no GPU driver is here"):
        gpu_driver.visible_gpus()
    monkeypatch.setattr(gpu_driver, "DEVICE_NODES", ("/dev/null",))
    sentence = "no cuda device can be used: cudaErrorInsufficientDriver: .*CuPy needs 13"
    with pytest.raises(DeviceError, match=sentence):
        gpu_driver.visible_gpus()


def test_the_real_cupy_compiles_a_complete_cubin_for_each_architecture(
    real_cupy, tmp_path, monkeypatch
):
    """CuPy's own call drops the last byte, and a driver refuses such a file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours = [
        compile_kernel(real_cupy, architecture, "NVRTC", "allreduce_ring", {"WT_WORLD": "2"})
        for architecture in ("sm_120", "sm_90", "sm_120")
    ]
    assert ours[0] == ours[2] != ours[1]
    code = ours[0].read_bytes()
    (headers,) = struct.unpack_from("<Q", code, 0x20)
    size, count = struct.unpack_from("<HH", code, 0x36)
    assert code[:4] == b"\x7fELF"
    assert len(code) == headers + size * count
    assert code[-1] == 0


def test_a_cupy_that_cannot_be_imported_gives_one_sentence(monkeypatch):
    """An error of CuPy's import, as CuPy raises it from the loader's."""

    def import_module(name):
        frame = "\n========\nFailed to import CuPy.\n\nOriginal error:\n...\n========\n"
        raise ImportError(frame) from ImportError("libcublas.so.13: cannot open shared object")

    gpu_driver.load_bindings.cache_clear()
    monkeypatch.setattr(gpu_driver, "importlib", SimpleNamespace(import_module=import_module))
    sentence = r"CuPy cannot be imported: libcublas\.so\.13: cannot open shared object; `make all"
    with pytest.raises(DeviceError, match=sentence) as refusal:
        gpu_driver.load_bindings()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("other", ["libamdhip64.so.6", "libamdhip64.so.8", None])
@pytest.mark.parametrize("has_node", [False, True])
def test_a_hip_that_cupy_does_not_load_is_named(other, has_node, tmp_path):
    """Of ROCm 6, or of a HIP to come; with AMD's kernel driver CuPy's import fails for it."""
    if other:
        library = environment(vendor="hip")["FAKE_GPU_LIBRARY"]
        (tmp_path / other).symlink_to(library)
    if has_node:
        (tmp_path / "sitecustomize.py").write_text(BESIDE_A_GPU)
        (tmp_path / "cupy.py").write_text(FAILING_CUPY)
    variables: dict[str, Any] = {
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
    }
    done = mpirun(1, "-m", "bench.allreduce", "--device", "hip", *SMALL, **variables)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done.stderr
    if other:
        assert f"{other} is here, of another ROCm than CuPy wants: its wheel" in done.stderr
    elif has_node:
        assert "CuPy cannot be imported for lack of libamdhip64.so.7 (AMD's" in done.stderr
    else:
        assert "no GPU driver is here: libcuda.so.1, libamdhip64.so.7" in done.stderr


BESIDE_A_GPU = """
from kernels.devices import gpu_driver
gpu_driver.DEVICE_NODES = ("/dev/null",)
"""
WITHOUT_CUPY = f"""
import sys
sys.modules["cupy"] = None
{BESIDE_A_GPU}"""
ON_ANOTHER_BUS = """
from pathlib import Path
gpu_driver.KFD = "/dev/null"
gpu_driver.PCI_DEVICES = Path({})
"""
FAILING_CUPY = """
raise ImportError("twenty lines") from ImportError("libamdhip64.so.7: cannot open shared object")
"""


def test_ranks_refuse_to_measure_the_cpu_beside_a_gpu_by_accident(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_CUPY)
    options = "-m", "bench.allreduce", "--out", str(tmp_path / "results"), *SMALL
    variables: dict[str, Any] = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = mpirun(2, *options, **variables)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1), done.stderr
    assert done.stderr.startswith("bench.allreduce: a GPU is here (/dev/null) and cannot be used: ")
    assert done.stderr.endswith("; to measure the CPU add --device cpu\n")
    done = mpirun(2, *options, "--device", "cpu", **variables)
    assert done.returncode == 0, done.stderr


DISPLAY, ACCELERATOR = "0x030000", "0x120000"
PROCESSOR_S_OWN, CARD = "0000:0e:00.0", "0000:03:00.0"


def amd_gpu(bus_id, kind=DISPLAY, label=None, vendor="0x1002"):
    """The files of a GPU, in Linux's format; `label` is the one that processors alone have."""
    voltages = {"in0_label": "vddgfx"} | ({"in1_label": label} if label else {})
    files = {f"{bus_id}/hwmon/hwmon4/{name}": text for name, text in voltages.items()}
    return {f"{bus_id}/vendor": vendor, f"{bus_id}/class": kind} | files


OWN_GPU = amd_gpu(PROCESSOR_S_OWN, label="vddnb")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("devices", "drivers", "stops"),
    [
        (OWN_GPU, {}, False),
        (OWN_GPU | amd_gpu(CARD), {}, True),  # wherever the card stands
        (OWN_GPU | amd_gpu("0000:41:00.0"), {}, True),
        (OWN_GPU | amd_gpu(CARD), {CARD: "vfio-pci"}, False),  # it belongs to a virtual machine
        (OWN_GPU | amd_gpu(CARD), {CARD: "amdgpu"}, True),
        (amd_gpu(CARD), {}, True),
        (amd_gpu(CARD, ACCELERATOR), {}, True),  # MI300A too, which has no such label
        (OWN_GPU | amd_gpu(CARD, ACCELERATOR), {}, True),
        (OWN_GPU | amd_gpu(CARD, "0x060400"), {}, False),  # a card's switch is no GPU
        (OWN_GPU | amd_gpu(CARD, vendor="0x10de"), {}, False),  # KFD does not serve it
        (OWN_GPU | {f"{CARD}/vendor": "0x1002", f"{CARD}/class": DISPLAY}, {}, True),  # no driver
        ({f"{PROCESSOR_S_OWN}/class": DISPLAY}, {}, True),  # nothing can be read
        ({}, {}, True),
    ],
)
def test_a_processor_s_gpu_alone_is_no_gpu_beside_which_the_cpu_is_refused(
    tmp_path, monkeypatch, devices, drivers, stops
):
    folder = write(tmp_path / "devices", devices)
    for bus_id, name in drivers.items():
        (tmp_path / "drivers" / name).mkdir(parents=True)
        (folder / bus_id / "driver").symlink_to(f"../../drivers/{name}")
    monkeypatch.setattr(gpu_driver, "KFD", "/dev/null")
    monkeypatch.setattr(gpu_driver, "DEVICE_NODES", ("/dev/nowhere", "/dev/null"))
    monkeypatch.setattr(gpu_driver, "PCI_DEVICES", folder)
    assert gpu_driver.gpu_node() == ("/dev/null" if stops else None)
    monkeypatch.setattr(gpu_driver, "DEVICE_NODES", ("/dev/zero", "/dev/null"))
    assert gpu_driver.gpu_node() == "/dev/zero"  # NVIDIA's, whatever AMD's is


def test_ranks_measure_the_cpu_of_a_processor_with_a_gpu_and_not_beside_a_card(tmp_path):
    """A desktop's KFD is there for its processor: README's first command stopped at it."""
    folder = write(tmp_path / "devices", OWN_GPU)
    site = tmp_path / "sitecustomize.py"
    site.write_text(WITHOUT_CUPY + ON_ANOTHER_BUS.format(repr(str(folder))))
    options = "-m", "bench.allreduce", "--out", str(tmp_path / "results"), *SMALL
    variables: dict[str, Any] = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = mpirun(2, *options, **variables)
    assert done.returncode == 0, done.stderr
    sentence = "--device auto chose the CPU: no GPU driver is here: libcuda.so.1, libamdhip64.so.7"
    assert sentence in " ".join(done.stdout.split())
    write(folder, amd_gpu(CARD))
    done = mpirun(2, *options, **variables)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert done.stderr.startswith("bench.allreduce: a GPU is here (/dev/null) and cannot be used: ")
