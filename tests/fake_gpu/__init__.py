"""A software GPU behind CuPy's interface, for tests on machines without a GPU.

Only the library boundary is fake: this `cupy` has CuPy's names, signatures, errors and semantics.
Behind it, fibres of host threads run the kernels from their GPU sources, processes share memory,
streams are queues, and waits block. `environment()` returns the variables that give a process the
software GPU."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from kernels.devices.compile_cache import cache_folder
from tests.launch import FULL

HERE = Path(__file__).parent
OF_BINDINGS = "libamdhip64.so", "libhiprtc.so"  # as AMD's bindings name them
DRIVERS = {"cuda": ["libcuda.so.1"], "hip": ["libamdhip64.so.7", *OF_BINDINGS]}


@cache
def _folder() -> Path:
    """The folder of the driver's library, built once. Skips the test without clang."""
    clang = shutil.which("clang++-22")
    if clang is None:
        pytest.skip("system tool absent: clang-22")
    sources = sorted(p for p in HERE.iterdir() if p.suffix in (".cpp", ".h"))
    inputs = [
        *sources,
        HERE / "cupy/cuda/nvrtc.py",
    ]  # with the kernels' flags, as the folder also caches kernels
    key = hashlib.sha256(b"".join(p.read_bytes() for p in inputs)).hexdigest()[:16]
    folder = cache_folder() / f"fake_gpu-{key}"
    if not folder.exists():
        making = Path(tempfile.mkdtemp(dir=cache_folder()))
        units = [str(p) for p in sources if p.suffix == ".cpp"]
        flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-pthread"]
        subprocess.run([clang, *flags, *units, "-o", str(making / "gpu.so")], check=True)
        for vendor, names in DRIVERS.items():
            (making / vendor).mkdir()
            for name in names:
                (making / vendor / name).symlink_to("../gpu.so")
        try:
            making.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(making)
    return folder


def environment(**faults: object) -> dict[str, str]:
    """The environment of a process that uses the software GPU: `mpirun(2, ...,
    **environment(vendor="hip"))`.

    The process has no NCCL; `fake_nccl.environment` adds it. `faults` name the variables of
    cupy/_software.py: `count=1` sets FAKE_GPU_COUNT. With `make reliability` device memory is
    closed to the host (FAKE_GPU_CLOSED). The compile cache is separate from the cache for real
    GPUs."""
    folder = _folder()
    kernels = "cache_of_reads" if "reads" in faults else "cache"  # they are built otherwise
    vendors = str(faults.get("vendor", "cuda")).split(",")
    libraries = [str(folder / vendor) for vendor in vendors]
    paths = [str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]),
        "XDG_CACHE_HOME": str(folder / kernels),
        "FAKE_GPU_LIBRARY": str(folder / "gpu.so"),
        "FAKE_NCCL_BINDING": "none",
        "ROCM_PATH": str(folder / "no ROCm"),  # where AMD's bindings look first
        **{
            f"FAKE_GPU_{name.upper()}": str(value)
            for name, value in {"closed": int(FULL), **faults}.items()
        },
    }
