"""`cupy.ndarray` for memory that others own: a place, a shape and a type. It has no operations:
contenders are to take it as a tensor of torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class UnownedMemory:
    ptr: int
    size: int
    owner: object
    device_id: int = -1


class MemoryPointer:
    def __init__(self, mem: UnownedMemory, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset


class ndarray:
    def __init__(self, shape: tuple[int, ...], dtype: Any, memptr: MemoryPointer) -> None:
        self.shape, self.dtype, self.data = shape, np.dtype(dtype), memptr

    def view(self, dtype: Any) -> "ndarray":
        """The same memory as elements of another type of the same size."""
        return ndarray(self.shape, dtype, self.data)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = self.data.ptr, False
        return {"shape": self.shape, "typestr": self.dtype.str, "data": data, "version": 3}
