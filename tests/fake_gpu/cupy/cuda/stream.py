"""`cupy.cuda.stream` of the software GPU."""

import threading
from collections.abc import Callable
from typing import Any

from . import graph, runtime

_thread = threading.local()


class Event:
    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self.ptr = runtime.eventCreateWithFlags(block * 1 | disable_timing * 2 | interprocess * 4)

    @property
    def done(self) -> bool:
        return runtime.eventQuery(self.ptr) == 0

    def record(self, stream: "Stream | None" = None) -> None:
        runtime.eventRecord(self.ptr, (stream or get_current_stream()).ptr)

    def synchronize(self) -> None:
        runtime.eventSynchronize(self.ptr)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds."""
    return runtime.eventElapsedTime(start_event.ptr, end_event.ptr)


class Stream:
    null: "Stream"

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ) -> None:
        self.ptr = 0 if null else runtime.streamCreateWithPriority(int(non_blocking), priority or 0)
        self.device_id = -1 if null else runtime.getDevice()

    def __enter__(self) -> "Stream":
        _stack().append(self)
        _thread.current = self
        return self

    def __exit__(self, *args: object) -> None:
        """The stream of the enclosing `with` is current again, and not the stream that `use` chose, as in CuPy."""
        _stack().pop()
        _thread.current = _stack()[-1]

    def use(self) -> "Stream":
        _thread.current = self
        return self

    @property
    def done(self) -> bool:
        return runtime.streamQuery(self.ptr) == 0

    def synchronize(self) -> None:
        runtime.streamSynchronize(self.ptr)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        runtime.streamWaitEvent(self.ptr, event.ptr)

    def launch_host_func(self, callback: Callable[[Any], None], arg: Any) -> None:
        if self.is_capturing() and runtime.is_hip:
            raise RuntimeError("This feature is not supported on HIP")
        runtime.launchHostFunc(self.ptr, lambda _: callback(arg), 0)

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        runtime.streamBeginCapture(
            self.ptr, runtime.streamCaptureModeRelaxed if mode is None else mode
        )

    def end_capture(self) -> graph.Graph:
        captured = graph.Graph.__new__(graph.Graph)
        captured.ptr = runtime.streamEndCapture(self.ptr)
        return captured

    def is_capturing(self) -> bool:
        return runtime.streamIsCapturing(self.ptr)


Stream.null = Stream(null=True)


def _stack() -> list[Stream]:
    if not hasattr(_thread, "streams"):
        _thread.streams = [Stream.null]
    streams: list[Stream] = _thread.streams
    return streams


def get_current_stream(device_id: int = -1) -> Stream:
    current: Stream = getattr(_thread, "current", Stream.null)
    return current
