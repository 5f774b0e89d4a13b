"""nccl4py over the library with NCCL's C interface. FAKE_NCCL_BINDING lists the installed binding
of each rank: `nccl4py`, `cupy` alone, or `none`."""

import ctypes
import os

from cupy import _software  # the software GPU, which the library needs

_installed = os.environ.get("FAKE_NCCL_BINDING", "nccl4py").split(",")
if _installed[_software.RANK % len(_installed)] != "nccl4py":
    raise ModuleNotFoundError("No module named 'nccl'", name="nccl")


def get_version() -> int:
    """The version as NCCL writes it; loads the library."""
    version = ctypes.c_int()
    ctypes.CDLL(os.environ["FAKE_NCCL_LIBRARY"]).ncclGetVersion(ctypes.byref(version))
    return version.value
