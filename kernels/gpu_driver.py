"""The GPU driver, through CuPy: whether it is there, which GPUs it shows, and what its errors say."""

import contextlib
import ctypes
import importlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from kernels.device import DeviceError, OutOfMemory

DRIVERS = {"cuda": ("libcuda.so.1",), "hip": ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so")}
VISIBLE = {"cuda": ("CUDA_VISIBLE_DEVICES",), "hip": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")}
# NVIDIA's, AMD's and WSL's: where one is there and the library is not, CuPy's own complaint says more.
DEVICE_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


@cache
def load_cupy() -> Any:
    """CuPy. Raises DeviceError with what to install, or with what it says itself."""
    # ROCm's runtime has shared memory in two ways by turns, and the older fails on kernels without AMD's own driver
    # module, which is the one that tells its version.
    if not Path("/sys/module/amdgpu/version").exists():
        os.environ.setdefault("HSA_ENABLE_IPC_MODE_LEGACY", "0")
    try:
        return importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            raise DeviceError(
                "CuPy is not installed: pip install -e '.[cuda13]' (or cuda12, or rocm), whichever the driver has"
            ) from error
        raise DeviceError(f"CuPy cannot be imported: {error}") from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if ".so" in line), lines[0])
        raise DeviceError(
            f"CuPy cannot be imported, often because its wheel is for another CUDA or ROCm: {reason}"
        ) from error


def release(version: int) -> str:
    """CUDA writes 13020 for 13.2; HIP 60443483 for 6.4."""
    return (
        f"{version // 10_000_000}.{version // 100_000 % 100}"
        if version > 1_000_000
        else f"{version // 1000}.{version // 10 % 100}"
    )


def visible_gpus() -> tuple[str, list[str]]:
    """The vendor's word (`cuda`, `hip`), and the PCI bus ids of the GPUs that this process may use, as the variables
    for visible devices have it. Raises DeviceError where there is none, with why."""
    libraries = [name for names in DRIVERS.values() for name in names]
    if not any(Path(node).exists() for node in DEVICE_NODES) and not any(map(loadable, libraries)):
        raise DeviceError("no GPU driver is here: neither libcuda.so.1 nor libamdhip64.so can be loaded")
    runtime = load_cupy().cuda.runtime
    vendor = "hip" if runtime.is_hip else "cuda"
    try:
        ids = [bus_id(runtime, ordinal) for ordinal in range(runtime.getDeviceCount())]
    except RuntimeError as error:
        driver, wanted = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if not driver:
            raise DeviceError(f"there is no {vendor} driver here ({name_of(error)})") from error
        older = driver // 1000 < wanted // 1000
        shown = "".join(f"; {name} is {os.environ[name]!r}" for name in VISIBLE[vendor] if name in os.environ)
        advice = "; update the driver, or install the CuPy that is built for it" if older else ""
        raise DeviceError(
            f"no {vendor} device can be used: {error}; the driver offers {release(driver)}, CuPy wants "
            f"{release(wanted)}{advice}{shown}"
        ) from error
    if not ids:
        raise DeviceError(f"there is no {vendor} device that this process may see")
    return vendor, ids


def name_of(error: Exception) -> str:
    """`cudaErrorNoDevice` of "cudaErrorNoDevice: no CUDA-capable device is detected"."""
    return str(error).split(":")[0]


def bus_id(runtime: Any, ordinal: int) -> str:
    return str(runtime.deviceGetPCIBusId(ordinal)).lower()


@contextlib.contextmanager
def calling(what: str) -> Iterator[None]:
    """Turns the driver's exceptions into a DeviceError that names the call."""
    try:
        yield
    except RuntimeError as error:
        raise (OutOfMemory if "MemoryAllocation" in str(error) or "OutOfMemory" in str(error) else DeviceError)(
            f"{what} fails: {error}"
        ) from error


@cache
def driver_library(vendor: str) -> ctypes.CDLL:
    """The driver's own library, which CuPy has loaded already. Raises DeviceError where it is not found."""
    for name in DRIVERS[vendor]:
        if loadable(name):
            return ctypes.CDLL(name)
    raise DeviceError(f"none of {', '.join(DRIVERS[vendor])} can be loaded")


def loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
