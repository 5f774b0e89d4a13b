"""A GPU's driver and run-time compiler, by CuPy or what has its names: lists GPUs, compiles."""

import contextlib
import ctypes
import importlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kernels.devices import rocm_libraries
from kernels.devices.compile_cache import CompileError, compile_once, first_complaint
from kernels.devices.device import DeviceError, Macros, OutOfMemory
from kernels.devices.layout import SOURCES

DRIVERS = {"cuda": "libcuda.so.1", "hip": "libamdhip64.so.7"}
# By HIP's number. ROCm 6 has 6; ROCm 7 and 10 have 7 (10.0 libamdhip64.so.7.15.26333).
OTHER_HIP = "libamdhip64.so.6", "libamdhip64.so.8"
KFD = "/dev/kfd"  # of AMD's driver
DEVICE_NODES = "/dev/nvidiactl", KFD
PCI_DEVICES = Path("/sys/bus/pci/devices")
# AMD's GPUs by vendor and class: display controllers and processing accelerators.
AMD_GPUS = ("0x1002", "0x03"), ("0x1002", "0x12")
# The voltage of the north bridge, which amdgpu shows for processors with a GPU, not for cards nor
# for MI300A (hwmon_attributes_visible in Linux's amdgpu_pm.c).
APU_LABEL = "vddnb"
# Only AMD's own driver module has a version file, not the amdgpu that belongs to a kernel.
AMD_MODULE = Path("/sys/module/amdgpu/version")
LEGACY_IPC = "HSA_ENABLE_IPC_MODE_LEGACY"  # ROCm's older IPC, which fails without AMD_MODULE
NVIDIA_MODULE = Path("/sys/module/nvidia/version")
# Extras of the wheel, or environments of a checkout, which has no package around its folders.
INSTALL = (
    "in a checkout of Wiretax `pip install '.[cuda13]'`, '.[cuda12]' (as nvidia-smi says), "
    "'.[rocm]' or '.[rocm10]'"
    if __name__.startswith("wiretax.")
    else "`make allreduce GPU=cuda13`, GPU=cuda12 (as nvidia-smi says), GPU=rocm or GPU=rocm10"
)
OTHERWISE = "AMD's bindings need HIP and hipRTC alone: pip install rocm-bindings-hip"


class VisibleGpu(NamedTuple):
    """A GPU that this process may see, as its driver describes it."""

    bus_id: str
    arch: str  # such as gfx1201 or sm_90
    multiprocessors: int
    is_integrated: bool

    def __str__(self) -> str:
        kind = f"{self.arch}, integrated" if self.is_integrated else self.arch
        return f"GPU {self.bus_id} ({kind})"


class VisibleGpus(NamedTuple):
    """The vendor (`cuda` or `hip`), the PCI bus ids of the GPUs that ranks use, and the GPUs of
    another kind, which no rank uses."""

    vendor: str
    bus_ids: list[str]
    left_out: Sequence[VisibleGpu] = ()


def legacy_ipc_fails() -> bool:
    """Whether the environment requests ROCm's older IPC, without AMD's own driver module."""
    return os.environ.get(LEGACY_IPC, "0") != "0" and not AMD_MODULE.exists()


@cache
def load_bindings() -> Any:
    """The module `cupy`, or AMD's bindings with its names where it cannot be imported. Raises
    DeviceError with CuPy's own reason and what to install."""
    # RCCL's README asks for it if GPUs peer over PCIe; read when ROCm starts.
    os.environ.setdefault("HSA_FORCE_FINE_GRAIN_PCIE", "1")
    if not AMD_MODULE.exists():
        os.environ.setdefault(LEGACY_IPC, "0")
    try:
        rocm_libraries.load_from_wheels()
        return importlib.import_module("cupy")
    except Exception as error:
        # Before the sentences below, which load libraries: a process may have one HIP.
        bindings, lack = rocm_libraries.amd_bindings()
        if bindings:
            return bindings
        if isinstance(error, DeviceError):
            raise
        # CuPy raises its advice, in twenty lines, from the error of the loader.
        reason = str(error.__cause__ or error)
        if DRIVERS["hip"] in reason and (other := other_hip()):
            raise DeviceError(other) from error
        if lacks := rocm_libraries.missing(reason):
            sentence = (
                f"CuPy cannot be imported for lack of {', '.join(lacks)}; {lack or OTHERWISE}"
            )
            raise DeviceError(sentence) from error
        advice = f"{INSTALL} installs the one for the driver"
        if lack and isinstance(error, ModuleNotFoundError):  # installed without CuPy: for ROCm 10
            advice = lack
        raise DeviceError(f"CuPy cannot be imported: {reason}; {advice}") from error


def bindings_name(bindings: Any) -> str:
    """Whose they are: CuPy, or AMD's package."""
    return "CuPy" if bindings.__name__ == "cupy" else "rocm-bindings-hip"


def gpu_node() -> str | None:
    """The device node of a GPU's driver; None without, and where AMD's has integrated GPUs alone.
    An empty list of visible GPUs, or a missing CuPy, must not make a benchmark measure the CPU by
    accident; but who has a processor with a small GPU means the CPU."""
    nodes = filter(os.path.exists, DEVICE_NODES)
    return next((node for node in nodes if node != KFD or not amd_is_integrated()), None)


def amd_is_integrated() -> bool:
    """Whether each of AMD's GPUs here belongs to a processor, but for those that a virtual machine
    has. False without any: then nobody knows whom KFD serves."""
    gpus = pci_gpus(*AMD_GPUS)
    return bool(gpus) and all(pci_attribute(gpu, "hwmon/*/in1_label") == APU_LABEL for gpu in gpus)


def pci_gpus(*kinds: tuple[str, str]) -> list[Path]:
    """The folders of PCI devices of these vendors and classes, but for those that a virtual machine
    has."""
    return [
        folder
        for folder in sorted(PCI_DEVICES.glob("*"))
        if (pci_attribute(folder, "vendor"), pci_attribute(folder, "class")[:4]) in kinds
        and os.path.basename(os.path.realpath(folder / "driver")) != "vfio-pci"
    ]


def pci_attribute(folder: Path, pattern: str) -> str:
    """The first attribute of a PCI device that a pattern matches; empty if it is unknown."""
    with contextlib.suppress(OSError, StopIteration, UnicodeDecodeError):
        return next(folder.glob(pattern)).read_text().strip()
    return ""


def release(version: int) -> str:
    """A version number as text: CUDA writes 13020 for 13.2; HIP 60443483 for 6.4."""
    major, minor = (10_000_000, 100_000) if version > 1_000_000 else (1000, 10)
    return f"{version // major}.{version // minor % 100}"


def module_version(path: Path) -> str:
    """A driver's kernel module with its version, such as "amdgpu 6.16.6"."""
    name = path.parent.name
    if path.exists():
        return f"{name} {path.read_text().strip()}"
    return f"{name} of kernel {os.uname().release}" if path.parent.exists() else "unknown"


def arch_of(properties: Mapping[str, Any]) -> str:
    """The architecture that a GPU's properties name, such as gfx1201 or sm_90."""
    name: bytes = properties.get("gcnArchName", b"")
    return name.decode().split(":")[0] or f"sm_{properties['major']}{properties['minor']}"


def commonest_kind(gpus: Sequence[VisibleGpu]) -> str:
    """The architecture of most of these GPUs. Of two kinds with as many GPUs each, the one that is
    not integrated, then the one with more multiprocessors: a desktop has one of each."""
    number = Counter(gpu.arch for gpu in gpus)
    best = max(gpus, key=lambda gpu: (number[gpu.arch], not gpu.is_integrated, gpu.multiprocessors))
    return best.arch


def visible_gpus(mixed: bool = False) -> VisibleGpus:
    """The GPUs of the commonest kind, or all GPUs if they may be `mixed`. A processor's integrated
    GPU would otherwise set the times of the cards beside it. Raises DeviceError without a GPU."""
    if not gpu_node():  # CuPy takes a second to load
        driver_library(*DRIVERS)
    bindings = load_bindings()
    runtime = bindings.cuda.runtime
    vendor = "hip" if runtime.is_hip else "cuda"
    try:
        gpus = [describe(runtime, bus_id, number) for bus_id, number in ordinals(runtime).items()]
    except RuntimeError as error:
        offered, wanted = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        older = "; update the driver, or install cuda12 in place of cuda13"
        raise DeviceError(
            f"no {vendor} device can be used: {error}; the driver offers {release(offered)}, "
            f"{bindings_name(bindings)} needs {release(wanted)}"
            f"{older if 12000 <= offered < 13000 <= wanted < 14000 else ''}"
        ) from error
    if not gpus:
        raise DeviceError(f"there is no {vendor} device that this process may see")
    kind = commonest_kind(gpus)
    used = [gpu for gpu in gpus if mixed or gpu.arch == kind]
    left_out = [gpu for gpu in gpus if gpu not in used]
    return VisibleGpus(vendor, [gpu.bus_id for gpu in used], left_out)


def describe(runtime: Any, bus_id: str, ordinal: int) -> VisibleGpu:
    """A visible GPU by its properties. ROCm says since 6.2 whether it is integrated."""
    properties = runtime.getDeviceProperties(ordinal)
    multiprocessors, is_integrated = properties["multiProcessorCount"], properties["integrated"]
    return VisibleGpu(bus_id, arch_of(properties), multiprocessors, bool(is_integrated))


def ordinals(runtime: Any) -> dict[str, int]:
    """The number of each GPU that this process may see, by its PCI bus id."""
    return {str(runtime.deviceGetPCIBusId(i)).lower(): i for i in range(runtime.getDeviceCount())}


@contextlib.contextmanager
def calling(action: str) -> Iterator[None]:
    """Turns the driver's exceptions into a DeviceError that names the action, also that of a
    function that the driver's library lacks."""
    try:
        yield
    except (AttributeError, RuntimeError) as error:
        sentence = f"{action} fails: {error}"
        if "MemoryAllocation" in str(error) or "OutOfMemory" in str(error):
            raise OutOfMemory(sentence) from error
        raise DeviceError(sentence) from error


@cache
def driver_library(*vendors: str) -> ctypes.CDLL:
    """The first driver library of these vendors that loads. Raises DeviceError if none does."""
    names = [DRIVERS[vendor] for vendor in vendors]
    if library := first_library(names):
        return library
    sentence = f"no GPU driver is here: {', '.join(names)} cannot be loaded"
    raise DeviceError(("hip" in vendors and other_hip()) or sentence)


def other_hip() -> str | None:
    """What to do if a HIP is here that CuPy's wheel does not load; None without one."""
    if other := first_library(OTHER_HIP):
        return (
            f"{other._name} is here, of another ROCm than CuPy wants: its wheel loads "
            f"{DRIVERS['hip']}, which ROCm 7 and 10 have; install one of these, or name its "
            "folder in LD_LIBRARY_PATH"
        )
    return None


def first_library(names: Iterable[str]) -> ctypes.CDLL | None:
    """The first of these libraries that loads."""
    for name in names:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


def wide(arguments: Iterable[Any]) -> list[Any]:
    """Arguments of a C function: the ABI takes a 64-bit number for a shorter one or a pointer."""
    return [ctypes.c_uint64(each) if isinstance(each, int) else each for each in arguments]


def compiler_flags(arch: str) -> list[str]:
    """The options of hipRTC or NVRTC for an `arch` such as gfx1201 or sm_90."""
    if arch.startswith("gfx"):
        return [f"--offload-arch={arch}", "-O3", "-std=c++17"]
    # NVRTC before 13.2 refuses lambdas and defaulted members as host functions without the option.
    return [f"--gpu-architecture={arch}", "-default-device", "-std=c++17"]


def compile_kernel(
    bindings: Any, arch: str, compiler: str, stem: str, macros: Macros, wait: bool = True
) -> Path:
    """`kernels/<stem>.cu`, compiled by NVRTC or hipRTC for an `arch` such as sm_90 or gfx1201. Our
    own cache keeps it, because CuPy's cache key ignores our headers. Raises as `compile_once`."""
    source, flags = SOURCES / f"{stem}.cu", compiler_flags(arch)
    refusal = f"{compiler} cannot compile {source.name} for {arch}"

    def write_binary(path: Path, options: list[str], checks: str) -> None:
        path.write_bytes(build(bindings.cuda.nvrtc, source, [*flags, *options], refusal, checks)[1])

    return compile_once(source, [compiler, *flags], macros, write_binary, wait)


def build(
    nvrtc: Any, source: Path, options: Sequence[str], refusal: str, checks: str = ""
) -> tuple[bytes, bytes, str]:
    """The compiler's PTX, binary and log. Raises CompileError: `refusal` and the first error."""
    program = nvrtc.createProgram(source.read_text() + checks, source.name, [], [])
    try:
        folders = f"-I{source.parent}", f"-I{SOURCES}/include", f"-I{SOURCES}"
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
