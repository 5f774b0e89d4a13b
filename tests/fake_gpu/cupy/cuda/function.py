"""`cupy.cuda.function` of the software GPU."""

from typing import Any

import numpy as np

from . import driver
from . import stream as streams


class Function:
    def __init__(self, module: int, funcname: str) -> None:
        self.ptr = driver.moduleGetFunction(module, funcname)

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        shared_mem: int = 0,
        stream: "streams.Stream | None" = None,
        enable_cooperative_groups: bool = False,
    ) -> None:
        """The kernels take one structure by value, which CuPy sees as an array of size 1."""
        (value,) = args
        if not isinstance(value, np.ndarray) or value.size != 1:
            raise TypeError(
                "You are trying to pass a numpy.ndarray of shape other than size one as a kernel parameter."
            )
        pointer = streams.get_current_stream().ptr if stream is None else stream.ptr
        gx, gy, gz, bx, by, bz = (max(1, n) for n in (*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3]))
        driver.launchKernel(
            self.ptr, gx, gy, gz, bx, by, bz, shared_mem, pointer, value.ctypes.data, value.nbytes
        )
