"""mscclpp (MSCCL++) by its library with NCCL's interface, called by address as NCCL is.

It ends the process on types that it does not have, and calls NCCL itself if told where NCCL is."""

import ctypes
import importlib
import os
from dataclasses import replace
from pathlib import Path

from collectives.library.gpu import NcclLibrary
from collectives.library.nccl import Nccl, load
from collectives.operation import Case, Operation, Unsupported, World
from collectives.peers.peer import VECTOR_BYTES, Binder, Peer
from kernels.devices.device import DeviceError

FILE, NCCL_PATH = "libmscclpp_nccl.so", "MSCCLPP_NCCL_LIB_PATH"


def start(world: World) -> Binder:
    if NCCL_PATH in os.environ:
        raise DeviceError(f"with {NCCL_PATH} set mscclpp may call NCCL instead: unset {NCCL_PATH}")
    path, version = Path(importlib.import_module("mscclpp").get_lib(), FILE), ctypes.c_int()
    calls = load(str(path))
    calls.ncclGetVersion(ctypes.byref(version))
    opened = Nccl(world.communicator, calls, "mscclpp", version.value)
    library = NcclLibrary(world.communicator, world.device, opened)

    def bind(case: Case) -> Operation:
        if case.segment_bytes % (VECTOR_BYTES * world.communicator.size):
            raise DeviceError(f"mscclpp takes whole vectors of {VECTOR_BYTES} B of each rank")
        bound = library.bind(world, replace(case, variant="plain"))
        if isinstance(bound, Unsupported):
            raise DeviceError(bound.reason)
        return bound

    return bind


PEER = Peer(
    "mscclpp",
    "mscclpp",
    "0.9.0",
    'pip install "mscclpp[cuda12] @ git+https://github.com/microsoft/mscclpp"',
    ("mscclpp",),
    start,
    in_place=True,
    redops=("sum", "min"),
    datatypes=("float32", "float16", "bfloat16", "int32"),
)
