"""A GPU's driver and run-time compiler through CuPy: lists the GPUs, compiles."""

import contextlib
import ctypes
import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from kernels.devices.compile_cache import SOURCES, CompileError, compile_once, first_complaint
from kernels.devices.device import DeviceError, OutOfMemory

DRIVERS = {"cuda": ("libcuda.so.1",),
           "hip": ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so")}
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# NVIDIA's, AMD's and WSL's. If a node exists and the library does not, CuPy's error says more.
DEVICE_NODES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
# A handle: PCI bus id, the driver's 64 bytes, the memory's offset and size in bytes, its kind.
IPC_HANDLE = re.compile(
    rb"([0-9a-f]{4,8}(?::[0-9a-f]{2}){2}\.[0-7]) ([0-9a-f]{128}) (\d{1,15}) (\d{1,15}) "
    rb"((?:cuda|hip)Malloc|hipExtMallocWithFlags [a-z_]{1,20})")


@cache
def load_cupy() -> Any:
    """The module `cupy`. Raises DeviceError with what to install, or with CuPy's own reason."""
    # ROCm's older IPC fails without AMD's own driver module; only that module has a version file.
    if not Path("/sys/module/amdgpu/version").exists():
        os.environ.setdefault("HSA_ENABLE_IPC_MODE_LEGACY", "0")
    try:
        return importlib.import_module("cupy")
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise DeviceError("CuPy is not installed: pip install -e '.[cuda13]' (or cuda12, or "
                              "rocm), as the driver requires") from error
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if ".so" in line), lines[0])
        raise DeviceError(f"CuPy cannot be imported: {reason} (often because its wheel is for "
                          "another CUDA or ROCm)") from error


def release(version: int) -> str:
    """A version number as text: CUDA writes 13020 for 13.2; HIP 60443483 for 6.4."""
    major, minor = (10_000_000, 100_000) if version > 1_000_000 else (1000, 10)
    return f"{version // major}.{version // minor % 100}"


def visible_gpus() -> tuple[str, list[str]]:
    """The vendor (`cuda` or `hip`), and the PCI bus ids of its GPUs. Raises DeviceError without."""
    if not any(Path(node).exists() for node in DEVICE_NODES):
        driver_library(*DRIVERS)
    runtime = load_cupy().cuda.runtime
    vendor = "hip" if runtime.is_hip else "cuda"
    try:
        bus_ids = list(ordinals(runtime))
    except RuntimeError as error:
        raise DeviceError(refusal(runtime, vendor, error)) from error
    if not bus_ids:
        raise DeviceError(f"there is no {vendor} device that this process may see")
    return vendor, bus_ids


def refusal(runtime: Any, vendor: str, error: RuntimeError) -> str:
    """Why the driver lists no GPUs, in one sentence, with versions and advice."""
    driver, required = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if not driver:
        return f"there is no {vendor} driver here ({str(error).split(':')[0]})"
    notes = [f"no {vendor} device can be used: {error}",
             f"the driver offers {release(driver)}, CuPy wants {release(required)}"]
    if driver // 1000 < required // 1000:
        notes.append("update the driver, or install the CuPy that is built for it")
    notes += [f"{name} is {os.environ[name]!r}" for name in VISIBLE if name in os.environ]
    return "; ".join(notes)


def ordinals(runtime: Any) -> dict[str, int]:
    """The number of each GPU that this process may see, by its PCI bus id."""
    return {str(runtime.deviceGetPCIBusId(i)).lower(): i for i in range(runtime.getDeviceCount())}


@contextlib.contextmanager
def calling(action: str) -> Iterator[None]:
    """Turns the driver's exceptions into a DeviceError that names the action."""
    try:
        yield
    except RuntimeError as error:
        is_full = "MemoryAllocation" in str(error) or "OutOfMemory" in str(error)
        raise (OutOfMemory if is_full else DeviceError)(f"{action} fails: {error}") from error


@cache
def driver_library(*vendors: str) -> ctypes.CDLL:
    """The first driver library of these vendors that loads. Raises DeviceError if none does."""
    names = [name for vendor in vendors for name in DRIVERS[vendor]]
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise DeviceError(f"no GPU driver is here: {', '.join(names)} cannot be loaded")


def ipc_parts(handle: bytes, size_bytes: int) -> tuple[str, bytes, int, str]:
    """Owner's bus id, driver's handle, the memory's offset in its allocation (bytes), and its kind.
    Raises DeviceError if `handle` is malformed or names memory of another size."""
    if not (match := IPC_HANDLE.fullmatch(handle)):
        raise DeviceError(f"{handle[:60]!r} is no handle of a GPU's memory")
    bus_id, ipc, offset, handle_bytes, kind = match[0].decode().split(" ", 4)
    if int(handle_bytes) != size_bytes:
        raise DeviceError(f"the memory of GPU {bus_id} has not the requested size")
    return bus_id, bytes.fromhex(ipc), int(offset), kind


def compile_kernel(cupy: Any, arch: str, compiler: str, stem: str, macros: Mapping[str, str],
                   structures: Sequence[type[ctypes.Structure]] = ()) -> Path:
    """`kernels/<stem>.cu`, compiled by NVRTC or hipRTC for an `arch` such as sm_90 or gfx1201. Our
    own cache keeps it, because CuPy's cache key ignores our headers. Raises CompileError."""
    source, is_hip = SOURCES / f"{stem}.cu", arch.startswith("gfx")
    target = [f"--offload-arch={arch}", "-O3"] if is_hip else [f"--gpu-architecture={arch}"]
    flags = [*target, "-std=c++17"]
    refusal = f"{compiler} cannot compile {source.name} for {arch}"

    def write_binary(path: Path, options: list[str], checks: str) -> None:
        binary = build(cupy.cuda.nvrtc, source, [*flags, *options], refusal, checks)[1]
        path.write_bytes(binary)

    suffix = ".hsaco" if is_hip else ".cubin"
    return compile_once(source, [compiler, *flags], macros, structures, suffix, write_binary)


def build(nvrtc: Any, source: Path, options: Sequence[str], refusal: str,
          checks: str = "") -> tuple[bytes, bytes, str]:
    """The compiler's PTX, binary and log. Raises CompileError: `refusal` and the first error."""
    program = nvrtc.createProgram(source.read_text() + checks, source.name, [], [])
    try:
        folders = f"-I{source.parent}", f"-I{SOURCES}/include"
        nvrtc.compileProgram(program, (*options, *folders))
        # On HIP, getPTX returns the code object. CuPy drops its last byte, a 0, as a string's end.
        ptx = nvrtc.getPTX(program)
        binary = ptx if options[0].startswith("--offload-arch") else nvrtc.getCUBIN(program)
        return ptx, binary + b"\0", nvrtc.getProgramLog(program)
    except RuntimeError as error:
        complaint = first_complaint(f"{error}\n{nvrtc.getProgramLog(program)}")
        raise CompileError(f"{refusal}: {complaint}") from error
    finally:
        nvrtc.destroyProgram(program)
