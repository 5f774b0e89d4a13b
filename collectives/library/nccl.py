"""NCCL and RCCL as loaded into this process: their one C interface, their communicators and what they say.

They are called by address, as MPI is: what a package of Python adds to a call would be charged to the baseline.
nccl4py brings NCCL where it is installed, else CuPy does; CuPy's ROCm build brings RCCL.
"""

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TextIO

from collectives.communicator import Communicator
from collectives.operation import Unsupported, World
from kernels.devices.device import DeviceError
from kernels.devices.gpu import GpuDevice, GpuMemory

SHARING_SINCE = 23000  # two ranks on one GPU, an experiment of NCCL's


class UniqueId(ctypes.Structure):
    """ncclUniqueId: by it the ranks of a communicator find each other."""

    _fields_ = [("internal", ctypes.c_uint8 * 128)]


_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "ncclGetVersion": (_POINTER,), "ncclGetErrorString": (_INT,), "ncclGetLastError": (_POINTER,),
    "ncclGetUniqueId": (_POINTER,), "ncclCommInitRank": (_POINTER, _INT, UniqueId, _INT),
    "ncclCommGetAsyncError": (_POINTER, _POINTER), "ncclCommAbort": (_POINTER,),
    "ncclMemAlloc": (_POINTER, _SIZE), "ncclMemFree": (_POINTER,),
    "ncclCommWindowRegister": (_POINTER, _POINTER, _SIZE, _POINTER, _INT),
    "ncclAllReduce": (_POINTER, _POINTER, _SIZE, _INT, _INT, _POINTER, _POINTER),
    "ncclReduceScatter": (_POINTER, _POINTER, _SIZE, _INT, _INT, _POINTER, _POINTER),
    "ncclAllGather": (_POINTER, _POINTER, _SIZE, _INT, _POINTER, _POINTER),
    "ncclAlltoAll": (_POINTER, _POINTER, _SIZE, _INT, _POINTER, _POINTER),
    "ncclAllToAll": (_POINTER, _POINTER, _SIZE, _INT, _POINTER, _POINTER),  # RCCL's
    "ncclSend": (_POINTER, _SIZE, _INT, _INT, _POINTER, _POINTER),
    "ncclRecv": (_POINTER, _SIZE, _INT, _INT, _POINTER, _POINTER), "ncclGroupStart": (), "ncclGroupEnd": ()}


@dataclass
class Library:
    """`said`: the library's log so far, by communicator; `refused`: why settings are out; `shared`: two ranks a GPU."""

    calls: ctypes.CDLL
    kind: str
    version: int
    binding: str
    shared: bool
    environment: dict[str, str] = field(default_factory=dict)
    log: TextIO | None = None
    communicators: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    memories: list[GpuMemory] = field(default_factory=list)
    windows: dict[int, bool] = field(default_factory=dict)  # by the address of the memory, whether one could be had

    @property
    def name(self) -> str:
        """`NCCL 2.32.3`."""
        return f"{self.kind} {release(self.version)}"

    def complaint(self, call: str, status: int) -> str:
        """What the library says of a call that failed, without paths and addresses; "" of one that did not."""
        if not status:
            return ""
        words = [self.calls.ncclGetErrorString(status).split(b" (run with")[0]]
        if hasattr(self.calls, "ncclGetLastError"):  # since 2.13
            words.append(self.calls.ncclGetLastError(None))
        said = ": ".join(w.decode(errors="replace").strip() for w in words if w)
        return f"{call} of {self.name} fails: " + re.sub(r"(?<!\w)/\S+|\d+(?:\.\d+){3}\S*", "<set>", said)


def release(version: int) -> str:
    """NCCL 2.9 and later write 23203 for 2.32.3, those before 2804 for 2.8.4."""
    unit = 10000 if version >= 10000 else 1000
    return f"{version // unit}.{version % unit // 100}.{version % 100}"


@contextlib.contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """These variables while a library reads them, and then what was there before."""
    before = {name: os.environ[name] for name in settings if name in os.environ}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def find_library(vendor: str) -> tuple[str, str] | Unsupported:
    """The name by which the loader knows the library, loaded by then, and the package that loaded it."""
    reasons = []
    if vendor == "cuda":
        try:
            importlib.import_module("nccl.bindings.nccl").get_version()
            return "libnccl.so.2", f"nccl4py {importlib.metadata.version('nccl4py')}"
        except (ImportError, RuntimeError) as error:
            if not (isinstance(error, ModuleNotFoundError) and str(error.name).startswith("nccl")):
                reasons.append(f"nccl4py cannot load it: {str(error).splitlines()[0]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # five lines from each rank where there is none
        nccl = importlib.import_module("cupy.cuda.nccl")
    if nccl.available:
        return "libnccl.so.2" if vendor == "cuda" else "librccl.so.1", "; ".join(["cupy.cuda.nccl", *reasons])
    wanted = {"cuda": "NCCL is not installed: pip install nccl4py nvidia-nccl-cu13 (or -cu12)",
              "hip": "RCCL is not installed: it comes with ROCm, as the package rccl"}
    return Unsupported("; ".join([wanted[vendor], *reasons]))


def load(name: str) -> ctypes.CDLL:
    """The library of that name with the types of its calls; an older one lacks some."""
    calls = ctypes.CDLL(name)
    for call, types in PROTOTYPES.items():
        if hasattr(calls, call):
            getattr(calls, call).argtypes = types
            getattr(calls, call).restype = ctypes.c_char_p if call.endswith(("String", "LastError")) else ctypes.c_int
    return calls


@cache
def _opened(communicator: Communicator, device: GpuDevice) -> Library | Unsupported:
    kind = "NCCL" if device.name == "cuda" else "RCCL"
    found = find_library(device.name)
    version = ctypes.c_int()
    if not isinstance(found, Unsupported):
        calls = load(found[0])
        calls.ncclGetVersion(ctypes.byref(version))
    everyone = communicator.all_gather((found, version.value, device.sharers))
    lacking = [(rank, what.reason) for rank, (what, _, _) in enumerate(everyone) if isinstance(what, Unsupported)]
    if lacking:
        rank, reason = lacking[0]
        return Unsupported(reason if len(lacking) == communicator.size else f"on rank {rank}, {reason}")
    if len(versions := {release(number) for _, number, _ in everyone}) > 1:
        return Unsupported(f"ranks have {kind} {' and '.join(sorted(versions))}")
    assert not isinstance(found, Unsupported)
    sharers = max(sharing for _, _, sharing in everyone)
    if sharers > 2 or (sharers > 1 and (kind == "RCCL" or version.value < SHARING_SINCE)):
        return Unsupported(f"{kind} {release(version.value)} wants one GPU a rank, and {sharers} ranks share one; NCCL "
                           "2.30 with NCCL_MULTI_RANK_GPU_ENABLE=1 can let two")
    library = Library(calls, kind, version.value, found[1], sharers > 1)
    if library.shared:
        library.environment["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    if "NCCL_DEBUG_FILE" not in os.environ:
        # INIT tells of channels, ENV of variables that were read; TUNING would tell of each call, and be timed.
        asked, log = os.environ.get("NCCL_DEBUG", ""), os.memfd_create("log")
        library.log = os.fdopen(log, encoding="utf-8", errors="replace")  # it quotes paths and variables
        library.environment |= {"NCCL_DEBUG": asked if asked.upper() in ("INFO", "TRACE") else "INFO",
                                "NCCL_DEBUG_SUBSYS": os.environ.get("NCCL_DEBUG_SUBSYS", "INIT,ENV"),
                                "NCCL_DEBUG_FILE": f"/proc/self/fd/{log}"}
    return library


def open_library(world: World) -> Library | Unsupported:
    """The library of this world's device, the same one each time; all ranks call it together at first."""
    assert isinstance(world.device, GpuDevice)
    return _opened(world.communicator, world.device)


def agree(world: World, complaint: str) -> None:
    """Raises DeviceError on all ranks, with one sentence, where one has a complaint."""
    said = [(rank, words) for rank, words in enumerate(world.communicator.all_gather(complaint)) if words]
    if said:
        # To the others a rank that failed is a remote process that has gone.
        rank, words = min(said, key=lambda what: "remote process" in what[1])
        raise DeviceError(f"rank {rank}: {words}")


def connect(world: World, library: Library, label: str) -> int:
    """The communicator of that label, made at its first use by all ranks; NAME=VALUE is set while it is made.

    Raises DeviceError, on all ranks, naming rank and call.
    """
    if label in library.communicators:
        return library.communicators[label]
    ranks, handle, unique, status = world.communicator, ctypes.c_void_p(), UniqueId(), 0
    with environment(library.environment | (dict([label.split("=")]) if "=" in label else {})):
        if ranks.rank == 0:
            status = library.calls.ncclGetUniqueId(ctypes.byref(unique))
        agree(world, library.complaint("ncclGetUniqueId", status))
        unique = UniqueId.from_buffer_copy(ranks.broadcast(bytes(unique)))
        status = library.calls.ncclCommInitRank(ctypes.byref(handle), ranks.size, unique, ranks.rank)
        agree(world, library.complaint("ncclCommInitRank", status))
    library.communicators[label] = handle.value or 0
    return library.communicators[label]


def listen(library: Library, label: str) -> None:
    """Keeps what the library has said since the last time; who set NCCL_DEBUG sees it on standard error."""
    news = library.log.read() if library.log else ""
    library.said[label] = library.said.get(label, "") + news
    if asked := os.environ.get("NCCL_DEBUG"):
        shown = news.splitlines() if asked.upper() in ("INFO", "TRACE") else re.findall(r".*NCCL WARN.*", news)
        print(*shown, sep="\n", end="\n" if shown else "", file=sys.stderr)


def transports(text: str) -> dict[str, list[str]]:
    """The ways between ranks that a log of NCCL or RCCL tells: {"0 -> 1": ["P2P/CUMEM"], ...}."""
    line = re.compile(r"(?:Channel|Ring) \d+(?:/\d+)? : (\d+)(?:\[\w+\])? -> (\d+)(?:\[\w+\])? "
                      r"(?:\[(?:send|receive)\] )?via (P2P/direct pointer\S*|direct shared memory|\S+)")
    found: dict[str, list[str]] = {}
    for source, target, way in dict.fromkeys(line.findall(text)):
        found.setdefault(f"{source} -> {target}", []).append(way)
    return found


def channels(text: str) -> dict[str, int]:
    """How many channels of each kind the last communicator in a log has: {"coll": 2, "nvls": 0, "p2p": 2}."""
    lines = re.findall(r"\d+ coll channels.*", text)
    return {kind: int(n) for n, kind in re.findall(r"(\d+) (\w+) channels(?! per)", lines[-1])} if lines else {}


def algorithms(text: str) -> list[str]:
    """What a log says of how messages were handled, where NCCL_DEBUG_SUBSYS has TUNING."""
    return sorted(set(re.findall(r"\d+ Bytes -> (?:Algo \S+ proto|Kernel) \S+", text)))
