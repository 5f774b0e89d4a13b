"""A GPU in software behind CuPy's face, for tests on machines without one.

What is fake is the library boundary alone: `cupy` here has CuPy's names, signatures, errors and semantics. Behind it
kernels run for real, from their GPU sources, as fibres of host threads; processes share memory for real, streams are
queues, and waits wait. `environment()` says how a process comes to it.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from kernels.devices.compile_cache import cache_folder

HERE = Path(__file__).parent
DRIVERS = {"cuda": "libcuda.so.1", "hip": "libamdhip64.so.7"}


@cache
def _folder() -> Path:
    """Where the driver's library lies, built once. Skips the test where there is no clang."""
    clang = shutil.which("clang++-22")
    if clang is None:
        pytest.skip("system tool absent: clang-22")
    sources = sorted(p for p in HERE.iterdir() if p.suffix in (".cpp", ".h"))
    key = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()[:16]
    folder = cache_folder() / f"fake_gpu-{key}"
    if not folder.exists():
        making = Path(tempfile.mkdtemp(dir=cache_folder()))
        units = [str(p) for p in sources if p.suffix == ".cpp"]
        flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-pthread"]
        subprocess.run([clang, *flags, *units, "-o", str(making / "gpu.so")], check=True)
        for vendor, name in DRIVERS.items():
            (making / vendor).mkdir()
            (making / vendor / name).symlink_to("../gpu.so")
        try:
            making.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(making)
    return folder


def environment(**faults: object) -> dict[str, str]:
    """The environment of a process that is to find the software GPU: `mpirun(2, ..., **environment(vendor="hip"))`.

    NCCL is not installed there; `fake_nccl.environment` has it. `faults` name the variables of cupy/_software.py:
    `count=1` sets FAKE_GPU_COUNT. What is compiled for it is kept apart from what is compiled for real GPUs.
    """
    folder = _folder()
    vendors = str(faults.get("vendor", "cuda")).split(",") if str(faults.get("driver")) != "0" else []
    libraries = [*(str(folder / vendor) for vendor in vendors), os.environ.get("LD_LIBRARY_PATH", "")]
    paths = [str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "FAKE_GPU_LIBRARY": str(folder / "gpu.so"),
        "FAKE_NCCL_BINDING": "none",
        **{f"FAKE_GPU_{name.upper()}": str(value) for name, value in faults.items()},
    }
