"""CuPy's interface to the software GPU; see tests/fake_gpu."""

from typing import Any

from . import cuda
from .cuda import driver

__version__ = "14.2.0"
__all__ = ["RawKernel", "RawModule", "cuda"]


class RawKernel:
    """An entry of a module; only `RawModule.get_function` makes one here."""

    def __init__(self, module: int, name: str) -> None:
        self.name, self.kernel = name, cuda.function.Function(module, name)

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], **kwargs: Any) -> None:
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
    """A module from a file; it is loaded when something of it is asked for."""

    def __init__(self, *, path: str) -> None:
        self.file_path = path

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(driver.moduleLoad(self.file_path), name)
