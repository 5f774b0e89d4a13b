"""Says what to install where GPUs are and CuPy is not: `python -m kernels.devices.preflight`

`make allreduce` asks before it installs anything, with the benchmark's options, and ranks ask
before `--device auto` chooses the CPU. Needs no other package."""

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

CANNOT = 3  # a benchmark's exit status where this machine cannot run it
CUDA_13 = 13_000
NVIDIA_GPU, AMD_DRIVER = Path("/dev/nvidia0"), Path("/dev/kfd")


def missing_cupy() -> str | None:
    """One sentence if a GPU could be measured and CuPy is not installed; None otherwise."""
    if find_spec("cupy") or not (driver := driver_here()):
        return None
    name, extra = driver
    return (
        f"{name} is here and CuPy is not: type `make allreduce GPU={extra}` (with pip: "
        f"`pip install '.[{extra}]'`), or measure the CPU with `--device cpu` (`make allreduce "
        'ARGS="--device cpu"`)'
    )


def unusable_gpu(reason: str) -> str | None:
    """One sentence if a GPU is here that CuPy, for this reason, cannot use; None otherwise."""
    driver = driver_here()
    return driver and (
        f"{driver[0]} is here and CuPy cannot use it: {reason}; to measure the CPU add --device cpu"
    )


def driver_here() -> tuple[str, str] | None:
    """The driver of a GPU that could be measured, and the extra that installs its CuPy."""
    if cuda := cuda_version():
        name = f"A driver of NVIDIA for CUDA {cuda // 1000}.{cuda // 10 % 100}"
        return name, "cuda13" if cuda >= CUDA_13 else "cuda12"
    if cuda is None and NVIDIA_GPU.exists():
        return f"A GPU of NVIDIA ({NVIDIA_GPU})", "cuda13"
    return (f"A driver of AMD ({AMD_DRIVER})", "rocm") if AMD_DRIVER.exists() else None


def cuda_version() -> int | None:
    """The CUDA version of NVIDIA's driver, such as 13020; 0 if this process may use no GPU, None
    without the driver's library."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    gpus, version = ctypes.c_int(), ctypes.c_int()
    if (
        driver.cuInit(0)
        or driver.cuDeviceGetCount(ctypes.byref(gpus))
        or not gpus.value
        or driver.cuDriverGetVersion(ctypes.byref(version))
    ):
        return 0
    return version.value


def main() -> int:
    """Prints the sentence; returns 3 with a sentence, and 0 without or if options name a device."""
    names_device = any(word.partition("=")[0] == "--device" for word in sys.argv[1:])
    sentence = None if names_device else missing_cupy()
    if sentence:
        print(f"wiretax: {sentence}", file=sys.stderr)
    return CANNOT if sentence else 0


if __name__ == "__main__":
    sys.exit(main())
