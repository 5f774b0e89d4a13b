"""The part of torch that Wiretax and the stand-ins for contenders use."""

from dataclasses import dataclass
from math import prod
from typing import Any

from . import cuda, distributed

__all__ = ["Tensor", "as_tensor", "cuda", "device", "distributed"]


@dataclass(frozen=True)
class dtype:
    name: str
    itemsize: int


float32, float16, bfloat16 = dtype("float32", 4), dtype("float16", 2), dtype("bfloat16", 2)
int16, int32, int64 = dtype("int16", 2), dtype("int32", 4), dtype("int64", 8)


class device:
    def __init__(self, type: str, index: int | None = None) -> None:
        self.type, self.index = type, index


class Tensor:
    """A view of memory that belongs to another project."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: dtype) -> None:
        self.address, self.shape, self.dtype = address, shape, dtype

    def data_ptr(self) -> int:
        return self.address

    def numel(self) -> int:
        return prod(self.shape)

    def element_size(self) -> int:
        return self.dtype.itemsize

    def copy_(self, source: "Tensor") -> "Tensor":
        assert (source.shape, source.dtype) == (self.shape, self.dtype)
        cuda.copy(source, self, self.numel() * self.element_size())
        return self

    def view(self, as_: Any) -> "Tensor":
        if isinstance(as_, dtype):
            assert as_.itemsize == self.dtype.itemsize
            return Tensor(self.address, self.shape, as_)
        assert prod(as_) == self.numel()
        return Tensor(self.address, tuple(as_), self.dtype)


def __getattr__(name: str) -> Any:  # of torch.ops: a contender that does without needs no library
    if name != "ops":
        raise AttributeError(name)
    return distributed._symmetric_memory.ops


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    array = data.__cuda_array_interface__
    kind = {"<i2": int16, "<i4": int32, "<i8": int64}[array["typestr"]]
    assert device.index == cuda.current_device(), "of another device torch makes a copy"
    return Tensor(array["data"][0], array["shape"], kind)
