"""`cupy.cuda.stream` of the software GPU."""

import ctypes
import threading

from .._software import status_of
from . import runtime

_thread = threading.local()


class Event:
    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        assert disable_timing or not runtime.is_hip, "HIP's stamps would write L2 back"
        self.ptr = runtime._pointer("eventCreateWithFlags")

    def record(self, stream: "Stream | None" = None) -> None:
        runtime._call("eventRecord", self.ptr, (stream or get_current_stream()).ptr)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds."""
    ms = ctypes.c_float()
    runtime._call("eventElapsedTime", ctypes.byref(ms), start_event.ptr, end_event.ptr)
    return ms.value


class Graph:
    """The operations that a stream has captured; only `Stream.end_capture` makes one."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr

    def launch(self, stream: "Stream | None" = None) -> None:
        runtime._call("graphLaunch", self.ptr, (stream or get_current_stream()).ptr)


class Stream:
    null: "Stream"

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ) -> None:
        self.ptr = 0 if null else runtime._pointer("streamCreateWithPriority")

    def use(self) -> "Stream":
        _thread.current = self
        return self

    @property
    def done(self) -> bool:
        return status_of("streamQuery", self.ptr) == 0

    def synchronize(self) -> None:
        runtime._call("streamSynchronize", self.ptr)

    def wait_event(self, event: Event) -> None:
        runtime._call("streamWaitEvent", self.ptr, event.ptr)

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        runtime._call("streamBeginCapture", self.ptr)

    def end_capture(self) -> Graph:
        return Graph(runtime._pointer("streamEndCapture", self.ptr))


Stream.null = Stream(null=True)


def get_current_stream(device_id: int = -1) -> Stream:
    current: Stream = getattr(_thread, "current", Stream.null)
    return current
