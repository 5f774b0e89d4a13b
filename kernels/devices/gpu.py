"""A GPU as a device, CUDA or HIP, through CuPy.

NVRTC or hipRTC compile the kernels for the exact architecture; our own cache keeps them, because
CuPy's cache key ignores our headers. Peers reach memory in three ways: `mapped`, the driver's own
allocation opened by IPC; `same_device`, the same between ranks that share a GPU; `host_staged`,
shared host memory that is registered with both GPUs, for drivers that refuse peer access.
"""

import contextlib
import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from kernels.devices import shared_memory
from kernels.devices.device import (
    ITERATION_STRUCTURES,
    MOST_BLOCKS,
    Action,
    Bytes,
    Counts,
    DeviceError,
    Gate,
    Memory,
    OutOfMemory,
    Stamps,
    Step,
    Watch,
)
from kernels.devices.gpu_driver import (
    calling,
    driver_library,
    ipc_parts,
    load_cupy,
    ordinals,
    release,
)
from kernels.devices.gpu_module import GpuModule, compile_kernel
from kernels.devices.gpu_stream import GpuStream

MOST_THREADS = 512  # of a block, as the kernels promise the compiler
ALLOCATION_BYTES = 2 << 20  # the driver's unit: with less a peer would also map its neighbours
PORTABLE, MAPPED = 1, 2  # host allocations: for all devices of the process, in their address space
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
HIP_COHERENT = 0x40000000  # otherwise a running kernel may not see the host's writes
LAZY_PEER_ACCESS = 1
# Kinds of HIP device memory by the flag of hipExtMallocWithFlags, the safest for peers first.
HIP_MEMORY = {"uncached": 0x3, "fine_grained": 0x1, "coarse_grained": 0x0}
Words = TypeVar("Words", Gate, Watch)


class GpuMemory:
    """Memory that this process's GPU reaches at `address`."""

    def __init__(self, device: "GpuDevice", address: int, size_bytes: int, type: str,
                 free: Callable[[], None]) -> None:
        self.device, self.address, self.size_bytes, self.type = device, address, size_bytes, type
        self.free, self.handle = free, b""

    def read(self) -> Bytes:
        data = np.empty(self.size_bytes, np.uint8)
        self.device.copy(data.ctypes.data, self.address, self.size_bytes, DEVICE_TO_HOST)
        return data

    def write(self, data: np.ndarray[Any, Any], offset: int = 0) -> None:
        data = np.ascontiguousarray(data)
        self.device.copy(self.address + offset, data.ctypes.data, data.nbytes, HOST_TO_DEVICE)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError, DeviceError):  # a lost device takes its memory along
            self.free()


class GpuDevice:
    """One GPU, by its PCI bus id, used by `sharers` ranks. Raises DeviceError where the driver
    refuses a call."""

    clock_shared = False
    near_peers = False
    # 64 blocks of 512 threads, four packs each: the batch that `reduce` keeps in flight.
    most_chunk_bytes = 2 << 20
    far_bytes = float("inf")

    def __init__(self, pci_bus_id: str, sharers: int = 1) -> None:
        self.cupy, self.pci_bus_id, self.sharers = load_cupy(), pci_bus_id, sharers
        runtime = self.runtime = self.cupy.cuda.runtime
        self.xp = self.cupy
        self.name = "hip" if runtime.is_hip else "cuda"
        self.sharing: tuple[str, ...] = ("mapped", "host_staged")
        with self.calling("opening the device"):
            self.ordinal = ordinals(runtime)[pci_bus_id]
            runtime.setDevice(self.ordinal)
            properties = runtime.getDeviceProperties(self.ordinal)
            self.queue = GpuStream(self.cupy, self.calling, self._host_words(Gate),
                                   self._host_words(Watch))
        self.stream = self.queue.stream
        self.arch = (properties["gcnArchName"].decode().split(":")[0] if runtime.is_hip
                     else f"sm_{properties['major']}{properties['minor']}")
        with self.calling("loading the run-time compiler"):
            version = ".".join(map(str, self.cupy.cuda.nvrtc.getVersion()))
        # hipRTC never changes its own version number, so the runtime's version stands beside it.
        runtime_version = release(runtime.runtimeGetVersion())
        compiler = "hipRTC" if runtime.is_hip else "NVRTC"
        self.compiler = f"{compiler} {version}, runtime {runtime_version}"
        self.facts: dict[str, Any] = {
            "gpu": properties["name"].decode(), "pci_bus_id": pci_bus_id,
            "multiprocessors": properties["multiProcessorCount"],
            "memory_bytes": properties["totalGlobalMem"],
            "driver": release(runtime.driverGetVersion()), "runtime": runtime_version,
            "cupy": self.cupy.__version__}
        # One block a multiprocessor is always resident; ranks that share a GPU share the blocks.
        multiprocessors = properties["multiProcessorCount"]
        self.most_blocks = max(1, min(MOST_BLOCKS, multiprocessors // sharers))
        self.threads = min(MOST_THREADS, properties["maxThreadsPerBlock"])
        self.slab_types = list(HIP_MEMORY) if runtime.is_hip else ["plain"]
        self.queue.load(self.compile("iteration", {}, ITERATION_STRUCTURES))
        self.facts["event_resolution_us"] = self.queue.event_resolution_us()

    def calling(self, call: str) -> Any:
        return calling(f"on GPU {self.pci_bus_id}, {call}")

    def compile(self, stem: str, macros: Mapping[str, str],
                structures: Sequence[type[ctypes.Structure]] = ()) -> GpuModule:
        path = compile_kernel(self.cupy, self.arch, self.compiler, stem, macros, structures)
        with self.calling(f"loading {stem}"):
            return GpuModule(self.cupy.RawModule(path=str(path)), self.threads, self.calling)

    def copy(self, target: int, source: int, size_bytes: int, direction: int) -> None:
        with self.calling(f"copying {size_bytes} B"):
            # In the kernels' stream: a copy from pageable memory may return before its data arrive.
            self.runtime.memcpyAsync(target, source, size_bytes, direction, self.stream.ptr)
            self.stream.synchronize()

    def allocate_as(self, type: str, size_bytes: int) -> GpuMemory:
        """Zeroed memory of one of `slab_types`, straight from the driver."""
        if HIP_MEMORY.get(type):
            label, pointer = f"hipExtMallocWithFlags {type}", ctypes.c_void_p()
            self._driver("hipExtMallocWithFlags", ctypes.byref(pointer),
                         ctypes.c_size_t(size_bytes), HIP_MEMORY[type])
            address = pointer.value or 0
        else:
            label = f"{self.name}Malloc"
            with self.calling(f"{label} of {size_bytes} B"):
                address = self.runtime.malloc(size_bytes)
        with self.calling(f"clearing {size_bytes} B"):
            self.runtime.memset(address, 0, size_bytes)
            self.runtime.deviceSynchronize()  # the kernels' stream does not wait for memset's
        return GpuMemory(self, address, size_bytes, label, lambda: self.runtime.free(address))

    def allocate(self, size_bytes: int, sharing: str, ordinary: bool = False,
                 label: str = "") -> Memory:
        """Zeroed memory that peers can map. On HIP it is uncached or, failing that, fine-grained: a
        running kernel may miss a peer's writes to cached memory. Ordinary memory is cached, also
        for RCCL."""
        if sharing == "host_staged":
            return self._staged(shared_memory.allocate(size_bytes, shared_memory.MEMFD, label))
        refusals = []
        for type in self.slab_types[-1:] if ordinary else self.slab_types[:2]:
            try:
                units = -(-size_bytes // ALLOCATION_BYTES)
                memory = self.allocate_as(type, units * ALLOCATION_BYTES)
                break
            except OutOfMemory:
                raise
            except DeviceError as error:
                refusals.append(str(error))
        else:
            raise DeviceError("; ".join(refusals))
        try:
            memory.handle = self._ipc_handle(memory, size_bytes)
        except DeviceError:
            memory.close()
            raise
        memory.size_bytes = size_bytes
        return memory

    def _ipc_handle(self, memory: GpuMemory, size_bytes: int) -> bytes:
        """The handle of the allocation that holds the memory, and the memory's place within it."""
        base, base_bytes = ctypes.c_void_p(), ctypes.c_size_t()
        name = "hipMemGetAddressRange" if self.name == "hip" else "cuMemGetAddressRange_v2"
        self._driver(name, ctypes.byref(base), ctypes.byref(base_bytes),
                     ctypes.c_void_p(memory.address))
        begin = base.value or 0
        with self.calling("ipcGetMemHandle"):
            handle = self.runtime.ipcGetMemHandle(begin)
        offset = memory.address - begin
        words = (self.pci_bus_id, handle.hex(), offset, offset + size_bytes, base_bytes.value,
                 memory.type)
        return " ".join(map(str, words)).encode()

    def open(self, handle: bytes, size_bytes: int, sharing: str, label: str = "") -> Memory:
        """A peer's memory, mapped. Raises DeviceError with the driver's words if it refuses, or if
        the handle names other memory. Only host memory carries a label: the driver's handle already
        names one allocation."""
        if sharing == "host_staged":
            shared = shared_memory.open_shared(handle, size_bytes, shared_memory.MEMFD, label)
            return self._staged(shared)
        owner, ipc, begin, type = ipc_parts(handle, size_bytes)
        with self.calling(f"asking about GPU {owner}"):
            peer = ordinals(self.runtime).get(owner)
            allowed = (peer in (None, self.ordinal)
                       or self.runtime.deviceCanAccessPeer(self.ordinal, peer))
        if not allowed:
            raise DeviceError(
                f"the driver refuses peer access from GPU {self.pci_bus_id} to GPU {owner}")
        unseen = ", which this process may not see (Slurm shows it with --gpu-bind=none),"
        try:
            with self.calling(f"ipcOpenMemHandle of memory on GPU {owner}"
                              f"{unseen if peer is None else ''}"):
                base = self.runtime.ipcOpenMemHandle(ipc, LAZY_PEER_ACCESS)
        except OutOfMemory as error:  # of address space, which host_staged memory does not need
            raise DeviceError(str(error)) from error
        memory = GpuMemory(self, base + begin, size_bytes, type,
                           lambda: self.runtime.ipcCloseMemHandle(base))
        memory.handle = handle
        return memory

    def forget_name(self, memory: Memory) -> None:
        """A GPU's memory has no name."""

    def private(self, size_bytes: int) -> Memory:
        return self.allocate_as(self.slab_types[-1], max(size_bytes, 1))

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self.cupy.cuda.UnownedMemory(address, size_bytes, None, self.ordinal)
        return self.cupy.ndarray(shape, dtype, self.cupy.cuda.MemoryPointer(memory, 0))

    def watch(self, record: Watch) -> Watch:
        return self.queue.words

    def _host_words(self, kind: type[Words]) -> Words:
        """A structure in pinned host memory, which kernels and the host reach at one address."""
        with self.calling("hostAlloc"):
            coherent = HIP_COHERENT if self.name == "hip" else 0
            flags = PORTABLE | MAPPED | coherent
            address = self.runtime.hostAlloc(ctypes.sizeof(kind), flags)
        ctypes.memset(address, 0, ctypes.sizeof(kind))
        return kind.from_address(int(address))

    def _staged(self, shared: shared_memory.HostMemory) -> GpuMemory:
        """Shared host memory, mapped into this GPU."""
        host, is_hip = shared.address, self.name == "hip"  # CuPy's hostRegister is a stub on HIP

        def free() -> None:
            # Memory that was never registered cannot be unregistered; its pages still go back.
            with contextlib.suppress(RuntimeError, DeviceError):
                if is_hip:
                    self._driver("hipHostUnregister", ctypes.c_void_p(host))
                else:
                    self.runtime.hostUnregister(host)
            shared.close()

        memory = GpuMemory(self, host, shared.size_bytes, "registered host memory", free)
        memory.handle = shared.handle
        try:
            memory.address = self._register_hip(shared) if is_hip else self._register_cuda(shared)
        except DeviceError:
            memory.close()
            raise
        return memory

    def _register_hip(self, shared: shared_memory.HostMemory) -> int:
        host, pointer = ctypes.c_void_p(shared.address), ctypes.c_void_p()
        size_bytes = ctypes.c_size_t(shared.size_bytes)
        self._driver("hipHostRegister", host, size_bytes, PORTABLE | MAPPED)
        self._driver("hipHostGetDevicePointer", ctypes.byref(pointer), host, 0)
        return pointer.value or 0

    def _register_cuda(self, shared: shared_memory.HostMemory) -> int:
        with self.calling(f"cudaHostRegister of {shared.size_bytes} B"):
            self.runtime.hostRegister(shared.address, shared.size_bytes, PORTABLE | MAPPED)
        with self.calling("cudaPointerGetAttributes of registered memory"):
            return int(self.runtime.pointerGetAttributes(shared.address).devicePointer)

    def _driver(self, name: str, *arguments: Any) -> None:
        """Calls a function that CuPy lacks in the driver's own library."""
        status = getattr(driver_library(self.name), name)(*arguments)
        if status == 2:
            raise OutOfMemory(
                f"on GPU {self.pci_bus_id}, {name} fails with error 2 out of memory")
        if status:
            raise DeviceError(f"on GPU {self.pci_bus_id}, {name} fails with error {status}")

    def blocks_for(self, size_bytes: int) -> int:
        """A block for every pack of each of its threads, up to the resident ones."""
        return int(max(1, min(self.most_blocks, -(-size_bytes // (16 * self.threads)))))

    def reason_against_graphs(self) -> str | None:
        """Why operations cannot be launched from a captured graph; None where they can."""
        try:
            self.queue.captured([Step(self.queue.nothing, Gate())]).launch(self.stream)
            self.stream.synchronize()
        except RuntimeError as error:
            return f"CuPy cannot capture a graph on GPU {self.pci_bus_id}: {error}"
        return None

    def run(self, actions: Sequence[Action], check: Step, counts: Counts, watch: Watch,
            graph: bool = False) -> Stamps:
        return self.queue.run(actions, check, counts, watch, graph)

    def sequence(self, steps: Sequence[Step]) -> Step:
        return self.queue.sequence(steps)

    def replayed(self, step: Step) -> Step:
        return step if self.reason_against_graphs() else self.queue.replayed(step)

    def caller(self, step: Step) -> Callable[[], None]:
        return self.queue.caller(step)

    def time_us(self, step: Step, calls: int) -> float:
        """The median time of a step, in microseconds, over `calls` launches behind a gate."""
        return self.queue.time_us(step, calls)
