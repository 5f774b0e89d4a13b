"""Builds the library with NCCL's C interface, and sets the environment of a process that uses
it."""

import hashlib
import shutil
import subprocess
from functools import cache

from kernels.devices.compile_cache import cache_folder
from tests import fake_gpu

SOURCE = fake_gpu.HERE / "nccl_library.cc"
NAMES = {"cuda": "libnccl.so.2", "hip": "librccl.so.1", "mscclpp": "libmscclpp_nccl.so"}
ALL_TO_ALL = {"cuda": "ncclAlltoAll", "hip": "ncclAllToAll", "mscclpp": "ncclAllToAll"}


@cache
def library(vendor: str, has_alltoall: bool = True) -> str:
    """The path of the library for a vendor, built once, with or without an all-to-all."""
    text = SOURCE.read_bytes()
    folder = (
        cache_folder()
        / f"fake_nccl-{hashlib.sha256(text).hexdigest()[:16]}{'' if has_alltoall else '-older'}"
    )
    path = folder / NAMES[vendor]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        making = folder / f"{path.name}.{id(path)}"
        flags = [
            "-std=c++17",
            "-O2",
            "-fwrapv",
            "-fPIC",
            "-shared",
            f"-Wl,-soname,{NAMES[vendor]}",
            "-o",
            str(making),
        ]
        flags += [f"-DALL_TO_ALL={ALL_TO_ALL[vendor]}"] * has_alltoall + ["-DVERSION=900"] * (
            vendor == "mscclpp"
        )
        subprocess.run([str(shutil.which("clang++-22")), *flags, str(SOURCE)], check=True)
        making.rename(path)
    return str(path)


def environment(
    vendor: str = "cuda",
    gpu: dict[str, object] | None = None,
    has_alltoall: bool = True,
    **faults: object,
) -> dict[str, str]:
    """The environment of a process with a software GPU and its library; `version=22703` sets
    FAKE_NCCL_VERSION."""
    settings = fake_gpu.environment(vendor=vendor, **(gpu or {}))
    del settings["FAKE_NCCL_BINDING"]
    variables = {f"FAKE_NCCL_{name.upper()}": str(value) for name, value in faults.items()}
    return {**settings, "FAKE_NCCL_LIBRARY": library(vendor, has_alltoall), **variables}
