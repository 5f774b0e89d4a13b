"""CuPy's interface to the software GPU; see tests/fake_gpu."""

import ctypes
from typing import Any

import numpy as np

from . import _hip, _software, cuda
from .cuda import driver

if not _software.setting("CUPY", 1):
    _hip.describe()
    raise ImportError("librocfft.so.0: cannot open shared object file: No such file or directory")

__version__ = "14.2.0"
__all__ = ["RawKernel", "RawModule", "cuda", "matmul", "ndarray"]


class RawKernel:
    """An entry of a module; only `RawModule.get_function` makes one here."""

    def __init__(self, module: int, name: str) -> None:
        self.name, self.pointer = name, driver.moduleGetFunction(module, name)

    def __call__(
        self, grid: tuple[int], block: tuple[int], args: tuple[Any], **kwargs: Any
    ) -> None:
        """The kernels take one structure by value, which CuPy sees as an array of size 1."""
        (value,) = args
        if value.size != 1:
            raise TypeError("a kernel parameter must be an array of size 1")
        stream = cuda.get_current_stream().ptr
        shape = (grid[0], 1, 1, block[0], 1, 1)
        driver.launchKernel(self.pointer, *shape, 0, stream, value.ctypes.data, value.nbytes)

    @property
    def num_regs(self) -> int:
        return 32


class RawModule:
    """A module from a file; `get_function` loads it."""

    def __init__(self, *, path: str) -> None:
        self.file_path = path

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(driver.moduleLoad(self.file_path), name)


class ndarray:
    """An array in device memory, which is host memory here. Only `matmul` accesses it, in stream
    order."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any = float,
        memptr: cuda.MemoryPointer | None = None,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        assert memptr, "nothing is allocated here"
        self.shape, self.dtype, self.data, self.strides = shape, np.dtype(dtype), memptr, strides

    def view(self, dtype: Any) -> "ndarray":
        assert np.dtype(dtype).itemsize == self.dtype.itemsize
        return ndarray(self.shape, dtype, self.data)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = self.data.ptr, False
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "version": 3}

    def __getitem__(self, slices: tuple[slice, ...]) -> "ndarray":
        return self._part(self._seen[slices])

    @property
    def T(self) -> "ndarray":
        return self._part(self._seen.T)

    def _part(self, part: np.ndarray) -> "ndarray":
        """The array of this part of `_seen`, which nothing reads before its turn in a stream."""
        place = self.data + (part.ctypes.data - self.data.ptr)
        return ndarray(part.shape, self.dtype, place, part.strides)

    @property
    def _seen(self) -> np.ndarray:
        size_bytes = self.dtype.itemsize * int(np.prod(self.shape))
        if self.strides:
            ends = zip(self.shape, self.strides, strict=True)
            size_bytes = self.dtype.itemsize + sum((n - 1) * stride for n, stride in ends)
        memory = (ctypes.c_char * size_bytes).from_address(self.data.ptr)
        return np.ndarray(self.shape, self.dtype, memory, strides=self.strides)


def matmul(x1: ndarray, x2: ndarray, out: ndarray) -> ndarray:
    def multiply(_: Any) -> None:
        np.matmul(x1._seen, x2._seen, out=out._seen)

    cuda.runtime.launchHostFunc(cuda.get_current_stream().ptr, multiply, 0)
    return out
