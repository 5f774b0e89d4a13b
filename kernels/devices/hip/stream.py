"""`cupy.cuda.stream` by AMD's bindings of HIP: streams, events and graphs."""

import sys
import threading
from collections.abc import Callable
from typing import Any

from rocm.bindings import hip

from kernels.devices.hip import runtime
from kernels.devices.hip.runtime import called

NON_BLOCKING = 1  # hipStreamNonBlocking
WITHOUT_TIMES = 2  # hipEventDisableTiming
RELAXED = hip.hipStreamCaptureMode(2)  # as CuPy captures: other threads may call HIP meanwhile

_thread = threading.local()


def _destroy(function: Callable[..., Any], thing: Any) -> None:
    """At the end of the process HIP may be gone before Python's objects."""
    if thing is not None and not sys.is_finalizing():
        function(thing)


class Event:
    ptr: int | None = None

    def __init__(self, disable_timing: bool = False) -> None:
        self.ptr = runtime.eventCreateWithFlags(WITHOUT_TIMES if disable_timing else 0)

    def __del__(self) -> None:
        _destroy(hip.hipEventDestroy, self.ptr)

    def record(self, stream: "Stream | None" = None) -> None:
        called(hip.hipEventRecord, self.ptr, (stream or get_current_stream()).ptr)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds."""
    return float(called(hip.hipEventElapsedTime, start_event.ptr, end_event.ptr))


class Graph:
    """What a stream has captured; only `Stream.end_capture` makes one."""

    def __init__(self, captured: Any) -> None:
        try:
            self.executable = called(hip.hipGraphInstantiateWithFlags, captured, 0)
        finally:
            hip.hipGraphDestroy(captured)

    def __del__(self) -> None:
        _destroy(hip.hipGraphExecDestroy, getattr(self, "executable", None))

    def launch(self, stream: "Stream | None" = None) -> None:
        called(hip.hipGraphLaunch, self.executable, (stream or get_current_stream()).ptr)


class Stream:
    """Lives as long as the process."""

    def __init__(self, null: bool = False, non_blocking: bool = False, priority: int = 0) -> None:
        flags = NON_BLOCKING if non_blocking else 0
        self.ptr = 0 if null else int(called(hip.hipStreamCreateWithPriority, flags, priority))

    def use(self) -> "Stream":
        _thread.current = self
        return self

    @property
    def done(self) -> bool:
        try:
            called(hip.hipStreamQuery, self.ptr)
        except RuntimeError as error:
            if "hipErrorNotReady" in str(error):
                return False
            raise
        return True

    def synchronize(self) -> None:
        called(hip.hipStreamSynchronize, self.ptr)

    def wait_event(self, event: Event) -> None:
        called(hip.hipStreamWaitEvent, self.ptr, event.ptr, 0)

    def begin_capture(self) -> None:
        called(hip.hipStreamBeginCapture, self.ptr, RELAXED)

    def end_capture(self) -> Graph:
        return Graph(called(hip.hipStreamEndCapture, self.ptr))


_null = Stream(null=True)


def get_current_stream() -> Stream:
    current: Stream = getattr(_thread, "current", _null)
    return current
