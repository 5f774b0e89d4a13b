"""The structure that link.cu shares with Python; `bench.link` and pipelines of layers launch it."""

import ctypes
from ctypes import c_long, c_void_p

from kernels.devices.device import PEER_STRUCTURES, Arguments


class Transfer(ctypes.Structure):
    """`Transfer` of link.cu: a rank's part in moving buffers between ranks."""

    _fields_ = [("ranks", Arguments), ("to", c_long), ("from_", c_long), ("beside", c_void_p),
                ("kept", c_void_p), ("beside_bytes", c_long)]


STRUCTURES = (*PEER_STRUCTURES, Transfer)
