"""Scenarios that check the software GPU: `scenarios.py NAME...` runs functions of this file, under mpirun if they
need two ranks."""

import ctypes
import itertools
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import pytest

from kernels.devices.device import MOST_RANKS, Arguments, Control, Own, Watch

KERNELS = Path(__file__).parents[2] / "kernels"
runtime, nvrtc = cupy.cuda.runtime, cupy.cuda.nvrtc
HALF_BYTES, CHUNK_BYTES = 1 << 16, 1 << 12
MODULE_NUMBERS = itertools.count()

GRID_BARRIER = """
#include "sync.h"
struct Crowd { unsigned* arrived; unsigned* met; long unused; };
extern "C" __global__ void crowd(const Crowd c) {
  block_barrier();
  if (thread_in_block() == 0) add_relaxed_device(c.arrived, 1);
  const u64 start = clock_ns();
  while (__hip_atomic_load(c.arrived, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_SYSTEM) < (unsigned)blocks())
    if (clock_ns() - start > 300000000) return;
  if (thread_in_block() == 0) add_relaxed_device(c.met, 1);
}
"""


class Crowd(ctypes.Structure):
    _fields_ = [("arrived", ctypes.c_void_p), ("met", ctypes.c_void_p), ("unused", ctypes.c_long)]


def compile_source(source: str, name: str, *macros: str) -> Any:
    program = nvrtc.createProgram(source, name, [], [])
    architecture = "--offload-arch=gfx1201" if runtime.is_hip else "--gpu-architecture=sm_120"
    try:
        nvrtc.compileProgram(
            program, (architecture, "-std=c++17", f"-I{KERNELS}", f"-I{KERNELS}/include", *macros)
        )
        # dlopen returns the former library for a path that it has loaded before, so each module has its own path.
        path = (
            Path(os.environ["XDG_CACHE_HOME"])
            / f"{Path(name).stem}-{os.getpid()}-{next(MODULE_NUMBERS)}.bin"
        )
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(nvrtc.getPTX(program) if runtime.is_hip else nvrtc.getCUBIN(program))
        return cupy.RawModule(path=str(path))
    except nvrtc.NVRTCError:
        sys.exit(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


def kernel_file(stem: str, *macros: str) -> Any:
    return compile_source((KERNELS / f"{stem}.cu").read_text(), f"{stem}.cu", *macros)


def by_value(structure: ctypes.Structure) -> np.ndarray:
    return np.frombuffer(bytearray(structure), np.dtype((np.void, ctypes.sizeof(structure))))


def filled(data: np.ndarray) -> int:
    """The address of device memory that holds `data`."""
    address = runtime.malloc(data.nbytes)
    runtime.memcpy(address, data.ctypes.data, data.nbytes, runtime.memcpyHostToDevice)
    runtime.deviceSynchronize()  # the copy may return before the data arrive
    return int(address)


def contents(address: int, size_bytes: int) -> np.ndarray:
    data = np.empty(size_bytes, np.uint8)
    runtime.memcpy(data.ctypes.data, address, size_bytes, runtime.memcpyDeviceToHost)
    return data


def failing(name: str) -> Any:
    return pytest.raises(RuntimeError, match=f"^{name}: ")


def pinned_watch() -> int:
    address = runtime.hostAlloc(
        ctypes.sizeof(Watch), runtime.hostAllocPortable | runtime.hostAllocMapped
    )
    ctypes.memset(address, 0, ctypes.sizeof(Watch))
    return int(address)


def copies() -> None:
    copy = kernel_file("link_probe", "-DELEMENT=Float16").get_function("copy_local")
    stream = cupy.cuda.Stream(non_blocking=True)
    data = np.random.default_rng(1).integers(0, 256, 20011, np.uint8)
    source, target = filled(data), filled(data * 0)
    with stream:
        for blocks, shift, count in ((1, 0, 10000), (3, 2, 9999), (6, 4, 8001), (2, 6, 7)):
            arguments = Arguments(
                send=source + shift, receive=target + shift, count=count, chunk_bytes=CHUNK_BYTES
            )
            copy((blocks,), (4,), (by_value(arguments),))
            stream.synchronize()
            assert np.array_equal(
                contents(target, data.size)[shift:][: 2 * count], data[shift:][: 2 * count]
            )
            assert not contents(target, data.size)[shift + 2 * count :].any()
            runtime.memset(target, 0, data.size)
            runtime.deviceSynchronize()


def one_shot() -> None:
    from mpi4py import MPI

    rank, ranks = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
    runtime.setDevice(rank % runtime.getDeviceCount())
    with cupy.cuda.Stream(non_blocking=True) as stream:
        kernel = kernel_file("allreduce_one_shot", f"-DWORLD={ranks}").get_function("one_shot_pull")
        mine = [
            filled(np.zeros(size, np.uint8)) for size in (2 * HALF_BYTES, ctypes.sizeof(Control))
        ]
        with failing(
            "hipErrorInvalidContext" if runtime.is_hip else "cudaErrorDeviceUninitialized"
        ):
            runtime.ipcOpenMemHandle(runtime.ipcGetMemHandle(mine[0]))
        everyone = MPI.COMM_WORLD.allgather([runtime.ipcGetMemHandle(address) for address in mine])
        mapped = [
            mine if r == rank else [runtime.ipcOpenMemHandle(h) for h in everyone[r]]
            for r in range(ranks)
        ]
        at = ctypes.c_void_p * MOST_RANKS
        count = 3001
        inputs = [
            np.random.default_rng(r).integers(-99, 99, count).astype(np.float32)
            for r in range(ranks)
        ]
        send, receive = filled(inputs[rank]), filled(inputs[rank] * 0)
        arguments = Arguments(
            send, receive, count, CHUNK_BYTES, HALF_BYTES, 4_000_000_000, rank, 0,
            at(*(slab for slab, _ in mapped)), at(*(control for _, control in mapped)), pinned_watch(),
            filled(np.zeros(ctypes.sizeof(Own), np.uint8)),
        )  # fmt: skip
        for _ in range(5):
            kernel((3,), (4,), (by_value(arguments),))
        stream.synchronize()
        assert np.array_equal(contents(receive, 4 * count).view(np.float32), sum(inputs))
        MPI.COMM_WORLD.Barrier()
        for r in range(ranks):
            for address in mapped[r] if r != rank else []:
                runtime.ipcCloseMemHandle(address)
        runtime.free(send)


def streams() -> None:
    stream, order = cupy.cuda.Stream(non_blocking=True), list[int]()
    copy = kernel_file("link_probe").get_function("copy_local")
    data = np.arange(64, dtype=np.uint8)
    source, target = filled(data), filled(data * 0)
    launch = by_value(Arguments(send=source, receive=target, count=16, chunk_bytes=CHUNK_BYTES))
    begun, first, last = time.monotonic(), cupy.cuda.Event(), cupy.cuda.Event()
    assert first.done, "an event that was never recorded is done"
    with stream:
        first.record()
        stream.launch_host_func(time.sleep, 0.2)
        stream.launch_host_func(order.append, 1)
        copy((1,), (4,), (launch,))
        stream.launch_host_func(order.append, 2)
        last.record()
        assert time.monotonic() - begun < 0.15, (
            "putting things into a stream does not wait for them"
        )
        assert not stream.done
        assert not last.done
        assert not contents(target, 64).any(), (
            "the default stream does not wait for a non-blocking one"
        )
        with failing("hipErrorNotReady" if runtime.is_hip else "cudaErrorNotReady"):
            cupy.cuda.get_elapsed_time(first, last)
        last.synchronize()
        assert 190 < cupy.cuda.get_elapsed_time(first, last) < 2000
        assert np.array_equal(contents(target, 64), data)
    assert order == [1, 2]
    stream.synchronize()  # an event is done shortly before its stream
    assert stream.done
    with failing("hipErrorInvalidHandle" if runtime.is_hip else "cudaErrorInvalidResourceHandle"):
        cupy.cuda.get_elapsed_time(first, cupy.cuda.Event())


def graphs() -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    copy = kernel_file("link_probe").get_function("copy_local")
    data = np.arange(64, dtype=np.uint8)
    source, target, event = filled(data), filled(data * 0), cupy.cuda.Event()
    arguments = Arguments(send=source, receive=target, count=16, chunk_bytes=CHUNK_BYTES)
    value = by_value(arguments)
    with stream:
        stream.begin_capture()
        copy((1,), (4,), (value,))
        event.record()
        graph = stream.end_capture()
        value[0] = bytes(value.nbytes)  # the graph keeps a copy
        assert not contents(target, 64).any(), "captured, not run"
        for _ in range(2):
            runtime.memset(target, 0, 64)
            runtime.deviceSynchronize()
            graph.launch()
            stream.synchronize()
            assert np.array_equal(contents(target, 64), data)
        with failing(("hip" if runtime.is_hip else "cuda") + "ErrorCapturedEvent"):
            event.synchronize()
        stream.begin_capture()
        with failing(("hip" if runtime.is_hip else "cuda") + "ErrorStreamCaptureUnsupported"):
            stream.synchronize()
        with failing(("hip" if runtime.is_hip else "cuda") + "ErrorStreamCaptureInvalidated"):
            stream.end_capture()


def crowds() -> None:
    """Two multiprocessors hold two blocks each: four blocks meet, five do not."""
    stream, kernel = (
        cupy.cuda.Stream(non_blocking=True),
        compile_source(GRID_BARRIER, "crowd.cu").get_function("crowd"),
    )
    with stream:
        for blocks in (4, 5):
            words = filled(np.zeros(2, np.uint32))
            kernel((blocks,), (4,), (by_value(Crowd(words, words + 4, 0)),))
            stream.synchronize()
            arrived, met = contents(words, 8).view(np.uint32)
            assert arrived == blocks
            assert (met == blocks) == (blocks == 4), met


def wild_pointers() -> None:
    # A heap may begin at low addresses, which could be numbers; the start of a mapping may be the end of the device's
    # memory.
    stream, data = (
        cupy.cuda.Stream(non_blocking=True),
        np.frombuffer(mmap.mmap(-1, 1 << 20), np.uint8),
    )
    wild = data.ctypes.data + data.nbytes // 2
    copy = kernel_file("link_probe").get_function("copy_local")
    target = filled(data)
    with stream:
        copy((1,), (4,), (by_value(Arguments(send=wild, receive=target, count=16)),))
        with failing("cudaErrorIllegalAddress"):
            stream.synchronize()
        with failing("cudaErrorIllegalAddress"):
            runtime.malloc(64)


def host_reads_device_memory() -> None:
    print(ctypes.c_char.from_address(filled(np.zeros(64, np.uint8))).value)


def registered_memory() -> None:
    data = np.zeros(8192, np.uint8)
    if runtime.is_hip:
        with failing("hipErrorUnknown"):
            runtime.hostRegister(data.ctypes.data, data.nbytes, 3)
        driver, pointer = ctypes.CDLL("libamdhip64.so.7"), ctypes.c_void_p()
        host = ctypes.c_void_p(data.ctypes.data)
        assert driver.hipHostRegister(host, ctypes.c_size_t(data.nbytes), 3) == 0
        assert driver.hipHostGetDevicePointer(ctypes.byref(pointer), host, 0) == 0
        assert pointer.value == data.ctypes.data
        assert driver.hipHostUnregister(host) == 0
        assert driver.hipHostUnregister(host) == 713
        return
    runtime.hostRegister(data.ctypes.data, data.nbytes, 3)
    assert runtime.pointerGetAttributes(data.ctypes.data).devicePointer == data.ctypes.data
    with failing("cudaErrorHostMemoryAlreadyRegistered"):
        runtime.hostRegister(data.ctypes.data + 4096, 64, 3)
    runtime.hostUnregister(data.ctypes.data)
    with failing("cudaErrorHostMemoryNotRegistered"):
        runtime.hostUnregister(data.ctypes.data)


def faults() -> None:
    """Checks the faults that the test sets in FAKE_GPU_FAIL."""
    assert runtime.malloc(1000)
    with failing("cudaErrorMemoryAllocation"):
        runtime.malloc(1001)
    with failing("CUDA_ERROR_ILLEGAL_ADDRESS"):
        cupy.cuda.driver.launchKernel(0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)
    with failing("CUDA_ERROR_FILE_NOT_FOUND"):
        cupy.RawModule(path="/nowhere.cubin").get_function("f")
    program = nvrtc.createProgram("nonsense", "nonsense.cu", [], [])
    with pytest.raises(nvrtc.NVRTCError, match=r"^NVRTC_ERROR_COMPILATION \(6\)$"):
        nvrtc.compileProgram(program, ())
    assert "error: " in nvrtc.getProgramLog(program)


def devices() -> None:
    print([runtime.deviceGetPCIBusId(device) for device in range(runtime.getDeviceCount())])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        globals()[name]()
