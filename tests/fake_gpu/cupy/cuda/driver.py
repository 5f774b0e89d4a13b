"""`cupy.cuda.driver` of the software GPU: modules and launches."""

import ctypes

from .._software import library, status_of


class CUDADriverError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        name, text = library.gpu_driver_error_name(status), library.gpu_error_string(status)
        super().__init__(f"{name.decode()}: {text.decode()}")


def check_status(status: int) -> None:
    if status:
        raise CUDADriverError(status)


_modules: dict[int, ctypes.CDLL] = {}


def moduleLoad(filename: str) -> int:
    check_status(status_of("gpu_entering", b"moduleLoad", 0))
    try:
        module = ctypes.CDLL(filename)
    except OSError as error:
        raise CUDADriverError(200) from error
    return _modules.setdefault(module._handle, module)._handle


def moduleGetFunction(module: int, funcname: str) -> int:
    check_status(status_of("gpu_entering", b"moduleGetFunction", 0))
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
    check_status(status_of("gpu_launch", stream, f, blocks, threads, kernel_params, extra))
