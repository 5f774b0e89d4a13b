"""`cupy.cuda.nvrtc` of the software GPU: clang compiles for the host, and a binary is a shared
object."""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import runtime

EMULATION = str(Path(__file__).parents[2] / "emulation.h")
# A function of clang's kind preserve_all, as in emulation.h, ends with vzeroupper: AVX registers
# would lose a half.
FLAGS = [
    "-x",
    "c++",
    "-O2",
    "-march=native",
    "-mno-avx",
    "-fwrapv",
    "-fPIC",
    "-shared",
    "-nostdlib++",
    "-w",
]
if os.environ.get("FAKE_GPU_READS"):  # before each load and store a kernel calls launch.cpp
    FLAGS.append("-fsanitize-coverage=func,trace-loads,trace-stores")


class NVRTCError(RuntimeError):
    def __init__(self) -> None:
        super().__init__(f"{'HIPRTC' if runtime.is_hip else 'NVRTC'}_ERROR_COMPILATION (6)")


@dataclass
class _Program:
    source: str
    name: str
    binary: bytes = b""
    log: str = ""


_programs: dict[int, _Program] = {}
SUPPORTED = (
    "-I",
    "-D",
    "-std=",
    "-O",
    "--gpu-architecture=sm_",
    "--offload-arch=",
    "-default-device",
)


def getVersion() -> tuple[int, int]:
    return (7, 0) if runtime.is_hip else (13, 2)


def createProgram(src: str, name: str, headers: object, include_names: object) -> int:
    number = max(_programs, default=0) + 1
    _programs[number] = _Program(src, name)
    return number


def compileProgram(prog: int, options: tuple[str, ...]) -> None:
    program = _programs[prog]
    for option in options:
        if not option.startswith(SUPPORTED):
            program.log = f"unrecognized option {option} found"
            raise NVRTCError
    wanted = [option for option in options if option.startswith(("-I", "-D", "-std="))]
    with tempfile.TemporaryDirectory() as folder:
        source, binary = f"{folder}/{program.name}", f"{folder}/binary"
        Path(source).write_text(program.source)
        command = ["clang++-22", *FLAGS, *wanted, "-include", EMULATION, source, "-o", binary]
        done = subprocess.run(command, capture_output=True, text=True)
        program.log = done.stderr
        if done.returncode:
            raise NVRTCError
        program.binary = Path(binary).read_bytes()


def getPTX(prog: int) -> bytes:
    return _programs[prog].binary


def getCUBIN(prog: int) -> bytes:
    if runtime.is_hip:
        raise RuntimeError("HIP does not support getCUBIN")
    return _programs[prog].binary


def getProgramLog(prog: int) -> str:
    return _programs[prog].log


def destroyProgram(prog: int) -> None:
    del _programs[prog]
