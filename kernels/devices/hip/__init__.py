"""AMD's bindings of HIP and hipRTC (`rocm-bindings-hip`) under the names of CuPy that we use.

They need HIP and hipRTC alone, and run where CuPy lacks a library of ROCm. There is no array module
and so no matmul. The names, parameters and errors are CuPy's: a test compares them."""

from types import SimpleNamespace

from rocm.version import __version__

from kernels.devices.hip import nvrtc, runtime
from kernels.devices.hip.memory import MemoryPointer, UnownedMemory, ndarray
from kernels.devices.hip.module import RawModule
from kernels.devices.hip.stream import Event, Graph, Stream, get_current_stream, get_elapsed_time

__all__ = ["RawModule", "__version__", "cuda", "ndarray"]

cuda = SimpleNamespace(
    Event=Event,
    Graph=Graph,
    MemoryPointer=MemoryPointer,
    Stream=Stream,
    UnownedMemory=UnownedMemory,
    get_current_stream=get_current_stream,
    get_elapsed_time=get_elapsed_time,
    nvrtc=nvrtc,
    runtime=runtime,
)
