"""A GPU as a device, CUDA or HIP, through CuPy or what has its names. Peers open its memory by IPC
(`mapped`; on one GPU `same_device`; on HIP followed by the type of memory), or by the driver's
virtual memory management (`mapped vmm`, also with a type). Where the driver refuses or the probe
fails, both GPUs register host memory (`host_staged`)."""

import contextlib
import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kernels.devices import shared_memory
from kernels.devices.device import (
    MOST_BLOCKS,
    VMM,
    Bytes,
    CopyEngine,
    DeviceError,
    Macros,
    Memory,
    OutOfMemory,
    Step,
)
from kernels.devices.gpu_driver import (
    AMD_MODULE,
    NVIDIA_MODULE,
    arch_of,
    bindings_name,
    compile_kernel,
    module_version,
    ordinals,
    release,
)
from kernels.devices.gpu_stream import MAPPED, PORTABLE, GpuStream
from kernels.devices.multicast import GpuMulticast
from kernels.devices.virtual_memory import VirtualMemory

MOST_THREADS = 512  # of a block, as the kernels promise the compiler
ALLOCATION_BYTES = 2 << 20  # the driver's unit: with less a peer would also map its neighbours
HOST_TO_DEVICE, DEVICE_TO_HOST, ANY_DIRECTION = 1, 2, 4  # ANY_DIRECTION: cudaMemcpyDefault
# hipMemcpyDeviceToDeviceNoCU: HIP copies within what it takes for one device with a kernel, and a
# peer's memory looks like that to the process that opened it.
WITHOUT_KERNEL = 1024
# CU_STREAM_WAIT_VALUE_EQ, _FLUSH and CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES: a device that may
# reorder a peer's copy and the flag behind it has the flush that orders both.
EQUAL, FLUSH, CAN_FLUSH = 1, 1 << 30, 98
LAZY_PEER_ACCESS = 1
INFINITY_CACHE_BYTES = 256 << 20
# Kinds of HIP device memory by the flag of hipExtMallocWithFlags.
HIP_MEMORY = {"uncached": 0x3, "fine_grained": 0x1}
SHARING = {
    "cuda": ("mapped", "mapped vmm", "host_staged"),
    "hip": (
        "mapped uncached",
        "mapped fine_grained",
        "mapped vmm uncached",
        "mapped vmm",
        "host_staged",
    ),
}
UNSEEN = ", which this process may not see (Slurm shows it with --gpu-bind=none),"
HDP_MEM_FLUSH_CNTL = 10005  # hipDeviceAttributeHdpMemFlushCntl: the register's address, 64 bits
XGMI = 4  # HSA_AMD_LINK_INFO_TYPE_XGMI
# Replays of longer graphs read stale values on gfx1201, from 200 on (ROCm/hip issue 3887).
GFX12_GRAPH_NODES = 100
# All of 7.2: 7.2.1 and 7.2.4, of which nobody has said that it is right, have one version of HIP.
DEFECTIVE_HIP = "7.2"
GRAPH_DEFECT = (
    "ROCm 7.2.0 to 7.2.3 now and then corrupt replays of graphs (ROCm/clr issue 279: seen on "
    "gfx942, not with 7.1.1 or 7.13), and the runtime here is a 7.2: compare with runs with -G 0."
)
WITHOUT_CUPY = (
    "CuPy cannot be imported, so AMD's {} drives the GPU. No card has run it yet, and there is no "
    "matmul of CuPy's."
)
# Registering host memory by the driver: CuPy's own calls are stubs on HIP.
REGISTRATION = {
    "cuda": ("cuMemHostRegister_v2", "cuMemHostGetDevicePointer_v2", "cuMemHostUnregister"),
    "hip": ("hipHostRegister", "hipHostGetDevicePointer", "hipHostUnregister"),
}


@dataclass(eq=False)
class GpuMemory:
    """Memory that this process's GPU reaches at `address`."""

    device: "GpuDevice"
    address: int
    size_bytes: int
    type: str
    free: Callable[[], object]
    handle: bytes = b""
    flush_register: int = 0
    exporter: Callable[[], int] | None = None

    def read(self, offset: int = 0, size_bytes: int | None = None) -> Bytes:
        data = np.empty(self.size_bytes - offset if size_bytes is None else size_bytes, np.uint8)
        self.device.copy(data.ctypes.data, self.address + offset, data.nbytes, DEVICE_TO_HOST)
        return data

    def write(self, data: np.ndarray[Any, Any], offset: int = 0) -> None:
        data = np.ascontiguousarray(data)
        self.device.copy(self.address + offset, data.ctypes.data, data.nbytes, HOST_TO_DEVICE)

    def export(self) -> int | None:
        return self.exporter() if self.exporter else None

    def close(self) -> None:
        with contextlib.suppress(RuntimeError, DeviceError):  # a lost device takes its memory along
            self.free()


class GpuDevice(GpuStream):
    """One GPU, used by `sharers` ranks. Raises DeviceError where the driver refuses a call."""

    is_cpu = False
    most_chunk_bytes = 8 << 20  # 32 MiB take six rounds, so six trips of a flag

    def __init__(self, pci_bus_id: str, sharers: int = 1) -> None:
        super().__init__(pci_bus_id)
        self.sharers, self.xp, runtime = sharers, self.bindings, self.runtime
        with self.calling("opening the device"):
            properties = runtime.getDeviceProperties(self.ordinal)
            self.compiler_version = self.bindings.cuda.nvrtc.getVersion()
        self.arch = arch_of(properties)
        # hipRTC never changes its own version number, so the runtime's version stands beside it.
        runtime_version = release(runtime.runtimeGetVersion())
        compiler = "hipRTC" if runtime.is_hip else "NVRTC"
        version = ".".join(map(str, self.compiler_version))
        self.compiler = f"{compiler} {version}, runtime {runtime_version}"
        # One block a multiprocessor is always resident; ranks that share a GPU share the blocks.
        multiprocessors = properties["multiProcessorCount"]
        self.most_blocks = max(1, min(MOST_BLOCKS, multiprocessors // sharers))
        self.threads = min(MOST_THREADS, properties["maxThreadsPerBlock"])
        # A driver counts L2 alone; MI300X has 256 MB of Infinity Cache behind it.
        self.last_level_bytes = properties.get("l2CacheSize", 0)
        if runtime.is_hip:
            self.last_level_bytes = max(self.last_level_bytes, INFINITY_CACHE_BYTES)
        self.sharing = SHARING[self.name]
        self.may_flush_hdp = runtime.is_hip
        self.most_graph_nodes = GFX12_GRAPH_NODES if self.arch.startswith("gfx12") else None
        if runtime.is_hip and runtime_version == DEFECTIVE_HIP:
            self.graph_defect = GRAPH_DEFECT
        bindings = str(self.bindings.__version__)
        if (name := bindings_name(self.bindings)) != "CuPy":
            bindings = f"{name} {bindings}"
            self.without_cupy = WITHOUT_CUPY.format(bindings)
        self.loaded, self.later = {}, []
        self.take_kernels()
        self.facts = {
            "gpu": properties["name"].decode(),
            "pci_bus_id": pci_bus_id,
            "integrated": bool(properties["integrated"]),
            "multiprocessors": multiprocessors,
            "memory_bytes": properties["totalGlobalMem"],
            "driver": release(runtime.driverGetVersion()),
            "runtime": runtime_version,
            "module": module_version(AMD_MODULE if runtime.is_hip else NVIDIA_MODULE),
            "cupy": bindings,
        }

    def compile(self, stem: str, macros: Macros, wait: bool = True) -> Path:
        return compile_kernel(self.bindings, self.arch, self.compiler, stem, macros, wait)

    def opened(self, path: Path) -> Any:
        with self.calling(f"loading {path.name.partition('-')[0]}"):
            return self.bindings.RawModule(path=str(path))

    def function(self, loaded: Any, entry: str, threads: int | None) -> Any:
        threads = min(threads or self.threads, self.threads)
        with self.calling(f"looking up {entry}"):
            function = loaded.get_function(entry)
            # This query loads the kernel; a first launch would wait for that behind a closed gate.
            _ = function.num_regs

        def enqueue(blocks: int, argument: Any) -> None:
            # CuPy passes an array of size 1 by value.
            value = np.frombuffer(argument, np.dtype((np.void, ctypes.sizeof(argument))))
            function((blocks,), (threads,), (value,))

        return enqueue

    def copy(self, target: int, source: int, size_bytes: int, direction: int) -> None:
        with self.calling(f"copying {size_bytes} B"):
            # In the kernels' stream: a copy from pageable memory may return before its data arrive.
            self.runtime.memcpyAsync(target, source, size_bytes, direction, self.stream.ptr)
            self.stream.synchronize()

    def allocate_as(self, type: str, size_bytes: int) -> GpuMemory:
        """Zeroed memory of a type of HIP_MEMORY, or ordinary memory, straight from the driver."""
        flags = HIP_MEMORY.get(type)
        label = f"hipExtMallocWithFlags {type}" if flags else f"{self.name}Malloc"
        with self.calling(f"{label} of {size_bytes} B"):
            if flags:
                address = self.driver_value("hipExtMallocWithFlags", size_bytes, flags)
            else:
                address = self.runtime.malloc(size_bytes)
            self._zero(address, size_bytes)
        return GpuMemory(self, address, size_bytes, label, lambda: self.runtime.free(address))

    def _zero(self, address: int, size_bytes: int) -> None:
        self.runtime.memset(address, 0, size_bytes)
        self.runtime.deviceSynchronize()  # the kernels' stream does not wait for memset's

    def _create(self, type: str, size_bytes: int) -> GpuMemory:
        """Zeroed memory by virtual memory management, of a type of its TYPES."""
        memory = VirtualMemory(self)
        label = f"{memory.prefix}MemCreate {type}".rstrip()
        with contextlib.ExitStack() as undo:
            undo.callback(memory.close)
            unit_bytes = memory.unit_bytes(type)
            mapped_bytes = -(-size_bytes // unit_bytes) * unit_bytes
            created = memory.create(mapped_bytes, type)
            address = memory.map(created, mapped_bytes, unit_bytes)
            with self.calling(f"{label} of {mapped_bytes} B"):
                self._zero(address, mapped_bytes)
            free = undo.pop_all().close
        handle = f"{self.pci_bus_id} {mapped_bytes}".encode()
        exporter = partial(memory.export, created)
        return GpuMemory(self, address, size_bytes, label, free, handle, exporter=exporter)

    def allocate(self, size_bytes: int, sharing: str, ordinary: bool = False) -> Memory:
        """On HIP, `sharing` names the type of memory, because a running kernel may miss a peer's
        writes to cached memory. Ordinary memory is cached, also for RCCL."""
        if sharing == "host_staged":
            return self._staged(shared_memory.allocate(size_bytes))
        words = sharing.split()[1:]
        type = "" if ordinary else " ".join(word for word in words if word != VMM)
        if VMM in words:
            return self._create(type, size_bytes)
        allocated_bytes = -(-size_bytes // ALLOCATION_BYTES) * ALLOCATION_BYTES
        memory = self.allocate_as(type, allocated_bytes)
        try:
            with self.calling("ipcGetMemHandle"):
                ipc = self.runtime.ipcGetMemHandle(memory.address).hex()
        except DeviceError:
            memory.close()
            raise
        memory.handle = f"{self.pci_bus_id} {ipc}".encode()
        memory.size_bytes = size_bytes
        return memory

    def open(
        self, handle: bytes, size_bytes: int, sharing: str, descriptor: int | None = None
    ) -> Memory:
        if sharing == "host_staged":
            return self._staged(shared_memory.open_shared(handle, size_bytes))
        owner, rest = handle.decode().split()
        with self.calling(f"asking about GPU {owner}"):
            seen = ordinals(self.runtime)
            if owner not in seen and owner not in self.over_xgmi and self.may_flush_hdp:
                raise DeviceError(
                    f"this process does not see GPU {owner}, whose host data path it may have to"
                    " flush: show it to all ranks (unset HIP_VISIBLE_DEVICES and"
                    " ROCR_VISIBLE_DEVICES; Slurm: --gpu-bind=none)"
                )
            peer = seen.get(owner, self.ordinal)
            if peer != self.ordinal and not self.runtime.deviceCanAccessPeer(self.ordinal, peer):
                raise DeviceError(
                    f"the driver refuses peer access from GPU {self.pci_bus_id} to GPU {owner}"
                )
        flush_register = self._hdp_register(owner, peer)
        unseen = "" if owner in seen else UNSEEN
        try:
            if descriptor is not None:
                address, close = self._take(descriptor, int(rest))
            else:
                with self.calling(f"ipcOpenMemHandle of memory on GPU {owner}{unseen}"):
                    address = self.runtime.ipcOpenMemHandle(bytes.fromhex(rest), LAZY_PEER_ACCESS)
                close = partial(self.runtime.ipcCloseMemHandle, address)
        except OutOfMemory as error:  # of address space, which host_staged memory does not need
            raise DeviceError(str(error)) from error
        return GpuMemory(
            self, address, size_bytes, "a peer's", close, flush_register=flush_register
        )

    def _take(self, descriptor: int, mapped_bytes: int) -> tuple[int, Callable[[], object]]:
        """The address of what a peer has created and exported, and how to unmap it."""
        memory = VirtualMemory(self)
        with contextlib.ExitStack() as undo:
            undo.callback(memory.close)
            address = memory.map(memory.take(descriptor), mapped_bytes, memory.unit_bytes())
            return address, undo.pop_all().close

    def _hdp_register(self, owner: str, peer: int) -> int:
        """The HDP_MEM_FLUSH_CNTL of the GPU `owner`, number `peer` here, as mapped here; 0 if no
        flush is needed, or if the driver maps no register: RCCL flushes nothing then either.
        Raises DeviceError if the driver does not say which, where RCCL does not start."""
        if not self.may_flush_hdp or peer == self.ordinal or owner in self.over_xgmi:
            return 0
        link, hops = ctypes.c_uint32(), ctypes.c_uint32()
        numbers = self.ordinal, peer
        try:
            self.driver(
                "hipExtGetLinkTypeAndHopCount", *numbers, ctypes.byref(link), ctypes.byref(hops)
            )
            if link.value == XGMI:
                return 0
            address = self.driver_value("hipDeviceGetAttribute", HDP_MEM_FLUSH_CNTL, peer)
        except DeviceError as error:
            raise DeviceError(
                f"{error}, so it is unknown how to flush the host data path of GPU {owner}"
                " (--hdp-flush off flushes none)"
            ) from error
        if 0 < address < 1 << 32:  # a driver that knows it as a number writes 32 bits
            raise DeviceError(
                f"the driver gives half an address of the register that flushes the host data path"
                f" of GPU {owner} (--hdp-flush off flushes none)"
            )
        return address

    def private(self, size_bytes: int) -> Memory:
        return self.allocate_as("", max(size_bytes, 1))

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self.bindings.cuda.UnownedMemory(address, size_bytes, None, self.ordinal)
        return self.bindings.ndarray(shape, dtype, self.bindings.cuda.MemoryPointer(memory, 0))

    def _staged(self, shared: shared_memory.HostMemory) -> GpuMemory:
        """Shared host memory, mapped into this GPU."""
        register, device_pointer, unregister = REGISTRATION[self.name]
        host, size_bytes = shared.address, shared.size_bytes
        with contextlib.ExitStack() as undo:
            undo.callback(shared.close)
            self.driver(register, host, size_bytes, PORTABLE | MAPPED)
            undo.callback(self.driver, unregister, host)
            address = self.driver_value(device_pointer, host, 0)
            free = undo.pop_all().close
        return GpuMemory(self, address, size_bytes, "registered host memory", free, shared.handle)

    def copy_engine(self, memops: bool = False) -> CopyEngine:
        if memops and self.runtime.is_hip:  # nor has their wait a flush
            raise DeviceError("HIP's streams await values in signal memory alone, which is beta")
        if self.runtime.is_hip and os.environ.get("HSA_ENABLE_SDMA") == "0":
            raise DeviceError("HSA_ENABLE_SDMA=0 makes AMD's driver copy with kernels")
        kind = WITHOUT_KERNEL if self.runtime.is_hip else ANY_DIRECTION
        waits = EQUAL
        if memops and self.driver_value("cuDeviceGetAttribute", CAN_FLUSH, self.ordinal):
            waits |= FLUSH

        def copy(target: int, source: int, size_bytes: int) -> Step:
            place = target, source, size_bytes
            return self.python(
                "copy", lambda: self.runtime.memcpyAsync(*place, kind, self.current_stream())
            )

        def on_flag(name: str, flags: int, address: int, value: int) -> Step:
            return self.python(
                name, lambda: self.driver(name, self.current_stream(), address, value, flags)
            )

        store = partial(on_flag, "cuStreamWriteValue32_v2", 0)
        return CopyEngine(copy, store, partial(on_flag, "cuStreamWaitValue32_v2", waits))

    def multicast(self, ranks: int, size_bytes: int) -> GpuMulticast:
        """This rank's part of memory behind a multicast address of CUDA. Raises DeviceError."""
        # Elsewhere platform.h leaves the accesses of a multicast address out.
        if int(self.arch.removeprefix("sm_")) < 90 or self.compiler_version < (12, 2):
            raise DeviceError(
                f"multimem needs sm_90 and NVRTC 12.2 or newer; here are {self.arch} and "
                f"{self.compiler}"
            )
        return GpuMulticast(self, ranks, size_bytes)

    def blocks_for(self, size_bytes: int) -> int:
        """A block for every pack of each of its threads, up to the resident ones."""
        return int(max(1, min(self.most_blocks, -(-size_bytes // (16 * self.threads)))))
