"""The baselines on GPUs: the collectives of NCCL or RCCL on the same buffers, stream and clock as ours.

Variants: `plain`, or `graph`, which differ in how the device launches them; `registered`, with symmetric windows;
on RCCL `tuned`. What must not leak from one into another has a communicator of its own: windows, and each protocol.
"""

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from collectives.collective import COLLECTIVES, DATATYPES, in_turn, partner
from collectives.library import nccl
from collectives.library.nccl import Library, agree, connect, environment, listen, open_library, release
from collectives.operation import Case, Operation, Unsupported, World
from kernels.devices.device import DeviceError, Gate, Kernel, Step
from kernels.devices.gpu import GpuDevice, GpuMemory

# nccl.h's numbers, and since which version a library has what not all of them have.
TYPES = {"int32": 2, "int64": 4, "float16": 6, "float32": 7, "float64": 8, "bfloat16": 9}
OPS = {"sum": 0, "prod": 1, "max": 2, "min": 3, "avg": 4}
MOVED_TYPES = {2: "float16", 4: "int32", 8: "int64"}  # where nothing is reduced: bits of this many bytes
SINCE = {"bfloat16": 21000, "avg": 21000, "alltoall": 2700, "sendrecv": 2700}
MEMORY_SINCE, WINDOWS_SINCE = 21900, 22700
SYMMETRIC = 1  # NCCL_WIN_COLL_SYMMETRIC

# RCCL reads NCCL_PROTO whenever a communicator is made (ncclTopoTuneModel), but NCCL_P2P_LEVEL once a process
# (ncclTopoUserP2pLevel): in RCCL 2.21's source, and in that of 2026.
TUNINGS = ("NCCL_PROTO=LL", "NCCL_PROTO=Simple")
TUNING_ROUNDS, TUNING_CALLS = 3, 20
FIRST_CALL_S = 20.0
LL_ON_GFX12 = "NCCL_PROTO=LL is out: RCCL's LL stands still on gfx12 (ROCm/rocm-systems issue 5480)."
ONCE_A_PROCESS = ("NCCL_P2P_LEVEL=SYS was not tried: RCCL reads it once a process. On AMD CPUs it is the default; on "
                  "others set it for the run, and all of RCCL's rows have it.")


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
    reduced = (case.datatype.name, case.redop) if case.collective.reduces else ()
    for asked in (case.collective.name, *reduced):
        if library.version < SINCE.get(asked, 0):
            return Unsupported(f"{library.name} has no {asked}; {release(SINCE[asked]).removesuffix('.0')} has")
    try:
        if case.variant == "tuned":
            return _tuned(world, library, case)
        if case.variant == "registered" and (reason := _register(world, library, case)):
            return Unsupported(reason)
        label = "registered" if case.variant == "registered" else "plain"
        return _operation(world, library, _calls(world, library, case), label)
    except DeviceError as error:  # agreed on by all ranks
        return Unsupported(f"{'two ranks on one GPU are an experiment of NCCL; ' if library.shared else ''}{error}")


def barrier(world: World) -> Step:
    """An all-reduce of one element, which no rank leaves before all have come. Raises DeviceError on all ranks."""
    library = open_library(world)
    if isinstance(library, Unsupported):
        why = world.peers.reason if isinstance(world.peers, Unsupported) else ""
        raise DeviceError(f"{why}; ranks without memory in common need the GPUs' library to meet: {library.reason}")
    word = world.device.private(4)
    case = Case(COLLECTIVES["all_reduce"], 1, DATATYPES["int32"], "sum", word.address, word.address, True)
    return _operation(world, library, _calls(world, library, case), "plain").step


Call = tuple[str, tuple[int, ...]]  # a function, and what it is called with before communicator and stream


def _calls(world: World, library: Library, case: Case) -> list[list[Call]]:
    """What performs the case on this rank, one after another: each a call, or calls that progress as a group."""
    rank, ranks, what, size = world.communicator.rank, world.communicator.size, case.collective, case.segment_bytes
    kind = TYPES[case.datatype.name if what.reduces else MOVED_TYPES[case.datatype.size_bytes]]
    if what.reduces:
        name = {"all_reduce": "ncclAllReduce", "reduce_scatter": "ncclReduceScatter"}[what.name]
        return [[(name, (case.send, case.receive, case.count, kind, OPS[case.redop]))]]
    names = {"all_gather": ("ncclAllGather",), "alltoall": ("ncclAlltoAll", "ncclAllToAll")}.get(what.name, ())
    if has := [name for name in names if hasattr(library.calls, name)]:
        return [[(has[0], (case.send, case.receive, case.count, kind))]]

    def messages(peer: int, send: int, receive: int) -> list[Call]:
        return [("ncclSend", (send, case.count, kind, peer)), ("ncclRecv", (receive, case.count, kind, peer))]

    if what.name == "alltoall":
        return [[call for peer in range(ranks)
                 for call in messages(peer, case.send + peer * size, case.receive + peer * size)]]
    if (other := partner(rank, ranks)) is None:
        return []
    send, receive = messages(other, case.send, case.receive)
    return in_turn(case.shape, rank, [send], [receive])


def bind_exchanges(world: World, exchanges: Sequence[tuple[Step, Any, Any, Step]],
                   keep: object) -> Operation | Unsupported:
    """Between two kernels, bytes to and from every rank: an address with the bytes of each, in whole eights, one rank's
    after another's, of what is sent and of what is got. All ranks call it."""
    library, device = open_library(world), world.device
    if isinstance(library, Unsupported):
        return library
    if library.version < SINCE["sendrecv"]:
        return Unsupported(f"{library.name} has no sendrecv; {release(SINCE['sendrecv']).removesuffix('.0')} has")
    steps, failures = list[Step](), list[Callable[[], str | None]]()
    try:
        for pack, out, in_, unpack in exchanges:
            group: list[Call] = [
                (name, (address + int(sizes[:peer].sum()), int(sizes[peer]) // 8, TYPES["int64"], peer))
                for peer in range(world.communicator.size)
                for name, (address, sizes) in (("ncclSend", out), ("ncclRecv", in_)) if sizes[peer]]
            operation = _operation(world, library, [group] if group else [], "plain")
            steps += [pack, operation.step, unpack]
            failures.append(operation.failure)
    except DeviceError as error:
        return Unsupported(str(error))

    def enqueue(blocks: int, argument: Any) -> None:
        for step in steps:
            step.kernel.function(step.blocks, step.argument)

    step = Step(Kernel("ncclSend and ncclRecv", enqueue), None)
    return Operation(step, device.caller(step), failure=lambda: next(filter(None, (f() for f in failures)), None),
                     keep=[keep, steps])


def _operation(world: World, library: Library, groups: list[list[Call]], label: str,
               chosen: str | None = None) -> Operation:
    """These calls on the communicator of that label, performed once: only a first call makes all connections, and one
    that would never end is found here. Raises DeviceError on all ranks."""
    if label in library.refused:
        raise DeviceError(library.refused[label])
    handle, device = connect(world, library, label), world.device
    assert isinstance(device, GpuDevice)
    stream = device.stream
    calls = [[(name, getattr(library.calls, name), (*arguments, handle, stream.ptr)) for name, arguments in group]
             for group in groups]
    names = {name for group in calls for name, _, _ in group}
    title = next(iter(names - {"ncclSend", "ncclRecv"}), "ncclSend and ncclRecv")  # the same on all ranks

    def perform() -> str:
        """Puts the calls into the stream; the first complaint, after which none follows."""
        for group in calls:
            if len(group) > 1:
                library.calls.ncclGroupStart()
            said = [library.complaint(name, function(*arguments)) for name, function, arguments in group]
            if len(group) > 1:
                said.append(library.complaint("ncclGroupEnd", library.calls.ncclGroupEnd()))
            if any(said):
                return next(filter(None, said))
        return ""

    def enqueue(blocks: int, argument: Any) -> None:
        if complaint := perform():
            raise DeviceError(complaint)

    def failure() -> str | None:
        status = ctypes.c_int()
        library.calls.ncclCommGetAsyncError(handle, ctypes.byref(status))
        return library.complaint(title, status.value) or None

    # A rank without a partner calls nothing, but has something to launch, from a graph too.
    step = Step(Kernel(title, enqueue), None) if calls else Step(device.nothing, Gate())
    agree(world, perform())  # before waiting for an end that may never come
    latest_s = time.monotonic() + FIRST_CALL_S  # a library's kernels have no time-out of their own
    while not stream.done and time.monotonic() < latest_s:
        time.sleep(1e-3)
    if not all(world.communicator.all_gather(stream.done)):
        library.calls.ncclCommAbort(handle)
        library.refused[label] = f"{label}: {title} of {library.name} did not end in {FIRST_CALL_S:g} s."
    with device.calling(title):
        stream.synchronize()
    listen(library, label)
    agree(world, library.refused.get(label) or failure() or "")
    return Operation(step, device.caller(step), chosen, failure)


def _register(world: World, library: Library, case: Case) -> str | None:
    """Makes symmetric windows of the case's buffers; why that cannot be, None where it is done."""
    if library.version < WINDOWS_SINCE:
        return f"{library.name} has no symmetric windows; 2.27 has"
    handle = connect(world, library, "registered")
    for address in (case.send, case.receive):  # windows pair up in the order in which they are made
        memory = next((m for m in library.memories if m.address <= address < m.address + m.size_bytes), None)
        if memory is None:
            return "its buffers are not from NCCL's allocator, and only those make symmetric windows"
        if memory.address not in library.windows:
            window = ctypes.c_void_p()
            where = memory.address, memory.size_bytes, ctypes.byref(window)
            status = library.calls.ncclCommWindowRegister(handle, *where, SYMMETRIC)
            agree(world, library.complaint("ncclCommWindowRegister", status))
            # A library that cannot do it here succeeds, and gives no window.
            library.windows[memory.address] = all(world.communicator.all_gather(bool(window)))
        if not library.windows[memory.address]:
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
            calls = _calls(world, library, case)
            found[label] = _operation(world, library, calls, label, "default" if label == "plain" else label)
            was_read = label == "plain" or label.replace("=", " set by environment to ") in library.said[label]
            agree(world, "" if was_read else f"{library.name} does not say that it has read it")
        except DeviceError as error:
            found.pop(label, None)
            library.said.pop(label, None)
            library.refused[label] = f"{label} is out: {str(error).rstrip('.')}."
    if not found:
        raise DeviceError(" ".join(library.refused.values()))
    operations = list(found.values())
    times_us = [[world.device.time_us(one.step, TUNING_CALLS) for one in operations] for _ in range(TUNING_ROUNDS)]
    slowest_us = np.max(world.communicator.all_gather(np.median(times_us, axis=0)), axis=0)
    return operations[int(np.argmin(slowest_us))]


def describe(world: World) -> dict[str, Any]:
    """The library as it is used here, for the head of a run; all ranks call it, after the cases have been bound.

    `transports` and `channels` are by communicator; `notes` are sentences that a comparison with it needs.
    """
    library = open_library(world)
    if isinstance(library, Unsupported):
        return {"library": None, "notes": [f"The GPUs' own library is not measured: {library.reason}."]}
    logs = world.communicator.all_gather(library.said)
    logs_of = {label: "".join(log[label] for log in logs) for label in library.said}
    ways = {label: by_pair for label, text in logs_of.items() if (by_pair := nccl.transports(text))}
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
    return {"library": library.name, "binding": library.binding, "transports": ways,
            "channels": {label: nccl.channels(text) for label, text in library.said.items()},
            "algorithms": {label: found for label, text in library.said.items() if (found := nccl.algorithms(text))},
            "notes": notes}
