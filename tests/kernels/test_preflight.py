"""A machine with a GPU's driver and without CuPy: one sentence says what to type, before anything
is installed. The driver is a library with the driver's functions; `sys.modules` hides an installed
CuPy."""

import os
import subprocess
import sys

import pytest

from kernels.devices import preflight
from tests.launch import ROOT, mpirun
from tests.reliability.launch_matrix import SMALL

DRIVER = """
extern "C" int cuInit(unsigned flags) { return STATUS; }
extern "C" int cuDeviceGetCount(int* count) { *count = GPUS; return 0; }
extern "C" int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
"""
HIDES_CUPY = "import sys\nsys.modules['cupy'] = None\n"


@pytest.fixture
def driver(tmp_path):
    """A function that builds libcuda.so.1 and returns the variables of a process that loads it and
    finds no CuPy."""
    (tmp_path / "sitecustomize.py").write_text(HIDES_CUPY)

    def build(status=0, gpus=1, version=13020):
        macros = [f"-DSTATUS={status}", f"-DGPUS={gpus}", f"-DVERSION={version}"]
        output = ["-o", str(tmp_path / "libcuda.so.1")]
        command = ["c++", "-shared", "-fPIC", *macros, "-x", "c++", "-", *output]
        subprocess.run(command, input=DRIVER, text=True, check=True)
        return {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}

    return build


def run(*command, **variables):
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **variables},
    )


def asked(*options, **variables):
    return run(sys.executable, "-m", "kernels.devices.preflight", *options, **variables)


@pytest.mark.parametrize(
    ("version", "names", "extra"),
    [
        (13020, "CUDA 13.2", "cuda13"),
        (12080, "CUDA 12.8", "cuda12"),
    ],
)
def test_the_sentence_names_the_cupy_for_the_driver(driver, version, names, extra):
    done = asked("-b", "1M", **driver(version=version))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(
        f"wiretax: A driver of NVIDIA for {names} is here and CuPy is not: type `make "
        f"allreduce GPU={extra}` "
    )
    assert "measure the CPU with `--device cpu`" in done.stderr


@pytest.mark.parametrize("fault", [{"status": 100}, {"gpus": 0}])
def test_a_driver_without_a_gpu_for_this_process_is_no_reason_to_stop(driver, fault):
    """As in a container with the library alone, or with CUDA_VISIBLE_DEVICES empty."""
    done = asked(**driver(**fault))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_named_device_is_the_users_choice(driver):
    variables = driver()
    assert asked("--device", "cpu", **variables).returncode == 0
    assert asked("--device=cpu", **variables).returncode == 0


def test_cupy_ends_the_question(tmp_path, driver):
    (tmp_path / "cupy.py").touch()
    variables = driver()
    (tmp_path / "sitecustomize.py").unlink()
    assert asked(**variables).returncode == 0


@pytest.mark.parametrize(("node", "extra"), [("NVIDIA_GPU", "cuda13"), ("AMD_DRIVER", "rocm")])
def test_a_device_node_is_a_driver_too(monkeypatch, tmp_path, node, extra):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(preflight, "cuda_version", lambda: None)
    for name in ("NVIDIA_GPU", "AMD_DRIVER"):
        monkeypatch.setattr(preflight, name, tmp_path / name)
    assert preflight.missing_cupy() is None
    (tmp_path / node).touch()
    assert f"GPU={extra}`" in (preflight.missing_cupy() or "")


def test_make_stops_before_it_installs(driver, tmp_path):
    """The Makefile of a fresh clone."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    makefile = str(ROOT / "Makefile")
    done = run("make", "-f", makefile, "-C", str(tmp_path), "allreduce", **driver())
    assert done.returncode == 2
    assert done.stderr.startswith(
        "wiretax: A driver of NVIDIA for CUDA 13.2 is here and CuPy is not: "
    )
    assert "Installing" not in done.stderr


def test_ranks_refuse_to_measure_the_cpu_by_accident(driver, tmp_path):
    options = "-m", "bench.allreduce", "--out", str(tmp_path / "results"), *SMALL
    variables = driver()
    done = mpirun(2, *options, **variables)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(
        "bench.allreduce: A driver of NVIDIA for CUDA 13.2 is here and CuPy is not: "
    )
    done = mpirun(2, *options, "--device", "cpu", **variables)
    assert done.returncode == 0, done.stderr


def test_ranks_refuse_a_gpu_that_cupy_cannot_use(driver, tmp_path):
    """As with a driver that is older than CuPy's CUDA: the installed CuPy is real, the driver a
    stub."""
    variables = driver()
    (tmp_path / "sitecustomize.py").unlink()
    options = "-m", "bench.allreduce", "--quiet", "--out", str(tmp_path / "results"), *SMALL
    done = mpirun(2, *options, **variables)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(
        "bench.allreduce: A driver of NVIDIA for CUDA 13.2 is here and CuPy cannot use it: "
    )
    assert done.stderr.endswith("; to measure the CPU add --device cpu\n")
