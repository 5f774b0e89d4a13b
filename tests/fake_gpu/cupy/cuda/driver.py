"""`cupy.cuda.driver` of the software GPU: modules and launches."""

import ctypes

from .._software import StatusError, status_of


class CUDADriverError(StatusError):
    """Here with the runtime's name of the error."""


_modules: dict[int, ctypes.CDLL] = {}


def moduleLoad(filename: str) -> int:
    try:
        module = ctypes.CDLL(filename)
    except OSError as error:
        raise CUDADriverError(200) from error
    return _modules.setdefault(module._handle, module)._handle


def moduleGetFunction(module: int, funcname: str) -> int:
    try:
        return ctypes.cast(getattr(_modules[module], funcname), ctypes.c_void_p).value or 0
    except AttributeError as error:
        raise CUDADriverError(500) from error


def launchKernel(
    f: int,
    grid_dim_x: int,
    grid_dim_y: int,
    grid_dim_z: int,
    block_dim_x: int,
    block_dim_y: int,
    block_dim_z: int,
    shared_mem_bytes: int,
    stream: int,
    kernel_params: int,
    extra: int,
) -> None:
    """Here `kernel_params` is the address of the one parameter and `extra` its size."""
    blocks, threads = grid_dim_x * grid_dim_y * grid_dim_z, block_dim_x * block_dim_y * block_dim_z
    if status := status_of("launchKernel", stream, f, blocks, threads, kernel_params, extra):
        raise CUDADriverError(status)
