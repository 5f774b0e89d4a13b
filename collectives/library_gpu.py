"""The baselines on GPUs: the all-reduce of NCCL or RCCL on the same buffers, stream and clock as ours.

Variants: `plain`, or `graph`, which differ in how the device launches them; `registered`, with symmetric windows;
on RCCL `tuned`. What must not leak from one into another has a communicator of its own: windows, and each protocol.
"""

import ctypes
import os
import time
from functools import partial
from statistics import median
from typing import Any

from collectives.collective import DATATYPES
from collectives.nccl import (
    Library,
    agree,
    algorithms,
    channels,
    connect,
    environment,
    listen,
    open_library,
    transports,
)
from collectives.operation import Case, Operation, Unsupported, World
from kernels.device import DeviceError, Kernel, Step
from kernels.device_gpu import GpuDevice, GpuMemory

# nccl.h's numbers, and since which version a library has what not all of them have.
TYPES = {"int32": 2, "int64": 4, "float16": 6, "float32": 7, "float64": 8, "bfloat16": 9}
OPS = {"sum": 0, "prod": 1, "max": 2, "min": 3, "avg": 4}
SINCE = {"bfloat16": 21000, "avg": 21000}
MEMORY_SINCE, WINDOWS_SINCE = 21900, 22700
SYMMETRIC = 1  # NCCL_WIN_COLL_SYMMETRIC

# RCCL reads NCCL_PROTO whenever a communicator is made (ncclTopoTuneModel), but NCCL_P2P_LEVEL once a process
# (ncclTopoUserP2pLevel): in RCCL 2.21's source, and in that of 2026.
TUNINGS = ("NCCL_PROTO=LL", "NCCL_PROTO=Simple")
TUNING_ROUNDS, TUNING_CALLS = 3, 20
FIRST_CALL_S = 20.0
LL_ON_GFX12 = "NCCL_PROTO=LL is out: RCCL's LL stands still on gfx12 (ROCm/rocm-systems issue 5480)."
ONCE_A_PROCESS = (
    "NCCL_P2P_LEVEL=SYS was not tried: RCCL reads it once a process. On AMD CPUs it is the default; on others set it "
    "for the run, and all of RCCL's rows have it."
)


def variants(world: World) -> tuple[str, ...]:
    """The forms in which the library is measured here."""
    return ("graph" if world.graph else "plain", "registered" if world.device.name == "cuda" else "tuned")


def allocate(world: World, size_bytes: int) -> GpuMemory | None:
    """Memory from NCCL's own allocator, which can be registered with it; None where there is none. No peer can map it,
    as it has no handle. All ranks call it. Raises DeviceError."""
    library = open_library(world)
    if isinstance(library, Unsupported) or library.kind == "RCCL" or library.version < MEMORY_SINCE:
        return None
    assert isinstance(world.device, GpuDevice)
    pointer = ctypes.c_void_p()
    with environment(library.environment):
        status = library.calls.ncclMemAlloc(ctypes.byref(pointer), size_bytes)
    if status:
        raise DeviceError(library.complaint(f"ncclMemAlloc({size_bytes} B)", status))
    free = partial(library.calls.ncclMemFree, pointer)
    memory = GpuMemory(world.device, pointer.value or 0, size_bytes, "ncclMemAlloc", free)
    library.memories.append(memory)
    return memory


def bind(world: World, case: Case) -> Operation | Unsupported:
    """Binds one of `variants`, or says what keeps the library from being set up. All ranks call it."""
    library = open_library(world)
    if isinstance(library, Unsupported):
        return library
    for asked in (case.datatype.name, case.redop):
        if library.version < SINCE.get(asked, 0):
            return Unsupported(f"{library.name} has no {asked}; 2.10 has")
    try:
        if case.variant == "tuned":
            return _tuned(world, library, case)
        if case.variant != "registered":
            return _operation(world, library, case, "plain")
        reason = _register(world, library, case)
        return Unsupported(reason) if reason else _operation(world, library, case, "registered")
    except DeviceError as error:  # agreed on by all ranks
        return Unsupported(f"{'two ranks on one GPU are an experiment of NCCL; ' if library.shared else ''}{error}")


def barrier(world: World) -> Step:
    """An all-reduce of one element, which no rank leaves before all have come. Raises DeviceError on all ranks."""
    library = open_library(world)
    if isinstance(library, Unsupported):
        why = world.peers.reason if isinstance(world.peers, Unsupported) else ""
        raise DeviceError(f"{why}; ranks without memory in common need the GPUs' library to meet: {library.reason}")
    word = world.device.private(4)
    case = Case(4, DATATYPES["int32"], "sum", word.address, word.address)
    return _operation(world, library, case, "plain").step


def _operation(world: World, library: Library, case: Case, label: str, chosen: str | None = None) -> Operation:
    """An all-reduce on the communicator of that label, performed once: only a first call makes all connections, and one
    that would never end is found here. Raises DeviceError on all ranks."""
    if label in library.refused:
        raise DeviceError(library.refused[label])
    handle, device, all_reduce = connect(world, library, label), world.device, library.calls.ncclAllReduce
    assert isinstance(device, GpuDevice)
    stream = device.stream

    def enqueue(blocks: int, argument: tuple[int, ...]) -> None:
        if status := all_reduce(*argument, stream.ptr):
            raise DeviceError(library.complaint("ncclAllReduce", status))

    def failure() -> str | None:
        status = ctypes.c_int()
        library.calls.ncclCommGetAsyncError(handle, ctypes.byref(status))
        return library.complaint("ncclAllReduce", status.value) or None

    arguments = (case.send, case.receive, case.count, TYPES[case.datatype.name], OPS[case.redop], handle)
    step = Step(Kernel("ncclAllReduce", enqueue), arguments)
    complaint = ""
    try:
        device.enqueue(step)
    except DeviceError as error:
        complaint = str(error)
    agree(world, complaint)  # before waiting for an end that may never come
    in_time = ended(device, FIRST_CALL_S)
    if not all(world.communicator.all_gather(in_time)):
        library.calls.ncclCommAbort(handle)
        library.refused[label] = f"{label}: ncclAllReduce of {library.name} did not end in {FIRST_CALL_S:g} s."
    with device.calling("ncclAllReduce"):
        stream.synchronize()
    listen(library, label)
    agree(world, library.refused.get(label) or failure() or "")
    return Operation(step, device.caller(step), chosen, failure)


def ended(device: GpuDevice, within_s: float) -> bool:
    """Whether the stream came to its end; a library's kernels have no time-out of their own."""
    latest_s = time.monotonic() + within_s
    while not device.stream.done:
        if time.monotonic() > latest_s:
            return False
        time.sleep(1e-3)
    return True


def _register(world: World, library: Library, case: Case) -> str | None:
    """Makes symmetric windows of the case's buffers; why that cannot be, None where it is done."""
    if library.version < WINDOWS_SINCE:
        return f"{library.name} has no symmetric windows; 2.27 has"
    handle = connect(world, library, "registered")
    for address in dict.fromkeys((case.send, case.receive)):  # windows pair up in the order in which they are made
        memory = next((m for m in library.memories if m.address == address), None)
        if memory is None:
            return "its buffers are not from NCCL's allocator, and only those make symmetric windows"
        if address not in library.windows:
            window = ctypes.c_void_p()
            status = library.calls.ncclCommWindowRegister(
                handle, address, memory.size_bytes, ctypes.byref(window), SYMMETRIC
            )
            agree(world, library.complaint("ncclCommWindowRegister", status))
            # A library that cannot do it here succeeds, and gives no window.
            library.windows[address] = all(world.communicator.all_gather(bool(window)))
        if not library.windows[address]:
            return f"{library.name} makes no symmetric windows between these GPUs"
    return None


def _tuned(world: World, library: Library, case: Case) -> Operation:
    """The best of the defaults and TUNINGS for this case, by what the slowest rank takes, timed apart from what is
    reported. A setting counts only where the library's log says that it was read."""
    assert isinstance(world.device, GpuDevice)
    if "NCCL_P2P_LEVEL" not in os.environ:
        library.refused["NCCL_P2P_LEVEL=SYS"] = ONCE_A_PROCESS
    if world.device.arch.startswith("gfx12"):
        library.refused["NCCL_PROTO=LL"] = LL_ON_GFX12
    found: dict[str, Operation] = {}
    for label in ("plain", *TUNINGS):
        if label in library.refused:
            continue
        try:
            found[label] = _operation(world, library, case, label, "default" if label == "plain" else label)
            was_read = label == "plain" or label.replace("=", " set by environment to ") in library.said[label]
            agree(world, "" if was_read else f"{library.name} does not say that it has read it")
        except DeviceError as error:
            found.pop(label, None)
            library.said.pop(label, None)
            library.refused[label] = f"{label} is out: {str(error).rstrip('.')}."
    if not found:
        raise DeviceError(" ".join(library.refused.values()))
    times_us: dict[str, list[float]] = {label: [] for label in found}
    for _ in range(TUNING_ROUNDS):
        for label, operation in found.items():
            times_us[label].append(world.device.time_us(operation.step, TUNING_CALLS))
    everyone = world.communicator.all_gather([median(times) for times in times_us.values()])
    slowest = [max(ranks) for ranks in zip(*everyone, strict=True)]
    return list(found.values())[slowest.index(min(slowest))]


def describe(world: World) -> dict[str, Any]:
    """The library as it is used here, for the head of a run; all ranks call it, after the cases have been bound.

    `transports` and `channels` are by communicator; `notes` are sentences that a comparison with it needs.
    """
    library = open_library(world)
    if isinstance(library, Unsupported):
        return {"library": None, "notes": [f"The GPUs' own library is not measured: {library.reason}."]}
    logs = world.communicator.all_gather(library.said)
    ways: dict[str, dict[str, list[str]]] = {}
    for label in library.said:
        for pair, found in (item for log in logs for item in transports(log[label]).items()):
            known = ways.setdefault(label, {}).setdefault(pair, [])
            known += [way for way in found if way not in known]
    notes = list(library.refused.values())
    if silent := [label for label in library.said if label not in ways]:
        why = "gave no channel lines" if library.log else "is set, and only the program's own is read"
        notes.append(f"The transport of {library.name} is unknown ({', '.join(silent)}): NCCL_DEBUG_FILE {why}.")
    used = sorted({(way, pair) for pairs in ways.values() for pair, found in pairs.items() for way in found})
    staged = [f"{way}, ranks {pair}" for way, pair in used if way.startswith(("SHM", "direct shared", "NET"))]
    if staged and world.communicator.hosts == 1:
        notes.append(f"{library.name} went through host memory ({staged[0]}): it is not a peer-to-peer baseline.")
    if library.shared:
        notes.append(f"Two ranks share a GPU, an experiment of {library.name}: a smoke test, and no measurement.")
    if library.kind == "RCCL" and os.environ.get("HSA_FORCE_FINE_GRAIN_PCIE") != "1":
        notes.append("HSA_FORCE_FINE_GRAIN_PCIE=1 is not set; RCCL's README asks for it where GPUs peer over PCIe.")
    return {
        "library": library.name,
        "binding": library.binding,
        "transports": ways,
        "channels": {label: channels(text) for label, text in library.said.items()},
        "algorithms": {label: found for label, text in library.said.items() if (found := algorithms(text))},
        "notes": notes,
    }
