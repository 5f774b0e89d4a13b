"""CuPy's interface to the software GPU; see tests/fake_gpu."""

import ctypes
from typing import Any

import numpy as np

from . import cuda
from .cuda import driver

__version__ = "14.2.0"
__all__ = ["RawKernel", "RawModule", "cuda", "matmul", "ndarray"]


class RawKernel:
    """An entry of a module; only `RawModule.get_function` makes one here."""

    def __init__(self, module: int, name: str) -> None:
        self.name, self.kernel = name, cuda.function.Function(module, name)

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], **kwargs: Any
    ) -> None:
        self.kernel(grid, block, args, **kwargs)

    @property
    def max_threads_per_block(self) -> int:
        return driver.funcGetAttribute(0, self.kernel.ptr)

    @property
    def shared_size_bytes(self) -> int:
        return driver.funcGetAttribute(1, self.kernel.ptr)

    @property
    def local_size_bytes(self) -> int:
        return driver.funcGetAttribute(3, self.kernel.ptr)

    @property
    def num_regs(self) -> int:
        return driver.funcGetAttribute(4, self.kernel.ptr)


class RawModule:
    """A module from a file; `get_function` loads it."""

    def __init__(self, *, path: str) -> None:
        self.file_path = path

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(driver.moduleLoad(self.file_path), name)


class ndarray:
    """An array in device memory, which is host memory here. Only `matmul` accesses it, in stream order."""

    def __init__(
        self, shape: tuple[int, ...], dtype: Any = float, memptr: cuda.MemoryPointer | None = None
    ) -> None:
        assert memptr, "nothing is allocated here"
        self.shape, self.dtype, self.data = shape, np.dtype(dtype), memptr

    @property
    def _seen(self) -> np.ndarray:
        size_bytes = self.dtype.itemsize * int(np.prod(self.shape))
        return np.frombuffer(
            (ctypes.c_char * size_bytes).from_address(self.data.ptr), self.dtype
        ).reshape(self.shape)


def matmul(x1: ndarray, x2: ndarray, out: ndarray) -> ndarray:
    def multiply(_: Any) -> None:
        np.matmul(x1._seen, x2._seen, out=out._seen)

    cuda.runtime.launchHostFunc(cuda.get_current_stream().ptr, multiply, 0)
    return out
