"""`cupy.cuda.runtime` of the software GPU."""

import ctypes
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from .._software import DEVICES, IS_HIP, RUNTIME_VERSION, library, setting, status_of

is_hip = IS_HIP


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        name, text = library.gpu_error_name(status), library.gpu_error_string(status)
        super().__init__(f"{name.decode()}: {text.decode()}")


def check_status(status: int) -> None:
    if status:
        raise CUDARuntimeError(status)


def _entering(call: str, amount: int = 0) -> None:
    """Raises the error of this call, if there is one: no driver, an old driver, no device, or a
    fault."""
    if setting("DRIVER", RUNTIME_VERSION) < RUNTIME_VERSION // 1000 * 1000:
        check_status(100 if is_hip else 35)
    if not DEVICES:
        check_status(100)
    check_status(status_of("gpu_entering", call.encode(), amount))


def _pointer(function: str, *arguments: Any) -> int:
    """Calls a library function that writes an address to its first parameter, and returns the
    address."""
    address = ctypes.c_void_p()
    check_status(status_of(function, ctypes.byref(address), *arguments))
    return address.value or 0


# Devices


def driverGetVersion() -> int:
    return setting("DRIVER", RUNTIME_VERSION)


def runtimeGetVersion() -> int:
    return RUNTIME_VERSION


def getDeviceCount() -> int:
    _entering("getDeviceCount")
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
    _entering("setDevice")
    library.gpu_set_device(_physical(device))
    _device = device


def getDeviceProperties(device: int) -> dict[str, Any]:
    _entering("getDeviceProperties")
    _physical(device)
    properties = {
        "name": b"software GPU",
        "major": 12,
        "minor": 0,
        "multiProcessorCount": setting("SMS", 2),
        "maxThreadsPerBlock": setting("THREADS", 4),
        "totalGlobalMem": 4 << 30,
    }
    architecture = os.environ.get("FAKE_GPU_ARCH", "gfx1201").encode()
    return {**properties, "gcnArchName": architecture} if is_hip else properties


def deviceGetAttribute(attrib: int, device: int) -> int:
    _entering("deviceGetAttribute")
    _physical(device)
    assert attrib == 40, "cudaDevAttrAsyncEngineCount"
    return setting("ENGINES", 2)


def deviceGetPCIBusId(device: int) -> str:
    _entering("deviceGetPCIBusId")
    return f"0000:{0x41 + 0x20 * _physical(device):02X}:00.0"


def deviceCanAccessPeer(device: int, peerDevice: int) -> int:
    _entering("deviceCanAccessPeer")
    return int(_physical(device) != _physical(peerDevice) and setting("PEER", 1) != 0)


def deviceSynchronize() -> None:
    _entering("deviceSynchronize")
    check_status(status_of("gpu_device_synchronize"))


# Memory


def memGetInfo() -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _entering("memGetInfo")
    check_status(status_of("gpu_memory_info", ctypes.byref(free), ctypes.byref(total)))
    return free.value, total.value


def malloc(size: int) -> int:
    return _pointer("gpu_malloc", size)


def free(ptr: int) -> None:
    check_status(status_of("gpu_free", ptr))


def hostAlloc(size: int, flags: int) -> int:
    return _pointer("gpu_host_alloc", size, flags)


def hostRegister(ptr: int, size: int, flags: int) -> None:
    """CuPy has only a stub on HIP, which fails."""
    check_status(999 if is_hip else status_of("gpu_host_register", ptr, size, flags))


def hostUnregister(ptr: int) -> None:
    check_status(999 if is_hip else status_of("gpu_host_unregister", ptr))


def memset(ptr: int, value: int, size: int) -> None:
    check_status(status_of("gpu_memset", ptr, value, size))


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    check_status(status_of("gpu_memcpy_async", dst, src, size, kind, stream))


def pointerGetAttributes(ptr: int) -> SimpleNamespace:
    kind, device = ctypes.c_int(), ctypes.c_int()
    check_status(status_of("gpu_pointer_attributes", ptr, ctypes.byref(kind), ctypes.byref(device)))
    return SimpleNamespace(device=device.value, devicePointer=ptr if kind.value else 0)


def ipcGetMemHandle(devPtr: int) -> bytes:
    handle = ctypes.create_string_buffer(64)
    check_status(status_of("gpu_export", devPtr, handle))
    return handle.raw


def ipcOpenMemHandle(handle: bytes, flags: int = 1) -> int:
    return _pointer("gpu_import", ctypes.create_string_buffer(handle, 64), flags)


def ipcCloseMemHandle(devPtr: int) -> None:
    check_status(status_of("gpu_close_import", devPtr))


# Streams, events, graphs

_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_host_functions: list[Any] = []  # kept alive, because a graph may call them


def streamCreateWithPriority(flags: int, priority: int) -> int:
    _entering("streamCreateWithPriority")
    return _pointer("gpu_stream_create")


def streamQuery(stream: int) -> int:
    return status_of("gpu_stream_query", stream)


def streamSynchronize(stream: int) -> None:
    check_status(status_of("gpu_stream_synchronize", stream))


def streamWaitEvent(stream: int, event: int, flags: int = 0) -> None:
    check_status(status_of("gpu_stream_wait_event", stream, event))


def streamBeginCapture(stream: int, mode: int = 2) -> None:
    check_status(status_of("gpu_begin_capture", stream))


def streamEndCapture(stream: int) -> int:
    graph = ctypes.c_void_p()
    check_status(status_of("gpu_end_capture", stream, ctypes.byref(graph)))
    return graph.value or 0


def streamIsCapturing(stream: int) -> bool:
    return bool(library.gpu_is_capturing(ctypes.c_void_p(stream)))


def launchHostFunc(stream: int, callback: Callable[[Any], None], arg: int) -> None:
    function = _HOST_FUNCTION(callback)
    _host_functions.append(function)
    check_status(status_of("gpu_host_function", stream, function, arg))


def graphLaunch(graphExec: int, stream: int) -> None:
    check_status(status_of("gpu_graph_launch", graphExec, stream))


def eventCreateWithFlags(flags: int) -> int:
    return _pointer("gpu_event_create")


def eventRecord(event: int, stream: int) -> None:
    check_status(status_of("gpu_event_record", event, stream))


def eventElapsedTime(start: int, end: int) -> float:
    ms = ctypes.c_float()
    check_status(status_of("gpu_event_elapsed", ctypes.byref(ms), start, end))
    return ms.value
