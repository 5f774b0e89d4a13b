"""Settings and faults of the software GPU, from the environment, and the driver's library.

FAKE_GPU_VENDOR: cuda or hip; a list has one per rank
FAKE_GPU_COUNT: devices, 1 to 8 (2)
FAKE_GPU_NAME: of each device (software GPU)
FAKE_GPU_ARCHS: of each device (gfx1201 or sm_120), "gfx1036*,gfx1201"; *: integrated, with one
  multiprocessor
FAKE_GPU_VISIBLE=1: each rank sees its own device alone, as number 0
FAKE_GPU_SMS: multiprocessors per device (2)
FAKE_GPU_THREADS: most threads per block; a multiprocessor holds two such blocks (4)
FAKE_GPU_DRIVER, FAKE_GPU_RUNTIME: the driver's and the runtime's version, as CUDA or HIP writes it
FAKE_GPU_CUPY=0: CuPy cannot be imported, as where ROCm lacks a library; AMD's bindings then call
  the driver's library
FAKE_GPU_PEER=0: the driver refuses peer access
FAKE_GPU_CLOSED=1: a host access to device memory ends the process
FAKE_GPU_FAIL: call[:rankN][:error name][:>bytes], ...: calls that fail
FAKE_GPU_MULTICAST=1: CUDA devices have multicast
FAKE_GPU_FLUSHES=1: CUDA devices flush peers' stores after a stream's wait, if it asks for that
FAKE_GPU_VMM: types of virtual memory management: p and u (pinned and uncached); - for none
FAKE_GPU_CACHED: flags of hipExtMallocWithFlags (0: ordinary memory), and types as in FAKE_GPU_VMM,
  of memory that peers reach through a cache
FAKE_GPU_COHERENT: launch (default), fence or hdp: when that cache writes back and forgets; pushes:
  at a fence it writes back, and it never forgets; synchronisation: the same, but it forgets when
  the host has waited for a stream; graph: also at launches, but not at those within a graph
FAKE_GPU_READS: a file that gets the name of each kernel that reads a peer's memory, and `copy`
FAKE_GPU_HDP=1: the driver gives the HDP register's address; 2: it writes 32 bits
FAKE_GPU_XGMI=1: the driver names xGMI as the link between all GPUs
FAKE_GPU_CORRUPT_IPC: from this byte on, a mapping of a peer's memory is a copy without later writes
FAKE_GPU_GRAPH_WAITS=1: the host waits at a launch of a library's graph for the end of its last one
FAKE_GPU_VANISH_AFTER: number of a launch; this launch and every later call fail"""

import ctypes
import os
import re
from typing import Any

RANK = int(os.environ.get("PMI_RANK", "0"))
VENDORS = os.environ.get("FAKE_GPU_VENDOR", "cuda").split(",")
IS_HIP = VENDORS[RANK % len(VENDORS)] == "hip"
RUNTIME_VERSION = int(os.environ.get("FAKE_GPU_RUNTIME") or (70051831 if IS_HIP else 13020))
# The driver's name is a link to this file, so that both load as one library.
library = ctypes.CDLL(os.environ["FAKE_GPU_LIBRARY"], mode=ctypes.RTLD_GLOBAL)

# The runtime's errors that tests can meet: the end of the name, and the message.
ERRORS = {
    1: ("InvalidValue", "invalid argument"),
    2: ("MemoryAllocation", "out of memory"),
    17: ("InvalidDevicePointer", "invalid device pointer"),
    35: ("InsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"),
    46: ("DevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"),
    101: ("InvalidDevice", "invalid device ordinal"),
    205: ("MapBufferObjectFailed", "mapping of buffer object failed"),
    217: (
        "PeerAccessUnsupported",
        "peer access is not supported between these two devices",
    ),
    400: ("InvalidResourceHandle", "invalid resource handle"),
    700: ("IllegalAddress", "an illegal memory access was encountered"),
    801: ("NotSupported", "operation not supported"),
    900: (
        "StreamCaptureUnsupported",
        "operation not permitted when stream is capturing",
    ),
    901: (
        "StreamCaptureInvalidated",
        "operation failed due to a previous error during capture",
    ),
    904: ("StreamCaptureUnjoined", "capturing stream has unjoined work"),
    999: ("Unknown", "unknown error"),
}
if IS_HIP:
    ERRORS[2] = ("OutOfMemory", "out of memory")


class StatusError(RuntimeError):
    """An error with the runtime's name and message, which CuPy's errors of the driver have too."""

    def __init__(self, status: int) -> None:
        self.status = status
        name, text = ERRORS.get(status, ERRORS[999])
        super().__init__(f"{'hip' if IS_HIP else 'cuda'}Error{name}: {text}")


def setting(name: str, otherwise: int) -> int:
    return int(os.environ.get(f"FAKE_GPU_{name}") or otherwise)


DEVICES = list(range(setting("COUNT", 2)))
if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
    DEVICES = [DEVICES[int(number)] for number in visible.split(",")]
ARCHS = os.environ.get("FAKE_GPU_ARCHS", "gfx1201" if IS_HIP else "sm_120").split(",")
if setting("VISIBLE", 0):
    DEVICES = [DEVICES[RANK % len(DEVICES)]]
library.gpu_open(IS_HIP, DEVICES[0])


FAULT = re.compile(r"(\w+)(?::rank(\d+))?(?::(?:cuda|hip)Error(\w+))?(?::>(\d+))?")
for _call, _rank, _error, _most in FAULT.findall(os.environ.get("FAKE_GPU_FAIL", "")):
    _status = next((status for status, (name, _) in ERRORS.items() if name == _error), 999)
    if _rank in ("", str(RANK)):
        _least = ctypes.c_size_t(int(_most) + 1 if _most else 0)
        library.gpu_fail(_call.encode(), _status, _least)


def entering(call: str, amount: int = 0) -> int:
    """The status of a call before it runs: a sticky error of the device, or a requested fault."""
    return int(library.gpu_entering(call.encode(), ctypes.c_size_t(amount)))


def status_of(call: str, *arguments: Any, amount: int = 0) -> int:
    """Calls the library's function of this name, with addresses and sizes as 64-bit values."""
    wide = [ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments]
    return entering(call, amount) or int(getattr(library, f"gpu_{call}")(*wide))
