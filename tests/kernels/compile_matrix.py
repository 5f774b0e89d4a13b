"""The compilers of GPU code that the extras allow, without a GPU.

Older NVRTCs come from PyPI, into the user's cache; clang 19 and 22 stand for hipRTC of ROCm 6.3 to
7, with the names of its implicit header. The newest NVRTC, which the locks name, is that of
test_kernels_compile."""

import ctypes
import importlib
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from kernels.devices import gpu_driver
from kernels.devices.compile_cache import CompileError, cache_folder, checks_of, source_with_headers
from tests.kernels.kernel_resources import PRELUDE, hip_assembly

for name in "copy_engine", "experts.alltoall_routed", "layers.fused":  # have structures of kernels
    importlib.import_module(f"collectives.{name}")
# CuPy 14 takes the NVRTC of any CUDA 12 or 13; the oldest first.
OLDER_NVRTC = (
    "nvidia-cuda-nvrtc-cu12==12.0.76",
    "nvidia-cuda-nvrtc==13.0.48",
    "nvidia-cuda-nvrtc==13.2.78",
)
CLANGS = "clang-19", "clang-22"
HIPRTC_NAMES, HIPRTC_FUNCTIONS = (
    Path(__file__).with_name(name) for name in ("hiprtc_names.h", "hiprtc_functions.inc")
)


def install(wheel: str) -> Path:
    """The folder of the wheel in the user's cache. Raises CompileError if pip cannot install it."""
    folder = cache_folder() / wheel.replace("==", "-")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as unfinished:
            options = "install --quiet --disable-pip-version-check --no-deps --retries 1 --target"
            pip = [sys.executable, "-m", "pip", *options.split(), unfinished, wheel]
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["?"])[-1]
                raise CompileError(f"{wheel} cannot be installed: {reason}")
            if not folder.exists():
                shutil.copytree(unfinished, f"{unfinished}.whole")
                Path(f"{unfinished}.whole").rename(folder)
    return folder


class RuntimeCompiler:
    """A library of NVRTC or hipRTC, by the `prefix` of its calls, with the functions of
    `cupy.cuda.nvrtc` that `gpu_driver.build` calls."""

    def __init__(self, library: ctypes.CDLL, prefix: str) -> None:
        self.library, self.prefix = library, prefix

    def _call(self, name: str, *arguments: object) -> None:
        if status := self.library[f"{self.prefix}{name}"](*arguments):
            raise RuntimeError(f"{self.prefix}{name} returns {status}")

    def _output(self, program: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{kind}Size", program, ctypes.byref(size))
        output = ctypes.create_string_buffer(size.value)
        self._call(f"Get{kind}", program, output)
        return output.raw

    def createProgram(
        self, source: str, name: str, headers: object, names: object
    ) -> ctypes.c_void_p:
        program = ctypes.c_void_p()
        self._call(
            "CreateProgram",
            ctypes.byref(program),
            source.encode(),
            name.encode(),
            0,
            None,
            None,
        )
        return program

    def compileProgram(self, program: ctypes.c_void_p, options: tuple[str, ...]) -> None:
        words = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        self._call("CompileProgram", program, len(options), words)

    def getPTX(self, program: ctypes.c_void_p) -> bytes:
        if self.prefix == "hiprtc":  # CuPy's call has the code object, without its last byte
            return self._output(program, "Code")[:-1]
        return self._output(program, "PTX").rstrip(b"\0")

    def getCUBIN(self, program: ctypes.c_void_p) -> bytes:
        return self._output(program, "CUBIN")

    def getProgramLog(self, program: ctypes.c_void_p) -> str:
        return self._output(program, "ProgramLog").decode().rstrip("\0")

    def destroyProgram(self, program: ctypes.c_void_p) -> None:
        self._call("DestroyProgram", ctypes.byref(program))


@cache
def nvrtc_of(wheel: str) -> RuntimeCompiler:
    """The NVRTC of a wheel. Raises CompileError."""
    path = min(install(wheel).rglob("libnvrtc.so.*"))
    # NVRTC 13.0 looks for its own second library by name, and not in its folder.
    for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins))
    return RuntimeCompiler(ctypes.CDLL(str(path)), "nvrtc")


# In processes of their own: CuPy would take an NVRTC that is loaded here, and NVRTC 12.0 changes a
# thread's locale.
PROCESSES = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


def layouts(source: Path) -> str:
    return checks_of(source_with_headers(source))


def nvrtc_code(wheel: str, source: Path, flags: list[str], refusal: str, checks: str) -> str:
    return gpu_driver.build(nvrtc_of(wheel), source, flags, refusal, checks)[0].decode()


def clang_of(name: str) -> str:
    """The path of this clang. Raises CompileError if it is not installed."""
    if path := shutil.which(name):
        return path
    raise CompileError(f"system tool absent: {name}")


def code(compiler: str, source: Path, architecture: str, *options: str) -> str:
    """PTX or assembly of a kernel file, made with the flags that a device uses. Raises
    CompileError."""
    if compiler in CLANGS:
        headers = ["-include", str(PRELUDE), "-include", str(HIPRTC_NAMES)]
        return hip_assembly(clang_of(compiler), source, architecture, [*headers, *options])
    flags = [*gpu_driver.compiler_flags(architecture), *options]
    refusal = f"{source.name} does not compile for {architecture}"
    return PROCESSES.submit(nvrtc_code, compiler, source, flags, refusal, layouts(source)).result()
