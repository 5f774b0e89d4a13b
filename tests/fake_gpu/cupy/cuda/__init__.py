"""`cupy.cuda` of the software GPU."""

from . import driver, function, graph, memory, nvrtc, runtime, stream
from .graph import Graph
from .memory import MemoryPointer, UnownedMemory
from .stream import Event, Stream, get_current_stream, get_elapsed_time

__all__ = [
    "Event",
    "Graph",
    "MemoryPointer",
    "Stream",
    "UnownedMemory",
    "driver",
    "function",
    "get_current_stream",
    "get_elapsed_time",
    "graph",
    "memory",
    "nvrtc",
    "runtime",
    "stream",
]
