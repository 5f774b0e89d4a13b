"""The installed CuPy: which one cannot work here, and what the real wheel does without a GPU. Its
errors must become one sentence, and it must compile for GPUs."""

import struct
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernels.devices import gpu_driver
from kernels.devices.device import DeviceError
from kernels.devices.gpu_driver import compile_kernel


@pytest.mark.parametrize(
    ("wheels", "drivers", "sentence"),
    [
        (
            "cupy_cuda13x cupy_rocm_7_0",
            "hip",
            r"cupy-cuda13x and cupy-rocm-7-0 overwrite each other in \S+: "
            r"run make setup GPU=rocm && \. \.venv-rocm/",
        ),
        (
            "cupy cupy_cuda12x",
            "",
            "cupy and cupy-cuda12x overwrite each other .* GPU=cuda13 .* GPU=rocm",
        ),
        (
            "cupy_rocm_7_0",
            "cuda",
            "cupy-rocm-7-0 is for hip, and .* vendor's driver: run make setup GPU=cuda13",
        ),
        ("cupy_cuda12x", "cuda hip", None),
        ("cupy_rocm_7_0", "", None),
        ("", "hip", None),
    ],
)
def test_a_cupy_that_cannot_work_here_is_named_with_what_to_type(
    tmp_path, monkeypatch, wheels, drivers, sentence
):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").touch()
    for wheel in wheels.split():
        (tmp_path / f"{wheel}-14.2.0.dist-info").mkdir()
    for vendor in drivers.split():
        (tmp_path / vendor).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    nodes = {vendor: str(tmp_path / vendor) for vendor in ("cuda", "hip")}
    monkeypatch.setattr(gpu_driver, "DRIVER_NODES", nodes)
    if sentence is None:
        gpu_driver.check_wheels()
        return
    with pytest.raises(DeviceError, match=sentence):
        gpu_driver.check_wheels()


@pytest.fixture
def real_cupy():
    if find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    gpu_driver.load_cupy.cache_clear()
    return gpu_driver.load_cupy()


def test_the_real_cupy_without_a_driver_gives_one_sentence(real_cupy, tmp_path, monkeypatch):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver here")
    with pytest.raises(DeviceError, match="no GPU driver is here"):
        gpu_driver.visible_gpus()
    monkeypatch.setattr(gpu_driver, "DEVICE_NODES", ("/dev/null",))
    sentence = r"there is no cuda driver here \(cudaErrorInsufficientDriver\)"
    with pytest.raises(DeviceError, match=sentence):
        gpu_driver.visible_gpus()
    amd_alone = {"cuda": str(tmp_path / "none"), "hip": "/dev/null"}
    monkeypatch.setattr(gpu_driver, "DRIVER_NODES", amd_alone)
    sentence = r"cupy-cuda13x is for cuda, and /dev/null .*: run make setup GPU=rocm"
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


RECORDED_IMPORT_ERROR = """
================================================================
Failed to import CuPy.

If you installed CuPy via wheels (cupy-cudaXXX or cupy-rocm-X-X), make sure that the package matches
with the version of CUDA or ROCm installed.

Original error:
  ImportError: libamdhip64.so.7: cannot open shared object file: No such file or directory
================================================================
"""


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (
            ImportError(RECORDED_IMPORT_ERROR),
            r"CuPy cannot be imported: ImportError: libamdhip64\.so\.7: cannot",
        ),
        (
            ModuleNotFoundError("No module named 'cupy'", name="cupy"),
            "CuPy is not installed: run make setup GPU=",
        ),
        (
            ModuleNotFoundError("No module named 'numpy'", name="numpy"),
            "CuPy cannot be imported: No module named",
        ),
    ],
)
def test_a_recorded_cupy_import_error_gives_one_sentence(monkeypatch, raised, sentence):
    def import_module(name):
        raise raised

    gpu_driver.load_cupy.cache_clear()
    monkeypatch.setattr(gpu_driver, "importlib", SimpleNamespace(import_module=import_module))
    with pytest.raises(DeviceError, match=sentence):
        gpu_driver.load_cupy()
