"""CuPy's interface to NCCL and RCCL: whether the library is installed; the import loads it."""

import ctypes
import os

from cupy import _software  # the software GPU, which the library needs

_installed = os.environ.get("FAKE_NCCL_BINDING", "nccl4py").split(",")  # by rank
available = (
    _installed[_software.RANK % len(_installed)] != "none" and "FAKE_NCCL_LIBRARY" in os.environ
)
if available:
    _library = ctypes.CDLL(os.environ["FAKE_NCCL_LIBRARY"])


def get_version() -> int:
    """The version as NCCL writes it."""
    version = ctypes.c_int()
    _library.ncclGetVersion(ctypes.byref(version))
    return version.value
