"""A GPU as a device, CUDA's or HIP's, through CuPy.

Kernels are compiled by NVRTC or hipRTC for the very architecture, and kept in our own cache, whose key covers the
headers that CuPy's ignores. Peers reach memory in three ways: `mapped`, the driver's own allocation opened by IPC;
`same_device`, the same between ranks that share one GPU; `host_staged`, host memory that processes share, registered
with the driver and mapped into both GPUs, for cards whose driver refuses the first.
"""

import contextlib
import ctypes
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from kernels.devices import shared_memory
from kernels.devices.device import (
    MOST_BLOCKS,
    Bytes,
    DeviceError,
    Draws,
    Gate,
    Item,
    Kernel,
    Memory,
    OutOfMemory,
    Plan,
    Step,
    Watch,
)
from kernels.devices.gpu_driver import calling, driver_library, ipc_parts, load_cupy, ordinals, release
from kernels.devices.gpu_module import GpuModule, compile_kernel
from kernels.devices.gpu_side import SideStream, enqueue_mixed

MOST_THREADS = 512  # of a block, as the kernels promise the compiler
# Entries of a stream, and what a library adds of its own: beyond about 1,000 the next waits, here for a closed gate.
MOST_QUEUED = 500
ALLOCATION_BYTES = 2 << 20  # the driver's own unit: a peer that maps less maps what else lies in it
HOLD_NS = 2_000_000_000  # filling a batch takes milliseconds; a card with a display ends a kernel after some seconds
PORTABLE, MAPPED = 1, 2  # of a host allocation: for all devices of the process, and in their address space
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
HIP_COHERENT = 0x40000000  # else a kernel that runs may not see what the host writes
LAZY_PEER_ACCESS = 1
# Kinds of HIP device memory by the flag of hipExtMallocWithFlags, the surest for peers first.
HIP_MEMORY = {"uncached": 0x3, "fine_grained": 0x1, "coarse_grained": 0x0}
Words = TypeVar("Words", Gate, Watch)


class GpuMemory:
    """Memory that this process's GPU reaches at `address`."""

    def __init__(self, device: "GpuDevice", address: int, size_bytes: int, type: str, free: Callable[[], None],
                 handle: bytes = b"") -> None:
        self.device, self.address, self.size_bytes, self.type = device, address, size_bytes, type
        self.free, self.handle = free, handle

    def read(self) -> Bytes:
        data = np.empty(self.size_bytes, np.uint8)
        self.device.copy(data.ctypes.data, self.address, self.size_bytes, DEVICE_TO_HOST)
        return data

    def write(self, data: np.ndarray[Any, Any], offset: int = 0) -> None:
        data = np.ascontiguousarray(data)
        self.device.copy(self.address + offset, data.ctypes.data, data.nbytes, HOST_TO_DEVICE)

    def close(self) -> None:
        # A device that is gone takes its memory with it.
        with contextlib.suppress(RuntimeError, DeviceError):
            self.free()


class GpuDevice:
    """One GPU, by its PCI bus id, that `sharers` ranks use. Raises DeviceError where a call is refused."""

    clock_shared = False
    most_chunk_bytes = 2 << 20  # a pack for each of 64 blocks' threads four times, as many as `reduce` has under way
    far_bytes = float("inf")

    def __init__(self, pci_bus_id: str, sharers: int = 1) -> None:
        self.cupy, self.pci_bus_id, self.sharers = load_cupy(), pci_bus_id, sharers
        runtime = self.runtime = self.cupy.cuda.runtime
        self.name = "hip" if runtime.is_hip else "cuda"
        self.ways: tuple[str, ...] = ("mapped", "host_staged")
        with self.calling("opening the device"):
            self.ordinal = ordinals(runtime)[pci_bus_id]
            runtime.setDevice(self.ordinal)
            found = runtime.getDeviceProperties(self.ordinal)
            self.stream = self.cupy.cuda.Stream(non_blocking=True)
            self.stream.use()
            self.side = SideStream(self.cupy)
        self.arch = (found["gcnArchName"].decode().split(":")[0] if runtime.is_hip
                     else f"sm_{found['major']}{found['minor']}")
        with self.calling("loading the run-time compiler"):
            version = ".".join(map(str, self.cupy.cuda.nvrtc.getVersion()))
        # hipRTC's own version stands still, so that of the runtime is told beside it.
        runtime_version = release(runtime.runtimeGetVersion())
        self.compiler = f"{'hipRTC' if runtime.is_hip else 'NVRTC'} {version}, runtime {runtime_version}"
        self.facts: dict[str, Any] = {
            "gpu": found["name"].decode(), "pci_bus_id": pci_bus_id, "multiprocessors": found["multiProcessorCount"],
            "memory_bytes": found["totalGlobalMem"], "driver": release(runtime.driverGetVersion()),
            "runtime": runtime_version, "cupy": self.cupy.__version__}
        # A block a multiprocessor is always resident, whatever its kernel takes; ranks that share a GPU share those.
        self.most_blocks = max(1, min(MOST_BLOCKS, found["multiProcessorCount"] // sharers))
        self.threads = min(MOST_THREADS, found["maxThreadsPerBlock"])
        self.slab_types = list(HIP_MEMORY) if runtime.is_hip else ["plain"]
        self.graphs: dict[tuple[int, int], tuple[Step, Any]] = {}
        self.events: list[Any] = []
        self.launched: dict[int, Step] = {}
        self.gate, self.passes, self.words = self._host_words(Gate), 0, self._host_words(Watch)
        module = self.compile("iteration", {})
        self.begin, self.hold, self.nothing = (module.kernel(n) for n in ("begin_iteration", "hold", "nothing"))
        self.facts["event_resolution_us"] = self._event_resolution_us()

    def calling(self, what: str) -> Any:
        return calling(f"on GPU {self.pci_bus_id}, {what}")

    def compile(self, stem: str, macros: Mapping[str, str]) -> GpuModule:
        """`kernels/<stem>.cu` with -D for each macro; raises CompileError with the compiler's first complaint."""
        path = compile_kernel(self.cupy, self.arch, self.compiler, stem, macros)
        with self.calling(f"loading {stem}"):
            return GpuModule(self.cupy.RawModule(path=str(path)), self.threads, self.calling)

    def copy(self, to: int, origin: int, size_bytes: int, direction: int) -> None:
        with self.calling(f"copying {size_bytes} B"):
            # In the kernels' stream: a copy from pageable memory may return before its data are there.
            self.runtime.memcpyAsync(to, origin, size_bytes, direction, self.stream.ptr)
            self.stream.synchronize()

    def allocate_as(self, type: str, size_bytes: int) -> GpuMemory:
        """Zeroed memory of one of `slab_types`, straight from the driver."""
        if HIP_MEMORY.get(type):
            label, pointer = f"hipExtMallocWithFlags {type}", ctypes.c_void_p()
            self._driver("hipExtMallocWithFlags", ctypes.byref(pointer), ctypes.c_size_t(size_bytes), HIP_MEMORY[type])
            address = pointer.value or 0
        else:
            label = f"{self.name}Malloc"
            with self.calling(f"{label} of {size_bytes} B"):
                address = self.runtime.malloc(size_bytes)
        with self.calling(f"clearing {size_bytes} B"):
            self.runtime.memset(address, 0, size_bytes)
            self.runtime.deviceSynchronize()  # the stream of kernels does not wait for that of memset
        return GpuMemory(self, address, size_bytes, label, lambda: self.runtime.free(address))

    def allocate(self, size_bytes: int, way: str, ordinary: bool = False, label: str = "") -> Memory:
        """Memory that peers can map in this way, zeroed. On HIP uncached where the driver has that, else fine-grained:
        what a peer writes into cached memory may not be seen while a kernel runs. A user's is cached, for RCCL's sake
        as well."""
        if way == "host_staged":
            return self._staged(shared_memory.allocate(size_bytes, shared_memory.MEMFD, label))
        refusals = []
        for type in self.slab_types[-1:] if ordinary else self.slab_types[:2]:
            try:
                memory = self.allocate_as(type, -(-size_bytes // ALLOCATION_BYTES) * ALLOCATION_BYTES)
                break
            except OutOfMemory:
                raise
            except DeviceError as error:
                refusals.append(str(error))
        else:
            raise DeviceError("; ".join(refusals))
        base, base_bytes = ctypes.c_void_p(), ctypes.c_size_t()  # of the allocation that an IPC handle stands for
        name = "hipMemGetAddressRange" if self.name == "hip" else "cuMemGetAddressRange_v2"
        try:
            self._driver(name, ctypes.byref(base), ctypes.byref(base_bytes), ctypes.c_void_p(memory.address))
            begins_at = base.value or 0
            with self.calling("ipcGetMemHandle"):
                handle = self.runtime.ipcGetMemHandle(begins_at)
        except DeviceError:
            memory.close()
            raise
        offset = memory.address - begins_at
        words = (self.pci_bus_id, handle.hex(), offset, offset + size_bytes, base_bytes.value, memory.type)
        memory.size_bytes, memory.handle = size_bytes, " ".join(map(str, words)).encode()
        return memory

    def open(self, handle: bytes, size_bytes: int, way: str, label: str = "") -> Memory:
        """A peer's memory, mapped here. Raises DeviceError where the driver refuses, with its word, or the handle is
        none of such memory. A label is in the host's memory alone: the driver's handle is of one allocation."""
        if way == "host_staged":
            return self._staged(shared_memory.open_shared(handle, size_bytes, shared_memory.MEMFD, label))
        owner, ipc, begin, type = ipc_parts(handle, size_bytes)
        with self.calling(f"asking about GPU {owner}"):
            peer = ordinals(self.runtime).get(owner)
            allowed = peer in (None, self.ordinal) or self.runtime.deviceCanAccessPeer(self.ordinal, peer)
        if not allowed:
            raise DeviceError(f"the driver refuses peer access from GPU {self.pci_bus_id} to GPU {owner}")
        unseen = ", which this process may not see (Slurm shows it with --gpu-bind=none)," if peer is None else ""
        try:
            with self.calling(f"ipcOpenMemHandle of memory on GPU {owner}{unseen}"):
                base = self.runtime.ipcOpenMemHandle(ipc, LAZY_PEER_ACCESS)
        except OutOfMemory as error:  # room in the address space, of which the other way needs none
            raise DeviceError(str(error)) from error
        return GpuMemory(self, base + begin, size_bytes, type, lambda: self.runtime.ipcCloseMemHandle(base), handle)

    def forget_name(self, memory: Memory) -> None:
        """Nothing of a GPU's memory has a name."""

    def private(self, size_bytes: int) -> Memory:
        return self.allocate_as(self.slab_types[-1], max(size_bytes, 1))

    def watch(self, record: Watch) -> Watch:
        return self.words

    def _host_words(self, kind: type[Words]) -> Words:
        """A structure in pinned host memory, which kernels and the host read and write at the same address."""
        with self.calling("hostAlloc"):
            coherent = HIP_COHERENT if self.name == "hip" else 0
            address = self.runtime.hostAlloc(ctypes.sizeof(kind), PORTABLE | MAPPED | coherent)
        ctypes.memset(address, 0, ctypes.sizeof(kind))
        return kind.from_address(int(address))

    def _staged(self, shared: shared_memory.SharedMemory) -> GpuMemory:
        """Shared host memory, mapped into this GPU."""
        host, is_hip = shared.address, self.name == "hip"  # CuPy's own hostRegister is a stub there

        def free() -> None:
            # Where it could not be registered, that it is not; the host's pages go back all the same.
            with contextlib.suppress(RuntimeError, DeviceError):
                if is_hip:
                    self._driver("hipHostUnregister", ctypes.c_void_p(host))
                else:
                    self.runtime.hostUnregister(host)
            shared.close()

        memory = GpuMemory(self, host, shared.size_bytes, "registered host memory", free, shared.handle)
        try:
            if is_hip:
                size, pointer = ctypes.c_size_t(shared.size_bytes), ctypes.c_void_p()
                self._driver("hipHostRegister", ctypes.c_void_p(host), size, PORTABLE | MAPPED)
                self._driver("hipHostGetDevicePointer", ctypes.byref(pointer), ctypes.c_void_p(host), 0)
                memory.address = pointer.value or 0
            else:
                with self.calling(f"cudaHostRegister of {shared.size_bytes} B"):
                    self.runtime.hostRegister(host, shared.size_bytes, PORTABLE | MAPPED)
                with self.calling("cudaPointerGetAttributes of registered memory"):
                    memory.address = self.runtime.pointerGetAttributes(host).devicePointer
        except DeviceError:
            memory.close()
            raise
        return memory

    def _driver(self, name: str, *arguments: Any) -> None:
        """Calls what CuPy has no word for in the driver's own library."""
        status = getattr(driver_library(self.name), name)(*arguments)
        if status == 2:
            raise OutOfMemory(f"on GPU {self.pci_bus_id}, {name} fails with error 2 out of memory")
        if status:
            raise DeviceError(f"on GPU {self.pci_bus_id}, {name} fails with error {status}")

    # Running

    def blocks_for(self, size_bytes: int) -> int:
        """A block for every pack of each of its threads, as far as blocks are resident together."""
        return int(max(1, min(self.most_blocks, -(-size_bytes // (16 * self.threads)))))

    def _event_resolution_us(self) -> float | None:
        """The least that two events were apart, in microseconds; events of some cards are a microsecond coarse."""
        events = [self.cupy.cuda.Event() for _ in range(100)]
        with self.calling("recording events"):
            for event in events:
                event.record(self.stream)
            self.stream.synchronize()
            apart_ms = [self.cupy.cuda.get_elapsed_time(*pair) for pair in pairwise(events)]
        return min((round(1e3 * ms, 3) for ms in apart_ms if ms > 0), default=None)

    def enqueue(self, step: Step) -> None:
        step.kernel.function(step.blocks, step.argument)

    def caller(self, step: Step) -> Callable[[], None]:
        """A Python function that performs a step once and waits for its end."""

        def call() -> None:
            with self.calling(step.kernel.name):
                self.enqueue(step)
                self.stream.synchronize()

        return call

    def reason_against_graphs(self) -> str | None:
        """Why operations cannot be launched from a captured graph here; None where they can."""
        try:
            self._captured([Step(self.nothing, Gate())]).launch(self.stream)
            self.stream.synchronize()
        except RuntimeError as error:
            return f"CuPy cannot capture a graph on GPU {self.pci_bus_id}: {error}"
        return None

    def _captured(self, steps: Sequence[Step]) -> Any:
        self.stream.begin_capture()
        for step in steps:
            self.enqueue(step)
        return self.stream.end_capture()

    def _launch(self, plan: Plan, steps: Sequence[Step]) -> None:
        """Puts a chain of steps into the stream: launch by launch, or as one captured graph."""
        if not plan.graph:
            for step in steps:
                self.enqueue(step)
            return
        key = (id(steps[0]), len(steps))
        if key not in self.graphs:
            self.graphs[key] = (steps[0], self._captured(steps))
        self.graphs[key][1].launch(self.stream)

    def run(self, plan: Plan, watch: Watch) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Runs a plan; stamps are by events in this GPU's stream, so only differences within an iteration count.

        Iterations go into the stream in batches behind a closed gate, but for an operation's first: a library sets up
        its connections then, and waits for the device. Fewer rows than asked come back when the watch said stop. Raises
        DeviceError where the driver refuses a call or the device is lost.
        """
        total = plan.warmup + plan.iterations + plan.checks
        timed = range(plan.warmup, plan.warmup + plan.iterations)
        most = 1 if plan.beside else max(1, MOST_QUEUED // (11 + plan.operation.entries + 3 * plan.calls))
        rows, begun = list[list[int]](), 0
        with self.calling("the timed loop"):
            while begun < total and not watch.stop:
                is_first = id(plan.operation) not in self.launched
                self.launched[id(plan.operation)] = plan.operation
                batch = range(begun, min(total, begun + (1 if is_first else most)))
                gate = None if is_first else self._close_gate(watch)
                ends = self.side.fill(plan) if plan.beside and gate else []
                marks = [self._iterate(plan, i, i - begun, watch) for i in batch]
                self._open_gate(gate)
                found = [self._stamps_ns(m) + ([self.side.done(plan, m, ends)] if plan.beside else []) for m in marks]
                rows += [row for i, row in enumerate(found, begun) if i in timed and not watch.stop]
                begun = batch.stop
        return np.array(rows, np.int64).reshape(-1, 5 if plan.beside else 4)

    def mix(self, items: Sequence[Item], launches: int, draws: Draws, watch: Watch) -> None:
        begin = Step(self.begin, Gate(watch=ctypes.addressof(watch)))
        with self.calling("the mixed loop"):
            enqueue_mixed(self.enqueue, begin, items, launches, draws, watch)
            self.stream.synchronize()

    def replayed(self, step: Step) -> Step:
        if self.reason_against_graphs():
            return step
        graph = self._captured([step])
        return Step(Kernel(step.kernel.name, lambda blocks, argument: graph.launch(self.stream)), step, step.blocks)

    def _close_gate(self, watch: Watch) -> Gate:
        """What is enqueued from now on waits for `_open_gate`."""
        self.passes += 1
        gate = Gate(ctypes.addressof(self.gate), self.passes, HOLD_NS, ctypes.addressof(watch))
        self.enqueue(Step(self.hold, gate))
        return gate

    def _open_gate(self, gate: Gate | None) -> None:
        """Lets the stream run, to its end. Raises DeviceError where the gate had given up: then the host was timed."""
        ctypes.c_uint64.from_address(ctypes.addressof(self.gate)).value = self.passes
        self.stream.synchronize()
        if gate and self.gate.wanted == gate.wanted:  # written by `hold`
            raise DeviceError(f"on GPU {self.pci_bus_id}, the stream was full before the host had filled it")

    def time_us(self, step: Step, calls: int) -> float:
        """The median time of a step in the stream, in microseconds, by events between so many calls behind a gate."""
        events = [self.cupy.cuda.Event() for _ in range(calls + 1)]
        with self.calling(step.kernel.name):
            gate = self._close_gate(self.words)
            events[0].record(self.stream)
            for event in events[1:]:
                self.enqueue(step)
                event.record(self.stream)
            self._open_gate(gate)
            return float(1e3 * np.median([self.cupy.cuda.get_elapsed_time(*pair) for pair in pairwise(events)]))

    def _iterate(self, plan: Plan, number: int, place: int, watch: Watch) -> list[Any]:
        """Puts one iteration into the stream; returns its events: arrived, left, began to consume, done."""
        while len(self.events) < 4 * (place + 1):
            self.events.append(self.cupy.cuda.Event())
        arrived, left, begun, done = marks = self.events[4 * place : 4 * place + 4]
        self.enqueue(Step(self.begin, Gate(watch=ctypes.addressof(watch))))
        if plan.calls:
            begun.record(self.stream)
            self._launch(plan, [plan.consume] * plan.calls)
            done.record(self.stream)
        self.enqueue(plan.prepare)
        self.enqueue(plan.meet)
        if plan.late:
            self.enqueue(plan.late)
        arrived.record(self.stream)
        self._launch(plan, [plan.operation, plan.consume] * plan.calls or [plan.operation])
        left.record(self.stream)
        if not plan.calls:
            begun.record(self.stream)
            self.enqueue(plan.consume)
            done.record(self.stream)
        if number < plan.checks or number >= plan.warmup + plan.iterations:
            self.enqueue(plan.check)
        return marks

    def _stamps_ns(self, marks: list[Any]) -> list[int]:
        arrived, left, begun, done = marks
        elapsed_ms = self.cupy.cuda.get_elapsed_time
        return [0, round(1e6 * elapsed_ms(arrived, left)), 0, round(1e6 * elapsed_ms(begun, done))]
