"""`cupy.cuda` of the software GPU."""

from . import driver, function, graph, nvrtc, runtime, stream
from .graph import Graph
from .stream import Event, Stream, get_current_stream, get_elapsed_time

__all__ = [
    "Event",
    "Graph",
    "Stream",
    "driver",
    "function",
    "get_current_stream",
    "get_elapsed_time",
    "graph",
    "nvrtc",
    "runtime",
    "stream",
]
