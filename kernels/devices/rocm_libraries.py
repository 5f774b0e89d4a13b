"""ROCm's shared libraries that CuPy or AMD's bindings need: which packages bring them, and how
ROCm's wheels do."""

import ctypes
import importlib
import re
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kernels.devices.device import DeviceError

TRACER, HIP = "libroctracer64.so.4", "libamdhip64.so.7"
# What `import cupy` and hipRTC load, as the files of the wheel cupy-rocm-7-0 14.2.0 name it in
# DT_NEEDED and cupy_backends/cuda/libs/_cnvrtc.pxi; CuPy loads hipBLAS and RCCL once it uses them.
# By AMD's package and Ubuntu's (packages.ubuntu.com/resolute; its roctracer has libroctx64 alone).
PACKAGES = {
    HIP: "AMD's package hip-runtime-amd, Ubuntu's libamdhip64-7",
    "libhiprtc.so.7": "AMD's package hip-runtime-amd, Ubuntu's libhiprtc7",
    "librocfft.so.0": "AMD's package rocfft, Ubuntu's librocfft0",
    TRACER: "AMD's package roctracer; Ubuntu has none: docs/gpu.md says what helps",
}
# As AMD's bindings name them: links, which AMD's runtime package has (`**/*.so` in TheRock's
# artifact_builder.py, 10.0), and Ubuntu's for developers (Debian's libamdhip64-dev 7.2.4).
OF_BINDINGS = {
    "libamdhip64.so": "AMD's package amdrocm-runtime, Ubuntu's libamdhip64-dev",
    "libhiprtc.so": "AMD's package amdrocm-runtime, Ubuntu's libamdhip64-dev",
}
# Where AMD's packages put them, before ROCm 7.14 and since. The loader looks there only if told.
FOLDERS = "/opt/rocm/lib", "/opt/rocm/core*/lib", "/opt/rocm-*/lib"
# As rocm_sdk names them: those above, and hipBLAS and RCCL. hipFFT brings rocFFT, whose name older
# releases do not know, and HIP loads amd_comgr by its name.
IN_WHEELS = "amd_comgr", "amdhip64", "hiprtc", "roctracer64", "hipfft", "hipblas", "rccl"


def complaint(library: str) -> str | None:
    """What the loader says of a library that it cannot load; None once it is loaded."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return None


def load_from_wheels() -> None:
    """Loads ROCm's libraries from its Python wheels, which lie off the loader's path, as torch's
    `_rocm_init` does; then CuPy finds them by name. The system's are used where they are complete:
    HIP loads last, because a process that has loaded the system's would get a second one. Raises
    DeviceError."""
    if find_spec("rocm_sdk") is None or not (complaint(TRACER) or complaint(HIP)):
        return
    try:
        sdk = importlib.import_module("rocm_sdk")
        sdk.initialize_process(preload_shortnames=[*IN_WHEELS])
    except Exception as error:  # whose kind differs between releases
        raise DeviceError(
            f"ROCm's Python wheels are here and do not load: {error}; pip install "
            '"rocm[libraries]" from their index completes them'
        ) from error


def amd_bindings() -> tuple[Any, str]:
    """AMD's bindings of HIP and hipRTC with CuPy's names; or None, and what they lack, "" if they
    are not installed."""
    try:
        from kernels.devices import hip

        hip.cuda.runtime.runtimeGetVersion()  # these load the libraries
        hip.cuda.nvrtc.getVersion()
        if not complaint(HIP):  # they load any ROCm's; what they lack is called in this one
            return hip, ""
    except ImportError:
        return None, ""
    except RuntimeError:
        pass
    lacks = [f"{name} ({remedy(name, name)})" for name in OF_BINDINGS if complaint(name)]
    return None, f"AMD's bindings lack {', '.join(lacks) or HIP}"


def missing(reason: str) -> list[str]:
    """ROCm's libraries that the loader does not find, each with what helps, if it has failed for
    this reason, which begins with a library's name; [] if that is none of ROCm's."""
    if not re.match(r"lib(amd|hip|hsa|roc)[\w-]+\.so", reason):
        return []
    remedies: dict[str, list[str]] = {}
    for library in PACKAGES:
        if text := complaint(library):
            lacks = text.partition(":")[0]  # perhaps a library that this one needs
            remedies.setdefault(remedy(lacks, library), []).append(lacks)
    return [f"{', '.join(names)} ({text})" for text, names in remedies.items()]


def remedy(name: str, library: str) -> str:
    """What helps if the loader does not find a library, which may be one that `library` needs."""
    for folder in [folder for place in FOLDERS for folder in sorted(glob(place))]:
        if Path(folder, name).exists():
            return f"in {folder}: export LD_LIBRARY_PATH={folder}"
    return (PACKAGES | OF_BINDINGS).get(name, f"{library} needs it")
