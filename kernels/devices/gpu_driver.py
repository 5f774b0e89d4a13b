"""The GPU driver, through CuPy: whether it is there, which GPUs it shows, and what its errors say."""

import contextlib
import ctypes
import importlib
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kernels.devices.device import DeviceError, OutOfMemory

DRIVERS = {"cuda": ("libcuda.so.1",), "hip": ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so")}
VISIBLE = {"cuda": ("CUDA_VISIBLE_DEVICES",), "hip": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")}
# NVIDIA's, AMD's and WSL's: where one is there and the library is not, CuPy's own complaint says more.
DEVICE_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# A handle of memory in words: bus id, the driver's 64 bytes, where in the allocation the memory begins and ends, the
# allocation's size, all in bytes, and what it is made of.
IPC_HANDLE = re.compile(rb"([0-9a-f]{4,8}(?::[0-9a-f]{2}){2}\.[0-7]) ([0-9a-f]{128}) (\d{1,15}) (\d{1,15}) (\d{1,15}) "
                        rb"((?:cuda|hip)Malloc|hipExtMallocWithFlags [a-z_]{1,20})")


@cache
def load_cupy() -> Any:
    """CuPy. Raises DeviceError with what to install, or with what it says itself."""
    # Of ROCm's two ways to share memory the older fails without AMD's own driver module, which alone tells its version.
    if not Path("/sys/module/amdgpu/version").exists():
        os.environ.setdefault("HSA_ENABLE_IPC_MODE_LEGACY", "0")
    try:
        return importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            raise DeviceError("CuPy is not installed: pip install -e '.[cuda13]' (or cuda12, or rocm), whichever the "
                              "driver has") from error
        raise DeviceError(f"CuPy cannot be imported: {error}") from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if ".so" in line), lines[0])
        raise DeviceError("CuPy cannot be imported, often because its wheel is for another CUDA or ROCm: "
                          f"{reason}") from error


def release(version: int) -> str:
    """CUDA writes 13020 for 13.2; HIP 60443483 for 6.4."""
    major, minor = (10_000_000, 100_000) if version > 1_000_000 else (1000, 10)
    return f"{version // major}.{version // minor % 100}"


def visible_gpus() -> tuple[str, list[str]]:
    """The vendor's word (`cuda`, `hip`), and the PCI bus ids of the GPUs that this process may use, as the variables
    for visible devices have it. Raises DeviceError where there is none, with why."""
    if not any(Path(node).exists() for node in DEVICE_NODES):
        driver_library(*DRIVERS)
    runtime = load_cupy().cuda.runtime
    vendor = "hip" if runtime.is_hip else "cuda"
    try:
        ids = list(ordinals(runtime))
    except RuntimeError as error:
        driver, wanted = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if not driver:
            raise DeviceError(f"there is no {vendor} driver here ({str(error).split(':')[0]})") from error
        older = driver // 1000 < wanted // 1000
        shown = "".join(f"; {name} is {os.environ[name]!r}" for name in VISIBLE[vendor] if name in os.environ)
        advice = "; update the driver, or install the CuPy that is built for it" if older else ""
        raise DeviceError(f"no {vendor} device can be used: {error}; the driver offers {release(driver)}, CuPy wants "
                          f"{release(wanted)}{advice}{shown}") from error
    if not ids:
        raise DeviceError(f"there is no {vendor} device that this process may see")
    return vendor, ids


def ordinals(runtime: Any) -> dict[str, int]:
    """The number of each GPU that this process may see, by its PCI bus id."""
    return {str(runtime.deviceGetPCIBusId(i)).lower(): i for i in range(runtime.getDeviceCount())}


@contextlib.contextmanager
def calling(what: str) -> Iterator[None]:
    """Turns the driver's exceptions into a DeviceError that names the call."""
    try:
        yield
    except RuntimeError as error:
        kind = OutOfMemory if "MemoryAllocation" in str(error) or "OutOfMemory" in str(error) else DeviceError
        raise kind(f"{what} fails: {error}") from error


@cache
def driver_library(*vendors: str) -> ctypes.CDLL:
    """The first of these vendors' own libraries that can be loaded. Raises DeviceError where there is none."""
    names = [name for vendor in vendors for name in DRIVERS[vendor]]
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise DeviceError(f"no GPU driver is here: {', '.join(names)} cannot be loaded")


def ipc_parts(handle: bytes, size_bytes: int) -> tuple[str, bytes, int, str]:
    """The owner's bus id, the driver's handle, where the memory of this size begins in it, and what that is made of.
    Raises DeviceError for what is no such handle."""
    if not (where := IPC_HANDLE.fullmatch(handle)):
        raise DeviceError(f"{handle[:60]!r} is no handle of a GPU's memory")
    begin, end, whole = map(int, where.group(3, 4, 5))
    if end - begin != size_bytes or end > whole:
        raise DeviceError(f"the memory shared by GPU {where[1].decode()} is not of the size that was asked for")
    return where[1].decode(), bytes.fromhex(where[2].decode()), begin, where[6].decode()
