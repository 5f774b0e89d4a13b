"""`cupy.cuda` of the software GPU."""

from . import driver, memory, nvrtc, runtime, stream
from .memory import MemoryPointer, UnownedMemory
from .stream import Event, Graph, Stream, get_current_stream, get_elapsed_time

__all__ = [
    "Event",
    "Graph",
    "MemoryPointer",
    "Stream",
    "UnownedMemory",
    "driver",
    "get_current_stream",
    "get_elapsed_time",
    "memory",
    "nvrtc",
    "runtime",
    "stream",
]
