"""Describes the software GPU to its functions of HIP and hipRTC, which AMD's real bindings call."""

import ctypes
from typing import Any

from ._software import DEVICES, ERRORS, RUNTIME_VERSION, library
from .cuda import nvrtc, runtime

_LONG, _SIZE, _TEXT = ctypes.c_long, ctypes.c_size_t, ctypes.c_char_p
_CREATE = ctypes.CFUNCTYPE(_LONG, _TEXT, _TEXT)
_COMPILE = ctypes.CFUNCTYPE(ctypes.c_int, _LONG, ctypes.c_int, ctypes.POINTER(_TEXT))
_SIZE_OF = ctypes.CFUNCTYPE(_SIZE, _LONG, ctypes.c_int)
_GET = ctypes.CFUNCTYPE(None, _LONG, ctypes.c_int, ctypes.c_void_p)
_DESTROY = ctypes.CFUNCTYPE(None, _LONG)
COMPILATION = 6  # HIPRTC_ERROR_COMPILATION


class _Compiler(ctypes.Structure):
    _fields_ = [
        ("create", _CREATE),
        ("compile", _COMPILE),
        ("size", _SIZE_OF),
        ("get", _GET),
        ("destroy", _DESTROY),
    ]


def _create(source: bytes, name: bytes) -> int:
    return nvrtc.createProgram(source.decode(), name.decode(), (), ())


def _compile(program: int, count: int, options: Any) -> int:
    try:
        nvrtc.compileProgram(program, tuple(options[i].decode() for i in range(count)))
    except nvrtc.NVRTCError:
        return COMPILATION
    return 0


def _bytes(program: int, is_log: int) -> bytes:
    return nvrtc.getProgramLog(program).encode() if is_log else nvrtc.getPTX(program)


def _get(program: int, is_log: int, into: int) -> None:
    content = _bytes(program, is_log)
    ctypes.memmove(into, content, len(content))


_compiler = _Compiler(
    _CREATE(_create),
    _COMPILE(_compile),
    _SIZE_OF(lambda program, is_log: len(_bytes(program, is_log))),
    _GET(_get),
    _DESTROY(nvrtc.destroyProgram),
)


def describe() -> None:
    library.gpu_of_hip(runtime.driverGetVersion(), RUNTIME_VERSION, ctypes.byref(_compiler))
    for status, (_, message) in ERRORS.items():
        library.gpu_name_error(status, message.encode())
    for device, number in enumerate(DEVICES):
        properties = runtime.getDeviceProperties(device)
        library.gpu_describe(
            number,
            runtime.deviceGetPCIBusId(device).encode(),
            properties["name"],
            properties["gcnArchName"],
            properties["integrated"],
            properties["multiProcessorCount"],
            properties["maxThreadsPerBlock"],
            _SIZE(properties["totalGlobalMem"]),
            properties["l2CacheSize"],
        )
    _tell_sizes()


def _tell_sizes() -> None:
    """A driver knows how many bytes a kernel takes; this one is told by each launch."""
    from rocm.bindings import hip

    launch = hip.hipModuleLaunchKernel

    def launch_of_size(*arguments: Any) -> Any:
        library.gpu_parameters(_SIZE(arguments[-2][0].nbytes))
        return launch(*arguments)

    hip.hipModuleLaunchKernel = launch_of_size
