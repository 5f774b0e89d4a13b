"""`cupy.cuda.nvrtc` of the software GPU: clang compiles for the host, and a binary is a shared object."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from . import runtime

EMULATION = Path(__file__).parents[2] / "emulation.h"
# A function of clang's kind preserve_all, as in emulation.h, ends with vzeroupper: AVX registers would lose a half.
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
ERRORS = {
    5: "NVRTC_ERROR_INVALID_OPTION",
    6: "NVRTC_ERROR_COMPILATION",
    3: "NVRTC_ERROR_INVALID_INPUT",
}


class NVRTCError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        name = ERRORS[status].replace("NVRTC", "HIPRTC") if runtime.is_hip else ERRORS[status]
        super().__init__(f"{name} ({status})")

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.status,)


@dataclass
class _Program:
    source: str
    name: str
    headers: dict[str, str]
    binary: bytes = b""
    log: str = ""
    options: list[str] = field(default_factory=list)


_programs: dict[int, _Program] = {}


def getVersion() -> tuple[int, int]:
    return (7, 0) if runtime.is_hip else (13, 2)


def createProgram(src: str, name: str, headers: object, include_names: object) -> int:
    assert isinstance(headers, list | tuple)
    assert isinstance(include_names, list | tuple)
    names = {n.decode(): h.decode() for h, n in zip(headers, include_names, strict=True)}
    number = max(_programs, default=0) + 1
    _programs[number] = _Program(src, name, names)
    return number


def compileProgram(prog: int, options: tuple[str, ...]) -> None:
    program = _programs[prog]
    program.options = list(options)
    supported = (
        "-I",
        "-D",
        "-std=",
        "--std=",
        "-O",
        "--gpu-architecture=",
        "-arch=",
        "--offload-arch=",
        "-default-device",
    )
    for option in options:
        if not option.startswith(supported):
            program.log = f"unrecognized option {option} found"
            raise NVRTCError(5)
    wanted = [o for o in options if o.startswith(("-I", "-D", "-std=", "--std="))]
    with tempfile.TemporaryDirectory() as folder:
        for name, text in program.headers.items():
            Path(folder, name).write_text(text)
        source, binary = Path(folder, program.name), Path(folder, "binary")
        source.write_text(program.source)
        clang = shutil.which("clang++-22") or "clang++"
        command = [
            clang,
            *FLAGS,
            *wanted,
            f"-I{folder}",
            "-include",
            str(EMULATION),
            str(source),
            "-o",
            str(binary),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        program.log = done.stderr
        if done.returncode:
            raise NVRTCError(6)
        program.binary = binary.read_bytes()


def getPTX(prog: int) -> bytes:
    return _programs[prog].binary


def getCUBIN(prog: int) -> bytes:
    if runtime.is_hip:
        raise RuntimeError("HIP does not support getCUBIN")
    if not any(
        o.startswith(("--gpu-architecture=sm_", "-arch=sm_")) for o in _programs[prog].options
    ):
        raise RuntimeError("cubin is requested, but the real arch (sm_XX) is not provided")
    return _programs[prog].binary


def getProgramLog(prog: int) -> str:
    return _programs[prog].log


def destroyProgram(prog: int) -> None:
    del _programs[prog]
