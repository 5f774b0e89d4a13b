"""What the test programs that run as ranks share: a world on the CPU, and buffers that may start anywhere."""


import numpy as np

from collectives.communicator import Communicator
from collectives.operation import Watch, World
from collectives.world import open_world


def connect(timeout_s: float = 30.0, **macros: int) -> tuple[World, Watch]:
    """All ranks of this launch over the CPU device; kernels are built with these macros."""
    communicator = Communicator()
    watch = Watch()
    world = open_world(communicator, "cpu", watch, yields=True, timeout_s=timeout_s)
    settings = {name: str(value) for name, value in macros.items()}
    return World(communicator, world.device, world.peers, settings), watch


def buffer_at(size_bytes: int, misaligned_bytes: int) -> np.ndarray:
    """Bytes that start so far behind a page's beginning."""
    whole = np.zeros(size_bytes + misaligned_bytes + 8192, np.uint8)
    start = -whole.ctypes.data % 4096 + misaligned_bytes
    return whole[start : start + size_bytes]
