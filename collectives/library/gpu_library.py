"""NCCL and RCCL, the baseline on GPUs: on the same buffers, stream and clock as our kernels.

Variants: `plain`, or `graph` if the device launches from graphs; `registered`, with symmetric
windows; `tuned`, with the fastest setting; `zero_cta`, on NCCL, by copy engines where nothing is
reduced. Windows and each setting have their own communicator, so that they do not change the other
variants; it is made when a case first needs it."""

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np

from collectives.binding import fastest
from collectives.collective import COLLECTIVES, DATATYPES, ordered, partner
from collectives.communicator import Communicator, Mistake, Refusal
from collectives.library import nccl
from collectives.library.gpu_head import describe
from collectives.library.nccl import (
    BLOCKS,
    COPY_ENGINES,
    NOT_SYMMETRIC,
    POLICY,
    WINDOWS_SINCE,
    Nccl,
    environment,
    has_endless_ll,
    open_nccl,
    release,
    settings_of,
)
from collectives.operation import (
    Bound,
    CollectiveCase,
    Library,
    Message,
    Operation,
    Parts,
    Unsupported,
    World,
)
from kernels.devices.device import Device, DeviceError, Memory, Step
from kernels.devices.gpu import GpuDevice, GpuMemory
from kernels.devices.gpu_driver import wide

# Numbers of nccl.h.
TYPES = {
    "int8": 0,
    "uint8": 1,
    "int32": 2,
    "int64": 4,
    "float16": 6,
    "float32": 7,
    "float64": 8,
    "bfloat16": 9,
    "float8_e4m3": 10,
    "float8_e5m2": 11,
}
OPS = {"sum": 0, "prod": 1, "max": 2, "min": 3, "avg": 4}
SYMMETRIC = 1  # NCCL_WIN_COLL_SYMMETRIC
# RCCL has them since rocm-systems pull request 3741 (2.28.3), and in captured calls since 2.30.7
# (pytorch/pytorch pull request 192524).
SYMMETRIC_SINCE = {"cuda": WINDOWS_SINCE, "hip": 23007}
FLOAT8_SINCE = 22400

# RCCL reads NCCL_PROTO for each communicator (ncclTopoTuneModel), but NCCL_P2P_LEVEL once in a
# process (ncclTopoUserP2pLevel): in RCCL 2.21 and in the source of 2026. For short messages some
# GPUs take LL all the same (rcclUpdateCollectiveProtocol): see `_tried`.
# NCCL reads both variables for each communicator. LL128 by force can corrupt data (NCCL's manual),
# so only NCCL's own choice uses it.
TUNINGS = {
    "hip": ("registered", "NCCL_PROTO=LL", "NCCL_PROTO=Simple"),
    "cuda": (
        "registered",
        "NCCL_PROTO=LL",
        "NCCL_PROTO=Simple",
        "NCCL_ALGO=Ring",
        "NCCL_ALGO=Tree",
    ),
}
CTAS = "CTAs=1", "CTAs=4", "CTAs=16", "CTAs=32"  # blocks of the fastest of these
# NCCL_CTA_POLICY_ZERO: from 2.28 on copy engines move data in symmetric windows of one host, with
# CUDA 12.5, and otherwise a kernel does (ncclCeImplemented and its caller). NCCL logs the line when
# a communicator first uses them.
ZERO_CTA, ZERO_CTA_SINCE, ZERO_CTA_LINE = "CTAPolicy=2", 22800, "Init CE, rank"
TUNING_ROUNDS, TUNING_CALLS = 3, 20
CHAINED_CALLS = 8  # of a launch that is timed for a chain
FIRST_CALL_S = 20.0  # kernels of NCCL and RCCL have no timeout
LL_ON_GFX12 = (
    "NCCL_PROTO=LL is out: RCCL's LL may never end on gfx12 before 2.30.7 (ROCm/rocm-systems issue "
    "5480)."
)

Call = tuple[str, tuple[int, ...]]  # a function, and its arguments before communicator and stream


def kernel_of(choice: str | None) -> set[str] | None:
    """{"RING", "SIMPLE"} of `RING SIMPLE, 24 channels`; None if a choice is not of this form."""
    words = {*(choice or "").partition(",")[0].split()}
    return words if words & {*nccl.PROTOCOLS} else None


def reduces_float8(arch: str, version: int) -> bool:
    """Whether a library reduces fp8 as OCP defines it: NCCL's manual names sm_90, and gfx942 has
    other values for the same codes (FNUZ)."""
    has_codes = arch.startswith(("sm_9", "sm_1", "gfx950", "gfx12"))
    return has_codes and version >= FLOAT8_SINCE


class NcclLibrary(Library):
    """NCCL or RCCL, or the reason why it cannot be used; or an `opened` library like them."""

    def __init__(
        self, communicator: Communicator, device: Device, opened: Nccl | None = None
    ) -> None:
        assert isinstance(device, GpuDevice)
        self.ranks, self.device, self.is_rccl = communicator, device, device.name == "hip"
        self.name = nccl.LIBRARIES[device.name][0]
        self.opened, self.missing = opened, ""
        try:
            self.opened = opened or open_nccl(communicator, device)
            self.name = self.opened.name
        except Refusal as refusal:
            self.missing = str(refusal)
        self.memories: list[GpuMemory] = []
        # By communicator and a memory's address: whether NCCL made a window of it.
        self.windows: dict[tuple[str, int], bool] = {}
        self.runs_kernel_for_zero_cta = False

    @property
    def nccl(self) -> Nccl:
        """Raises DeviceError if it cannot be used."""
        if not self.opened:
            raise DeviceError(self.missing)
        return self.opened

    def among(self, communicator: Communicator) -> "NcclLibrary":
        if not self.opened:
            return self
        part = replace(
            self.opened, ranks=communicator, communicators={}, logs={}, refused={}, ignored={}
        )
        library = NcclLibrary(communicator, self.device, part)
        library.measured = self.measured
        return library

    def variants(self, world: World) -> tuple[str, ...]:
        others = ("registered", "tuned") if self.is_rccl else ("registered", "tuned", "zero_cta")
        wanted = others if self.measured is None else self.measured
        return (world.plain_variant, *(each for each in others if each in wanted))

    def allocate_own(self, size_bytes: int) -> Memory | None:
        """Memory from ncclMemAlloc, as only that can be registered; peers cannot map it."""
        library = self.opened
        if not library or (self.is_rccl and library.version < SYMMETRIC_SINCE["hip"]):
            return None
        pointer = ctypes.c_void_p()
        with environment(library.environment):
            status = library.calls.ncclMemAlloc(*wide([ctypes.byref(pointer), size_bytes]))
        if status:
            raise DeviceError(library.complaint(f"ncclMemAlloc({size_bytes} B)", status))
        free = partial(library.calls.ncclMemFree, pointer)
        memory = GpuMemory(self.device, pointer.value or 0, size_bytes, "ncclMemAlloc", free)
        self.memories.append(memory)
        return memory

    def bind(self, world: World, case: CollectiveCase) -> Bound:
        try:
            library, needs_float8 = self.nccl, case.collective.reduces and case.datatype.float8
            for arch in sorted(library.archs):
                if needs_float8 and not reduces_float8(arch, library.version):
                    return Unsupported(f"{library.name} does not reduce fp8 on {arch}")
            if case.variant == "tuned":
                return self._tuned(world, case)
            if case.variant == "zero_cta":
                return self._zero_cta(case)
            label = "registered" if case.variant == "registered" else "plain"
            return self._labelled(case, label)
        except DeviceError as error:  # all ranks raise it
            return Unsupported(str(error))

    def bind_exchange(self, world: World, send: Parts, receive: Parts) -> Bound:
        messages = [
            Message(is_sent, peer, int(end - size), int(size))
            for is_sent, (address, sizes) in ((True, send), (False, receive))
            for peer, (end, size) in enumerate(zip(address + np.cumsum(sizes), sizes, strict=True))
            if size
        ]
        return self.bind_messages(world, [messages])

    def bind_messages(self, world: World, groups: Sequence[Sequence[Message]]) -> Bound:
        calls: list[list[Call]] = [
            [
                (
                    "ncclSend" if each.is_sent else "ncclRecv",
                    (each.address, each.size_bytes, TYPES["int8"], each.peer),
                )
                for each in group
            ]
            for group in groups
        ]
        try:
            return self._operation(calls, "plain")
        except DeviceError as error:
            return Unsupported(str(error))

    def smallest(self) -> Step:
        """An all-reduce of one element. Raises DeviceError, on all ranks."""
        at = self.device.private(4).address
        case = CollectiveCase(COLLECTIVES["all_reduce"], 1, DATATYPES["int32"], "sum", at, at, True)
        return self._labelled(case, "plain").step

    def barrier(self, world: World) -> Step:
        """An all-reduce of one element: no rank leaves it before all ranks have entered."""
        try:
            return self.smallest()
        except DeviceError as error:
            why = world.peers.reason if isinstance(world.peers, Unsupported) else ""
            raise DeviceError(
                f"{why}; ranks without memory in common need the GPUs' library for a barrier: "
                f"{error}"
            ) from error

    def describe(self, world: World) -> dict[str, Any]:
        return describe(self, world)

    def _groups(self, case: CollectiveCase) -> list[list[Call]]:
        rank, ranks, size = self.ranks.rank, self.ranks.size, case.segment_bytes
        int8 = TYPES["int8"]  # without a reduction every type is moved as bytes
        move = case.send, case.receive, size, int8
        kind, op = TYPES[case.datatype.name], OPS.get(case.redop, 0)
        reduction = case.send, case.receive, case.count, kind, op

        def exchange(peer: int, offset: int = 0) -> tuple[Call, Call]:
            return (
                ("ncclSend", (case.send + offset, size, int8, peer)),
                ("ncclRecv", (case.receive + offset, size, int8, peer)),
            )

        # An older version has no all-to-all; nccl-tests also sends in one group then.
        all_to_all = [call for peer in range(ranks) for call in exchange(peer, peer * size)]
        for name in ("ncclAlltoAll", "ncclAllToAll"):
            if hasattr(self.nccl.calls, name):
                all_to_all = [(name, move)]
        send, receive = exchange(partner(rank, ranks))
        groups: dict[str, list[list[Call]]] = {
            "all_reduce": [[("ncclAllReduce", reduction)]],
            "reduce_scatter": [[("ncclReduceScatter", reduction)]],
            "all_gather": [[("ncclAllGather", move)]],
            "alltoall": [all_to_all],
            "sendrecv": ordered(case.shape, rank, ranks, [send], [receive]),
        }
        return groups[case.collective.name]

    def _labelled(self, case: CollectiveCase, label: str) -> Operation:
        """The case on the communicator with this label. Raises DeviceError on all ranks."""
        if label in ("registered", ZERO_CTA):
            self._register(case, label)
        return self._operation(self._groups(case), label)

    def _operation(self, groups: list[list[Call]], label: str) -> Operation:
        library = self.nccl
        if label in library.refused:
            raise DeviceError(library.refused[label])
        handle = library.connect(label)
        names = {name for group in groups for name, _ in group}
        # The title is the same on all ranks.
        title = next(iter(names - {"ncclSend", "ncclRecv"}), "ncclSend and ncclRecv")

        @cache
        def calls_in(stream: int) -> list[list[Any]]:
            return [
                [
                    (name, getattr(library.calls, name), wide([*arguments, handle, stream]))
                    for name, arguments in group
                ]
                for group in groups
            ]

        failure = partial(library.failure, handle, title)

        def enqueue(blocks: int, argument: Any) -> None:
            # The kernels' stream, or the second one, beside these.
            if complaint := library.perform(calls_in(self.device.current_stream())):
                raise DeviceError(complaint)

        # The first call makes the connections, and may never end.
        before = len(library.logs.get(label, ""))
        with library.logging(label):
            library.agree(library.perform(calls_in(self.device.stream.ptr)))
            self._wait_for_first_call(label, title)
        library.agree(library.refused.get(label) or failure() or "")
        choice = nccl.decision(library.logs[label][before:])
        if self.is_rccl and label != "registered":  # its plan knows of no windows
            first = next((call for group in groups for call in group), None)
            choice = first and library.planned(label, *first)
        # A rank without a partner calls nothing, and still needs a launch, also from a graph.
        step = Step(title, enqueue, None, entries=len(groups)) if names else self.device.nothing
        choice = self.ranks.broadcast(choice)  # only rank 0 logs it
        return Operation(step, choice=choice, failure=failure)

    def _wait_for_first_call(self, label: str, title: str) -> None:
        library, stream, deadline_s = self.nccl, self.device.stream, time.monotonic() + FIRST_CALL_S
        while not stream.done and time.monotonic() < deadline_s:
            time.sleep(1e-3)
        if not all(self.ranks.all_gather(stream.done)):
            library.calls.ncclCommAbort(library.communicators[label])
            reason = f"{title} of {library.name} did not end in {FIRST_CALL_S:g} s."
            library.refused[label] = f"{label}: {reason}"
        with self.device.calling(title):
            stream.synchronize()

    def _zero_cta(self, case: CollectiveCase) -> Operation:
        """The case under the policy that takes no blocks where it can; `choice` says what moved the
        data. Raises DeviceError on all ranks."""
        library = self.nccl
        if library.version < ZERO_CTA_SINCE:
            raise DeviceError(f"{library.name} has no zero-CTA policy; 2.28 has")
        policies = {*library.outweighs.get(POLICY, "ZERO").upper().split("|")}
        if not policies & {"ZERO", "2"}:
            raise DeviceError(
                f"{POLICY}={library.outweighs[POLICY]} is set, and outweighs the zero-CTA policy"
            )
        operation = self._labelled(case, ZERO_CTA)
        if not library.log:  # the user's log file has it
            return operation
        ran = operation.choice
        is_used = self.ranks.broadcast(ZERO_CTA_LINE in library.logs[ZERO_CTA])
        if ran == COPY_ENGINES or (ran is None and is_used):
            return replace(operation, choice=COPY_ENGINES)
        self.runs_kernel_for_zero_cta = True
        return replace(operation, choice=f"a kernel: {ran}" if ran else "a kernel")

    def _register(self, case: CollectiveCase, label: str) -> None:
        """Makes symmetric windows of the case's buffers for the communicator with this label.
        Raises DeviceError on all ranks."""
        library = self.nccl
        if "plain" in library.refused:  # it would hang as long
            raise DeviceError(library.refused["plain"])
        since = SYMMETRIC_SINCE[self.device.name]
        if library.version < since:
            kind = nccl.LIBRARIES[self.device.name][0]
            raise DeviceError(
                f"{library.name} has no symmetric windows: {kind} has them since {release(since)}"
            )
        none = f"{library.name} makes no symmetric windows between these GPUs"
        if self.is_rccl:
            none += ": it needs peer access, and NCCL_CUMEM_ENABLE=1 in the environment"
        # The one that is there already says it, too.
        library.connect("plain")
        handle = None
        if not self._lacks_symmetry("plain"):
            handle = library.connect(label)
        if handle is None or self._lacks_symmetry(label):
            raise DeviceError(none)
        for address in (case.send, case.receive):  # all ranks make their windows in the same order
            memory = next(
                (m for m in self.memories if m.address <= address < m.address + m.size_bytes), None
            )
            if memory is None:
                raise DeviceError("only buffers from NCCL's allocator make symmetric windows")
            if (label, memory.address) not in self.windows:
                window = ctypes.c_void_p()
                place = memory.address, memory.size_bytes, ctypes.byref(window), SYMMETRIC
                status = library.calls.ncclCommWindowRegister(*wide([handle, *place]))
                library.agree(library.complaint("ncclCommWindowRegister", status))
                # A library that cannot make windows here reports success and returns none.
                self.windows[label, memory.address] = all(self.ranks.all_gather(bool(window)))
            if not self.windows[label, memory.address]:
                raise DeviceError(none)

    def _lacks_symmetry(self, label: str) -> bool:
        """Whether the log of this communicator on any rank says that it has no symmetric memory."""
        said = NOT_SYMMETRIC.search(self.nccl.logs.get(label, ""))
        return any(self.ranks.all_gather(bool(said)))

    def _tuned(self, world: World, case: CollectiveCase) -> Operation:
        """The fastest of the default and of the TUNINGS that differ from what the library runs by
        itself, and of it with other numbers of blocks; the log must confirm each. Raises
        DeviceError and Mistake on all ranks."""
        library = self.nccl
        # Nobody has tried numbers of blocks with RCCL 2.26.
        sets_blocks = not self.is_rccl or library.version >= WINDOWS_SINCE
        if sets_blocks and (set_here := {*BLOCKS} & library.outweighs.keys()):
            name = min(set_here)
            raise Mistake(
                f"{name}={library.outweighs[name]} is set, and outweighs the numbers of blocks "
                "among which the library's `tuned` searches: unset it, or leave the search out: "
                "--library plain,registered"
            )
        if not self.is_rccl and "plain" in library.refused:  # each setting would hang as long
            raise DeviceError(library.refused["plain"])
        if has_endless_ll(library.archs, library.version):
            library.refused["NCCL_PROTO=LL"] = LL_ON_GFX12
        tried = self._tried(case, ["plain"])
        ran = kernel_of(tried["plain"].choice) if tried else None
        others = [
            label
            for label in TUNINGS[self.device.name]
            if not ran or ran.isdisjoint(map(str.upper, settings_of(label).values()))
        ]
        tried |= self._tried(case, others)
        label = self._fastest(world, case, tried)
        if sets_blocks and label != "registered":
            # All ranks try the same numbers, whatever one's log lacks.
            have = self.ranks.broadcast(nccl.channels(library.logs[label]).get("coll"))
            blocks = [f"{label} {each}" for each in CTAS if each != f"CTAs={have}"]
            tried |= self._tried(case, blocks)
            label = self._fastest(
                world, case, {each: tried[each] for each in (label, *blocks) if each in tried}
            )
        operation, choice = tried[label], label.replace("plain", "default")
        ran_text = operation.choice
        return replace(
            operation, choice=f"{choice}: {ran_text}" if ran_text and ran_text != choice else choice
        )

    def _tried(self, case: CollectiveCase, labels: Sequence[str]) -> dict[str, Operation]:
        """The case by these labels, without those that cannot run or are not what they say: their
        reason is in `refused`, or for this case in `ignored`."""
        library, tried = self.nccl, dict[str, Operation]()
        for label in labels:
            if label in library.refused:
                continue
            try:
                operation = self._labelled(case, label)
                library.agree(library.departure(label))
            except DeviceError as error:
                if label == "registered":  # the variant's own row says why
                    continue
                library.logs.pop(label, None)
                library.refused[label] = f"{label} is out: {str(error).rstrip('.')}."
                continue
            ran, asked = kernel_of(operation.choice), settings_of(label)
            names = {asked[name].upper() for name in ("NCCL_PROTO", "NCCL_ALGO") if name in asked}
            if ran and not names <= ran:  # at this size
                runs = f"{library.name} runs {operation.choice} all the same"
                library.ignored[label] = f"{label} is left out where {runs}."
                continue
            tried[label] = operation
        return tried

    def _fastest(self, world: World, case: CollectiveCase, tried: Mapping[str, Operation]) -> str:
        """The label that is fastest, launched as the case is: single or in a row. Raises
        DeviceError on all ranks."""
        calls = CHAINED_CALLS if case.mode == "chained" else 1
        if not tried:
            raise DeviceError(" ".join(self.nccl.refused.values()))
        steps = {
            label: self.device.sequence([operation.step] * calls)
            for label, operation in tried.items()
        }
        return fastest(world, steps, TUNING_ROUNDS, TUNING_CALLS)
