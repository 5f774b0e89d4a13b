"""What the software GPU is and what ails it, from the environment, and the driver's library.

FAKE_GPU_VENDOR       cuda or hip; a list is taken by rank
FAKE_GPU_COUNT        devices, 0 to 8 (2)
FAKE_GPU_ARCH         of HIP (gfx1201)
FAKE_GPU_SMS          multiprocessors of each (3)
FAKE_GPU_THREADS      of a block, at most; two such blocks are resident on a multiprocessor (4)
FAKE_GPU_MEMORY       bytes of each
FAKE_GPU_DRIVER       0: there is none; else its version, as CUDA and HIP write it
FAKE_GPU_PEER         0: the driver refuses peer access
FAKE_GPU_FAIL         call[:rankN][:error name][:>bytes], ...: calls that fail
FAKE_GPU_UNCACHED     0: HIP has no uncached memory
FAKE_GPU_CORRUPT_IPC  from this byte on a peer's memory is a copy that nobody updates
FAKE_GPU_VANISH_AFTER launches; that one and every call after it fails
"""

import ctypes
import os
from typing import Any

RANK = int(os.environ.get("PMI_RANK", "0"))
VENDORS = os.environ.get("FAKE_GPU_VENDOR", "cuda").split(",")
IS_HIP = VENDORS[RANK % len(VENDORS)] == "hip"
RUNTIME_VERSION = 70051831 if IS_HIP else 13020
UUIDS = [f"GPU-{n}{n}{n}{n}{n}{n}{n}{n}-0000-0000-0000-00000000000{n}" for n in range(8)]

# The very file that stands under the driver's name too, so that both are one library.
library = ctypes.CDLL(os.environ["FAKE_GPU_LIBRARY"], mode=ctypes.RTLD_GLOBAL)
for _name in ("gpu_error_name", "gpu_driver_error_name", "gpu_error_string"):
    getattr(library, _name).restype = ctypes.c_char_p


def setting(name: str, otherwise: int) -> int:
    return int(os.environ.get(f"FAKE_GPU_{name}") or otherwise)


def _visible(devices: list[int], variable: str) -> list[int]:
    """What a variable leaves of the devices: indices or the beginnings of UUIDs, up to the first that is neither."""
    if variable not in os.environ:
        return devices
    left: list[int] = []
    for item in filter(None, os.environ[variable].split(",")):
        matching = [d for n, d in enumerate(devices) if item == str(n) or UUIDS[d].startswith(item)]
        if len(matching) != 1 or matching[0] in left:
            break
        left += matching
    return left


DEVICES = list(range(setting("COUNT", 2)))
for _variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES") if IS_HIP else ("CUDA_VISIBLE_DEVICES",):
    DEVICES = _visible(DEVICES, _variable)
library.gpu_open(IS_HIP, DEVICES[0] if DEVICES else 0)


def status_of(function: str, *arguments: Any) -> int:
    """Calls the library; addresses and sizes go as 64-bit values."""
    wide = [ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments]
    return int(getattr(library, function)(*wide))
