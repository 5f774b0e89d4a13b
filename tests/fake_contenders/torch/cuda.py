"""`torch.cuda` over the software GPU: a current stream, apart from CuPy's."""

from typing import Any

import cupy

_current: list["ExternalStream"] = []


class ExternalStream:
    def __init__(self, stream_ptr: int, device: Any = None) -> None:
        self.cuda_stream, self.device = stream_ptr, device


def set_device(device: int) -> None:
    cupy.cuda.runtime.setDevice(device)


def current_device() -> int:
    return int(cupy.cuda.runtime.getDevice())


def current_stream() -> ExternalStream:
    return _current[-1] if _current else ExternalStream(0)


def is_current_stream_capturing() -> bool:
    return bool(cupy.cuda.runtime.streamIsCapturing(current_stream().cuda_stream))


def copy(source: Any, target: Any, size_bytes: int) -> None:
    addresses = target.data_ptr(), source.data_ptr()
    cupy.cuda.runtime.memcpyAsync(*addresses, size_bytes, 3, current_stream().cuda_stream)


def set_stream(stream: ExternalStream) -> None:
    _current[:] = [stream]
