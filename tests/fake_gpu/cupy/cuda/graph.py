"""`cupy.cuda.graph` of the software GPU."""

from typing import Any

from . import runtime
from . import stream as streams


class Graph:
    """The operations that a stream has captured."""

    ptr: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "currently this class cannot be initiated by the user and must be created via stream capture"
        )

    def launch(self, stream: "streams.Stream | None" = None) -> None:
        runtime.graphLaunch(self.ptr, (stream or streams.get_current_stream()).ptr)
