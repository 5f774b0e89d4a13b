"""`cupy.cuda.runtime` by AMD's bindings of HIP. Every function raises RuntimeError with HIP's name
of the error, such as "hipErrorOutOfMemory: out of memory"."""

from collections.abc import Callable
from typing import Any

from rocm.bindings import hip

is_hip = True
BUS_ID_BYTES = 32  # more than the longest PCI bus id, "0000:41:00.0"
PROPERTIES = (
    "integrated",
    "l2CacheSize",
    "major",
    "maxThreadsPerBlock",
    "minor",
    "multiProcessorCount",
    "totalGlobalMem",
)


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of the bindings returns behind its status: a value or None."""
    try:
        status, *values = function(*arguments)
    except ValueError as error:  # a status that the bindings have no name for
        raise RuntimeError(f"{function.__name__}: {error}") from error
    if status:
        hip.hipGetLastError()  # as CuPy does: RCCL would take this error for its own
        raise RuntimeError(f"{status.name}: {text(hip.hipGetErrorString(status)[1])}")
    return values[0] if values else None


def text(string: Any) -> str:
    """A C string of the bindings."""
    return bytes(string).split(b"\0")[0].decode()


def driverGetVersion() -> int:
    return int(called(hip.hipDriverGetVersion))


def runtimeGetVersion() -> int:
    return int(called(hip.hipRuntimeGetVersion))


def getDeviceCount() -> int:
    return int(called(hip.hipGetDeviceCount))


def setDevice(device: int) -> None:
    called(hip.hipSetDevice, device)


def getDeviceProperties(device: int) -> dict[str, Any]:
    """The properties that are used here; the names are bytes."""
    properties = called(hip.hipGetDeviceProperties, device)
    names = {name: getattr(properties, name).encode() for name in ("name", "gcnArchName")}
    return names | {name: getattr(properties, name) for name in PROPERTIES}


def deviceGetPCIBusId(device: int) -> str:
    return text(called(hip.hipDeviceGetPCIBusId, BUS_ID_BYTES, device))


def deviceCanAccessPeer(device: int, peerDevice: int) -> int:
    return int(called(hip.hipDeviceCanAccessPeer, device, peerDevice))


def deviceSynchronize() -> None:
    called(hip.hipDeviceSynchronize)


def malloc(size: int) -> int:
    return int(called(hip.hipMalloc, size))


def free(ptr: int) -> None:
    called(hip.hipFree, ptr)


def hostAlloc(size: int, flags: int) -> int:
    return int(called(hip.hipHostMalloc, size, flags))


def memset(ptr: int, value: int, size: int) -> None:
    called(hip.hipMemset, ptr, value, size)


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    called(hip.hipMemcpyAsync, dst, src, size, hip.hipMemcpyKind(kind), stream)


def ipcGetMemHandle(devPtr: int) -> bytes:
    return bytes(called(hip.hipIpcGetMemHandle, devPtr).reserved)


def ipcOpenMemHandle(handle: bytes, flags: int = 1) -> int:
    return int(called(hip.hipIpcOpenMemHandle, handle, flags))


def ipcCloseMemHandle(devPtr: int) -> None:
    called(hip.hipIpcCloseMemHandle, devPtr)


def eventCreateWithFlags(flags: int) -> int:
    return int(called(hip.hipEventCreateWithFlags, flags))
