"""`cupy.cuda.nvrtc` by AMD's bindings of hipRTC. They let other threads run while they compile."""

from collections.abc import Callable, Sequence
from typing import Any

from rocm.bindings import hiprtc


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns behind its status. Raises RuntimeError as CuPy does, such as
    "HIPRTC_ERROR_COMPILATION (6)"."""
    status, *values = function(*arguments)
    if status:
        raise RuntimeError(f"{status.name} ({status.value})")
    return values[0] if len(values) == 1 else values


def getVersion() -> tuple[int, int]:
    major, minor = _called(hiprtc.hiprtcVersion)
    return major, minor


def createProgram(src: str, name: str, headers: Sequence[str], include_names: Sequence[str]) -> Any:
    """Headers are found by -I; the lists are empty."""
    texts = src.encode(), name.encode()
    return _called(hiprtc.hiprtcCreateProgram, *texts, 0, headers, include_names)


def compileProgram(prog: Any, options: Sequence[str]) -> None:
    encoded = [option.encode() for option in options]
    _called(hiprtc.hiprtcCompileProgram, prog, len(encoded), encoded)


def getPTX(prog: Any) -> bytes:
    """The code object without its last byte, a 0, which CuPy drops too."""
    code = bytearray(_called(hiprtc.hiprtcGetCodeSize, prog))
    _called(hiprtc.hiprtcGetCode, prog, code)
    return bytes(code[:-1])


def getProgramLog(prog: Any) -> str:
    log = bytearray(_called(hiprtc.hiprtcGetProgramLogSize, prog))
    if log:
        _called(hiprtc.hiprtcGetProgramLog, prog, log)
    return log.rstrip(b"\0").decode(errors="replace")


def destroyProgram(prog: Any) -> None:
    _called(hiprtc.hiprtcDestroyProgram, prog.createRef())  # C takes the handle's address
