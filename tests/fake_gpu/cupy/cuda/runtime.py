"""`cupy.cuda.runtime` of the software GPU."""

import ctypes
import os
from collections.abc import Callable
from typing import Any

from .._software import (
    ARCHS,
    DEVICES,
    IS_HIP,
    RUNTIME_VERSION,
    StatusError,
    entering,
    library,
    setting,
    status_of,
)

is_hip = IS_HIP


class CUDARuntimeError(StatusError):
    pass


def _check(status: int) -> None:
    if status:
        raise CUDARuntimeError(status)


def _call(name: str, *arguments: Any) -> None:
    _check(status_of(name, *arguments))


def _pointer(name: str, *arguments: Any, amount: int = 0) -> int:
    """Calls a library function that writes an address to its first parameter, and returns the
    address."""
    address = ctypes.c_void_p()
    _check(status_of(name, ctypes.byref(address), *arguments, amount=amount))
    return address.value or 0


# Devices


def driverGetVersion() -> int:
    return setting("DRIVER", RUNTIME_VERSION)


def runtimeGetVersion() -> int:
    return RUNTIME_VERSION


def getDeviceCount() -> int:
    if driverGetVersion() < RUNTIME_VERSION // 1000 * 1000:
        _check(35)
    return len(DEVICES)


def _physical(device: int) -> int:
    if not 0 <= device < len(DEVICES):
        raise CUDARuntimeError(101)
    return DEVICES[device]


_device = 0


def getDevice() -> int:
    return _device


def setDevice(device: int) -> None:
    global _device
    _check(entering("setDevice"))
    library.gpu_set_device(_physical(device))
    _device = device


def getDeviceProperties(device: int) -> dict[str, Any]:
    arch = ARCHS[_physical(device) % len(ARCHS)]
    kind, is_integrated = arch.removesuffix("*"), arch.endswith("*")
    number = kind.removeprefix("sm_") if kind.startswith("sm_") else "120"
    properties = {
        "name": os.environ.get("FAKE_GPU_NAME", "software GPU").encode(),
        "major": int(number[:-1]),
        "minor": int(number[-1]),
        "integrated": int(is_integrated),
        "multiProcessorCount": 1 if is_integrated else setting("SMS", 2),
        "maxThreadsPerBlock": setting("THREADS", 4),
        "totalGlobalMem": 4 << 30,
        "l2CacheSize": 64 << 10,
    }
    return {**properties, "gcnArchName": kind.encode()} if is_hip else properties


def deviceGetPCIBusId(device: int) -> str:
    return f"0000:{0x41 + 0x20 * _physical(device):02X}:00.0"


def deviceCanAccessPeer(device: int, peerDevice: int) -> int:
    return int(_physical(device) != _physical(peerDevice) and setting("PEER", 1) != 0)


def deviceSynchronize() -> None:
    _call("deviceSynchronize")


# Memory


def malloc(size: int) -> int:
    return _pointer("malloc", size, amount=size)


def free(ptr: int) -> None:
    _call("free", ptr)


def hostAlloc(size: int, flags: int) -> int:
    return _pointer("hostAlloc", size, flags)


def eventCreateWithFlags(flags: int) -> int:
    assert flags == 0x20000000
    return _pointer("eventCreateWithFlags")


def memset(ptr: int, value: int, size: int) -> None:
    _call("memset", ptr, value, size)


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    _call("memcpyAsync", dst, src, size, kind, stream)


def ipcGetMemHandle(devPtr: int) -> bytes:
    handle = ctypes.create_string_buffer(64)
    _call("ipcGetMemHandle", devPtr, handle)
    return handle.raw


def ipcOpenMemHandle(handle: bytes, flags: int = 1) -> int:
    return _pointer("ipcOpenMemHandle", ctypes.create_string_buffer(handle, 64), flags)


def ipcCloseMemHandle(devPtr: int) -> None:
    _call("ipcCloseMemHandle", devPtr)


# Streams; those that CuPy wraps are in stream.py

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_host_functions: list[Any] = []  # kept alive, because a graph may call them


def streamIsCapturing(stream: int) -> bool:
    return bool(library.gpu_streamIsCapturing(ctypes.c_void_p(stream)))


def launchHostFunc(stream: int, callback: Callable[[Any], None], arg: int) -> None:
    function = _HOST_FUNCTION(callback)
    _host_functions.append(function)
    _call("launchHostFunc", stream, function, arg)
