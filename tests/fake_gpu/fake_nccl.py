"""Builds the library with NCCL's C interface, and sets the environment of a process that uses
it."""

import hashlib
import shutil
import subprocess
from functools import cache

from kernels.devices.compile_cache import cache_folder
from tests import fake_gpu

SOURCE = fake_gpu.HERE / "nccl_library.cc"
LOG = fake_gpu.HERE / "nccl_log.h"
NAMES = {
    "cuda": "libnccl.so.2",
    "old cuda": "libnccl.so.2",
    "hip": "librccl.so.1",
    "mscclpp": "libmscclpp_nccl.so",
}
DEFINES = {
    "cuda": ["-DALL_TO_ALL=ncclAlltoAll"],
    "hip": ["-DALL_TO_ALL=ncclAllToAll"],
    "mscclpp": ["-DALL_TO_ALL=ncclAllToAll", "-DVERSION=900"],
    "old cuda": ["-DOLD", "-DVERSION=21903"],  # without the functions that came until 2.28
}
WINDOWS_SINCE = 22700


@cache
def library(vendor: str) -> str:
    """The path of the library for a vendor, built once."""
    text = SOURCE.read_bytes() + LOG.read_bytes()
    key = hashlib.sha256(text).hexdigest()[:16]
    path = cache_folder() / f"fake_nccl-{key}-{vendor.replace(' ', '-')}" / NAMES[vendor]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        making = path.with_name(f"{path.name}.{id(path)}")
        flags = f"-std=c++17 -O2 -fwrapv -fPIC -shared -Wl,-soname,{NAMES[vendor]}".split()
        flags += DEFINES[vendor]
        clang = str(shutil.which("clang++-22"))
        subprocess.run([clang, *flags, str(SOURCE), "-o", str(making)], check=True)
        making.rename(path)
    return str(path)


def environment(
    vendor: str = "cuda",
    gpu: dict[str, object] | None = None,
    **faults: object,
) -> dict[str, str]:
    """The environment of a process with a software GPU and its library; `version=22703` sets
    FAKE_NCCL_VERSION. An NCCL older than 2.27 lacks the functions that came later."""
    settings = fake_gpu.environment(vendor=vendor, **(gpu or {}))
    del settings["FAKE_NCCL_BINDING"]
    variables = {f"FAKE_NCCL_{name.upper()}": str(value) for name, value in faults.items()}
    is_old = int(str(faults.get("version", WINDOWS_SINCE))) < WINDOWS_SINCE
    build = "old cuda" if is_old and vendor == "cuda" else vendor
    return {**settings, "FAKE_NCCL_LIBRARY": library(build), **variables}
