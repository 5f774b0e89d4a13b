"""mscclpp (MSCCL++) by its library with NCCL's interface, called by address as NCCL is.

It ends the process on types that it does not have, and calls NCCL itself if told where NCCL is."""

import os

TITLE = "mscclpp"
DISTRIBUTION = "mscclpp==0.9.0"
INSTALL = 'pip install "mscclpp[cuda12] @ git+https://github.com/microsoft/mscclpp"'
DEVICES = "cuda", "hip"
DATATYPES = "float32", "float16", "bfloat16", "int32"
REDOPS = "sum", "min"
IN_PLACE = True
MULTIPLE = 16
ONE_HOST = True

import ctypes
from pathlib import Path

import mscclpp

NCCL_PATH = "MSCCLPP_NCCL_LIB_PATH"
TYPES = {"int32": 2, "float16": 6, "float32": 7, "bfloat16": 9}  # numbers of nccl.h
OPS = {"sum": 0, "min": 3}


class UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_uint8 * 128)]


def start(world):
    if NCCL_PATH in os.environ:
        world.refuse(f"with {NCCL_PATH} set mscclpp may call NCCL instead: unset {NCCL_PATH}")
    calls = ctypes.CDLL(str(Path(mscclpp.get_lib(), "libmscclpp_nccl.so")))
    calls.ncclGetErrorString.restype = ctypes.c_char_p
    unique, communicator = UniqueId(), ctypes.c_void_p()
    if world.rank == 0:
        check(calls, calls.ncclGetUniqueId(ctypes.byref(unique)))
    unique = UniqueId.from_buffer_copy(world.mpi.bcast(bytes(unique)))
    check(
        calls,
        calls.ncclCommInitRank(ctypes.byref(communicator), world.ranks, unique, world.rank),
    )
    return calls, communicator


def check(calls, status):
    if status:
        raise RuntimeError(calls.ncclGetErrorString(status).decode(errors="replace"))


def bind(case):
    calls, communicator = case.started
    if case.size_bytes % (MULTIPLE * case.ranks):
        case.refuse(f"mscclpp takes whole vectors of {MULTIPLE} B of each rank")
    send, receive = (ctypes.c_void_p(array.data.ptr) for array in case.arrays)
    count, stream = ctypes.c_size_t(case.count), ctypes.c_void_p(case.stream.ptr)
    kind, op = TYPES[case.datatype], OPS[case.redop]
    return lambda: check(
        calls, calls.ncclAllReduce(send, receive, count, kind, op, communicator, stream)
    )
