"""`cupy.RawModule` by AMD's bindings of HIP: loads kernels and launches them."""

from functools import cached_property
from typing import Any

import numpy as np
from rocm.bindings import hip

from kernels.devices.hip.runtime import called
from kernels.devices.hip.stream import get_current_stream

NUM_REGS = hip.hipFunction_attribute(4)  # HIP_FUNC_ATTRIBUTE_NUM_REGS


class RawKernel:
    """An entry of a module; only `RawModule.get_function` makes one."""

    def __init__(self, function: Any) -> None:
        self.function = function

    @property
    def num_regs(self) -> int:
        return int(called(hip.hipFuncGetAttribute, NUM_REGS, self.function))

    def __call__(
        self, grid: tuple[int], block: tuple[int], args: tuple[np.ndarray[Any, Any]]
    ) -> None:
        """Launches it with one structure, an array of size 1, by value."""
        shape = (*grid, 1, 1, *block, 1, 1)
        stream = get_current_stream().ptr
        called(hip.hipModuleLaunchKernel, self.function, *shape, 0, stream, [*args], None)


class RawModule:
    """A module from a file. It is loaded by the first function's thread, as CuPy's is."""

    def __init__(self, *, path: str) -> None:
        self.path = path

    @cached_property
    def module(self) -> Any:
        return called(hip.hipModuleLoad, self.path.encode())

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(called(hip.hipModuleGetFunction, self.module, name.encode()))
