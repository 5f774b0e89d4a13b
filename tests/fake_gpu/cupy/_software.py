"""Settings and faults of the software GPU, from the environment, and the driver's library.

FAKE_GPU_VENDOR       cuda or hip; a list has one per rank FAKE_GPU_COUNT        devices, 0 to 8 (2)
FAKE_GPU_ARCH         architecture with HIP (gfx1201) FAKE_GPU_SMS          multiprocessors per
device (2) FAKE_GPU_THREADS      most threads per block; a multiprocessor holds two such blocks (4)
FAKE_GPU_DRIVER       the driver's version, as CUDA and HIP write it; 0: no driver FAKE_GPU_PEER
0: the driver refuses peer access FAKE_GPU_CLOSED       1: a host access to device memory ends the
process FAKE_GPU_FAIL         call[:rankN][:error name][:>bytes], ...: calls that fail
FAKE_GPU_ENGINES      copy engines of a device, with CUDA (2) FAKE_GPU_MULTICAST    1: CUDA devices
have multicast; 2: with wrong sums FAKE_GPU_UNCACHED     0: HIP has no uncached memory
FAKE_GPU_CACHED       flags of hipExtMallocWithFlags whose memory peers reach through a cache, such
as 3 FAKE_GPU_COHERENT     launch (default), fence or hdp: when that cache writes back and forgets:
see memory.cpp FAKE_GPU_HDP          1: the driver gives the HDP register's address FAKE_GPU_LINK
type of the links between HIP devices: 2 for PCIe (default), 4 for xGMI FAKE_GPU_CORRUPT_IPC  from
this byte on, a mapping of a peer's memory is a copy without later writes FAKE_GPU_VANISH_AFTER
number of a launch; this launch and every later call fail"""

import ctypes
import os
from typing import Any

RANK = int(os.environ.get("PMI_RANK", "0"))
VENDORS = os.environ.get("FAKE_GPU_VENDOR", "cuda").split(",")
IS_HIP = VENDORS[RANK % len(VENDORS)] == "hip"
RUNTIME_VERSION = 70051831 if IS_HIP else 13020
# The driver's name is a link to this file, so that both load as one library.
library = ctypes.CDLL(os.environ["FAKE_GPU_LIBRARY"], mode=ctypes.RTLD_GLOBAL)
for _name in ("gpu_error_name", "gpu_driver_error_name", "gpu_error_string"):
    getattr(library, _name).restype = ctypes.c_char_p


def setting(name: str, otherwise: int) -> int:
    return int(os.environ.get(f"FAKE_GPU_{name}") or otherwise)


DEVICES = list(range(setting("COUNT", 2)))
if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
    DEVICES = [DEVICES[int(number)] for number in visible.split(",")]
library.gpu_open(IS_HIP, DEVICES[0] if DEVICES else 0)


def status_of(function: str, *arguments: Any) -> int:
    """Calls the library with addresses and sizes as 64-bit values."""
    wide = [ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments]
    return int(getattr(library, function)(*wide))
