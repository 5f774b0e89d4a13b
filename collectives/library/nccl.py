"""Loads NCCL or RCCL, makes its communicators and reads its log, for gpu_library.py.

Its C functions are called by address, as MPI's are: a Python package would charge its own overhead
to the baseline. Beside torch it is the library that torch loads. Otherwise nccl4py brings NCCL if
it is installed, or CuPy does; CuPy for ROCm brings RCCL."""

import contextlib
import ctypes
import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ctypes import c_char_p, c_int, c_size_t, c_uint
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from collectives.communicator import Communicator, Refusal
from kernels.devices.device import DeviceError
from kernels.devices.gpu import GpuDevice
from kernels.devices.gpu_driver import wide
from kernels.devices.rocm_libraries import complaint

# By kind of device: the library's name and file, where it comes from, and the oldest: the first
# NCCL with ncclMemAlloc, RCCL of ROCm 7.0.
LIBRARIES = {
    "cuda": ("NCCL", "libnccl.so.2", "pip install nccl4py nvidia-nccl-cu13 (or -cu12)", 21900),
    "hip": ("RCCL", "librccl.so.1", "it comes with ROCm, as the package rccl", 22600),
}


class UniqueId(ctypes.Structure):
    """ncclUniqueId, by which the ranks of a communicator find each other."""

    _fields_ = [("internal", ctypes.c_uint8 * 128)]


UNDEFINED, MAGIC = -(2**31), 0xCAFEBEEF
# The first with symmetric windows, with all of Configuration, and with a log that can end: before,
# the library closes it beside its own threads.
WINDOWS_SINCE = 22700
OLD_CONFIGURATION_SINCE = 21700


class Configuration(ctypes.Structure):
    """ncclConfig_t of NCCL 2.27; later versions take it by its size. Versions 2.17 to 2.26 take the
    fields before commName: those without trafficClass have padding in its place."""

    _fields_ = (
        ("size", c_size_t),
        ("magic", c_uint),
        ("version", c_uint),
        ("blocking", c_int),  # since 2.14
        ("cgaClusterSize", c_int),  # this and the next three since 2.17
        ("minCTAs", c_int),
        ("maxCTAs", c_int),
        ("netName", c_char_p),
        ("splitShare", c_int),  # since 2.18
        ("trafficClass", c_int),  # since 2.26
        ("commName", c_char_p),  # this and all that follow since 2.27
        ("collnetEnable", c_int),
        ("CTAPolicy", c_int),
        ("shrinkShare", c_int),
        ("nvlsCTAs", c_int),
    )


def configuration(blocks: str | None, policy: str | None, version: int) -> bytes:
    """ncclConfig_t for this version of NCCL: the defaults, but for this number of blocks and, from
    2.27 on, this CTAPolicy. NCCL reads the variables of the same meaning once in a process."""
    ctas = int(blocks) if blocks else UNDEFINED
    config = Configuration(
        size=ctypes.sizeof(Configuration),
        magic=MAGIC,
        version=WINDOWS_SINCE,
        blocking=UNDEFINED,
        cgaClusterSize=UNDEFINED,
        minCTAs=ctas,
        maxCTAs=ctas,
        netName=None,
        splitShare=UNDEFINED,
        trafficClass=UNDEFINED,
        commName=None,
        collnetEnable=UNDEFINED,
        CTAPolicy=int(policy) if policy else UNDEFINED,
        shrinkShare=UNDEFINED,
        nvlsCTAs=UNDEFINED,
    )
    if version < WINDOWS_SINCE:
        config.version = OLD_CONFIGURATION_SINCE
        config.size = Configuration.commName.offset
    return bytes(config)[: config.size]


# Numbers of RCCL's nccl_common.h.
FUNCTIONS = {"ncclAllGather": 2, "ncclReduceScatter": 3, "ncclAllReduce": 4}
ALGORITHMS = "TREE", "RING", "COLLNET_DIRECT", "COLLNET_CHAIN", "NVLS", "NVLS_TREE", "PAT"
PROTOCOLS = "LL", "LL128", "SIMPLE"
# A line of NCCL_DEBUG_SUBSYS=TUNING for a kernel, a symmetric kernel or copy engines, by the source
# of 2.27 to 2.30 and the texts in the library 2.32.3.
DECISION = re.compile(
    r" Bytes -> (?:Algo (\w+) proto (\w+) channel\{Lo\.\.Hi\}=\{(\d+)\.\.(\d+)\}"
    r"|Kernel (\w+) nchannels (\d+)|(?:cudaMemcpy|(?:Rail \S+ )?RMA proxy \+ CE))"
)
COPY_ENGINES = "copy engines"
# What it says of a communicator whose windows are not symmetric: until 2.30 and in 2.32. NCCL then
# makes none, RCCL from 2.30.7 on some for other calls.
NOT_SYMMETRIC = re.compile(r"Symmetric memory is not supported|symmetricSupport 0\b")
# NCCL's envConfigOverride (src/init.cc, 2.19 to 2.30): these outweigh ncclConfig_t.
BLOCKS, POLICY = ("NCCL_MIN_CTAS", "NCCL_MAX_CTAS"), "NCCL_CTA_POLICY"
# On gfx12 LL has no memory order that makes stores visible (ROCm/rocm-systems issue 5480). Pull
# requests 6966 and 7183 of June 2026 repair it: too late for 2.28.3, and no list of changes names
# them, so the first release counts that certainly has them. 2.27.7 began to choose LL by itself.
LL_REPAIRED_SINCE = 23007

# Calls that progress together: each a name, a function and all its arguments.
Group = list[tuple[str, Callable[..., int], list[Any]]]


@dataclass
class Nccl:
    """NCCL or RCCL, loaded by all ranks. The labels of communicators are `plain`, `registered`,
    or settings such as `NCCL_PROTO=LL CTAs=4`: variables that the environment has while one is
    made, and `CTAs` and `CTAPolicy` of its configuration."""

    ranks: Communicator
    calls: ctypes.CDLL
    name: str
    version: int
    file: str  # where the library is, in words
    environment: dict[str, str] = field(default_factory=dict)
    log: TextIO | None = None
    communicators: dict[str, ctypes.c_void_p] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)  # the log text of each communicator
    refused: dict[str, str] = field(default_factory=dict)  # why a label is not used
    ignored: dict[str, str] = field(default_factory=dict)  # a label, where a call did not follow it
    resets_log: bool = False  # whether it can begin and end its log at any time
    own: dict[str, str] = field(default_factory=dict)  # variables that Wiretax set for the process
    outweighs: dict[str, str] = field(default_factory=dict)  # of any rank: BLOCKS and POLICY
    archs: frozenset[str] = frozenset()  # of all ranks' GPUs, which may be unlike

    def complaint(self, call: str, status: int) -> str:
        """The error message for a failed call, without paths and addresses; "" for success."""
        if not status:
            return ""
        error = self.calls.ncclGetErrorString(status).split(b" (run with")[0]
        words = error, self.calls.ncclGetLastError(None)
        text = ": ".join(w.decode(errors="replace").strip() for w in words if w)
        text = re.sub(r"(?<!\w)/\S+|\d+(?:\.\d+){3}\S*", "<set>", text)
        return f"{call} of {self.name} fails: {text}"

    def agree(self, complaint: str) -> None:
        """Raises DeviceError on all ranks, with one sentence, if any rank has a complaint."""
        every = enumerate(self.ranks.all_gather(complaint))
        if failures := [(text, rank) for rank, text in every if text]:
            # To the other ranks a failed rank is only a remote process that has exited.
            text, rank = min(failures, key=lambda failure: "remote process" in failure[0])
            raise DeviceError(f"rank {self.ranks.ranks[rank]}: {text}")

    def connect(self, label: str) -> ctypes.c_void_p:
        """The communicator with this label; all ranks make it, or all raise DeviceError."""
        if label in self.communicators:
            return self.communicators[label]
        handle, unique, status = ctypes.c_void_p(), UniqueId(), 0
        settings = settings_of(label)
        blocks, policy = settings.pop("CTAs", None), settings.pop("CTAPolicy", None)
        config = configuration(blocks, policy, self.version)
        with environment(settings), self.logging(label):
            if self.ranks.rank == 0:
                status = self.calls.ncclGetUniqueId(ctypes.byref(unique))
            self.agree(self.complaint("ncclGetUniqueId", status))
            unique = self.ranks.broadcast(unique)
            status = self.calls.ncclCommInitRankConfig(
                ctypes.byref(handle), self.ranks.size, unique, self.ranks.rank, config
            )
            self.agree(self.complaint("ncclCommInitRankConfig", status))
        self.communicators[label] = handle
        return handle

    def departure(self, label: str) -> str:
        """Why the communicator with this label is not what the label says, by its log; "" if it
        is."""
        log = self.logs.get(label, "")
        for name, value in settings_of(label).items():
            if name == "CTAs":
                have = channels(log).get("coll")
                if have is None:
                    return f"{self.name} does not say how many channels it has"
                if have != int(value):
                    return f"{self.name} has {counted(have)} all the same"
            elif name.startswith("NCCL_") and f"{name} set by environment to {value}" not in log:
                return f"{self.name} does not say that it read it"
        return ""

    def perform(self, groups: Sequence[Group]) -> str:
        """Enqueues the calls of each group until one fails; returns its error message, or ""."""
        for group in groups:
            if len(group) > 1:
                self.calls.ncclGroupStart()
            complaints = [self.complaint(name, call(*arguments)) for name, call, arguments in group]
            if len(group) > 1:
                complaints.append(self.complaint("ncclGroupEnd", self.calls.ncclGroupEnd()))
            if any(complaints):
                return next(filter(None, complaints))
        return ""

    def failure(self, handle: ctypes.c_void_p, title: str) -> str | None:
        status = ctypes.c_int()
        self.calls.ncclCommGetAsyncError(handle, ctypes.byref(status))
        return self.complaint(title, status.value) or None

    @contextlib.contextmanager
    def logging(self, label: str) -> Iterator[None]:
        """Adds what the library logs within it to the label's log. A library that can end its log
        logs its choices too, and nothing in timed calls, which that would slow down."""
        try:
            with environment(self.environment):
                self.reset_log()
                yield
                self.logs[label] = self.logs.get(label, "") + (self.log.read() if self.log else "")
        finally:
            self.reset_log()

    def reset_log(self) -> None:
        """Has the library read anew where it logs and what, and empties the file."""
        if self.log and self.resets_log:
            os.ftruncate(self.log.fileno(), 0)
            self.log.seek(0)
            self.calls.ncclResetDebugInit()

    def planned(self, label: str, name: str, arguments: tuple[int, ...]) -> str | None:
        """What RCCL would run for a call; None if it does not say. A kernel can take fewer
        channels, and copy engines or direct access can take its place."""
        if name not in FUNCTIONS or not hasattr(self.calls, "rcclGetAlgoInfo"):
            return None
        _, _, count, kind, *_ = arguments
        results = [ctypes.c_int() for _ in range(3)]
        call = self.communicators[label], FUNCTIONS[name], count, kind, 0, 0, 1
        status = self.calls.rcclGetAlgoInfo(*wide([*call, *map(ctypes.byref, results)]))
        algorithm, protocol, channels = (result.value for result in results)
        # RCCL has further algorithms behind NCCL's.
        if status or not (0 <= algorithm < len(ALGORITHMS) and 0 <= protocol < 3):
            return None
        return f"{ALGORITHMS[algorithm]} {PROTOCOLS[protocol]}, at most {counted(channels)}"


def settings_of(label: str) -> dict[str, str]:
    """The settings of a communicator's label: {"NCCL_PROTO": "LL", "CTAs": "4"}."""
    return dict(word.split("=") for word in label.split() if "=" in word)


def has_endless_ll(archs: Iterable[str], version: int) -> bool:
    """Whether this RCCL's LL protocol may never end on one of these architectures."""
    return version < LL_REPAIRED_SINCE and any(arch.startswith("gfx12") for arch in archs)


def release(version: int) -> str:
    """`2.32.3` for 23203."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


@contextlib.contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Sets these variables while a library reads them, then restores the environment."""
    before = {name: os.environ[name] for name in settings if name in os.environ}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def counted(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def library_of_torch(vendor: str) -> tuple[str | None, str]:
    """The path, or the name for the system's, of the library that torch loads, without the seconds
    that torch takes to load, or None without such a torch; and how ours then stands to torch's, in
    words. Its wheels for CUDA name NVIDIA's package in their RPATH (pytorch's .ci/manywheel,
    2025-11). Those for ROCm bring RCCL with a HIP of their own, which cannot share streams with the
    HIP that CuPy loads."""
    spec, file = find_spec("torch"), LIBRARIES[vendor][1]
    folder = Path((spec and spec.origin) or "/nowhere").parent
    if any(folder.glob("lib/librccl.so*")):
        return None, "; torch loads another, with a HIP of its own"
    if (folder / f"lib/libtorch_{vendor}.so").exists():
        wheel = folder.parent / "nvidia/nccl/lib" / file
        name = str(wheel) if wheel.exists() else file
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return name, ", which torch loads too"
    return None, ""


def loaded_file(vendor: str) -> str:
    """The file of the library that this process has loaded, from its package's folder on, and how
    it stands to torch's. Of a path elsewhere only the name, since a home names a user."""
    stem = LIBRARIES[vendor][1].split(".so")[0]
    paths = re.findall(rf"/\S*/{stem}\.so\S*", Path("/proc/self/maps").read_text())
    path = re.sub(r"^.*/(?:site|dist)-packages/", "", paths[0] if paths else "an unknown file")
    if path.startswith("/") and not path.startswith(("/usr/", "/opt/", "/lib")):
        path = Path(path).name
    return path + library_of_torch(vendor)[1]


def find_library(vendor: str) -> str:
    """The name or path of the shared library, which a package has loaded. Raises DeviceError."""
    kind, file, source, _ = LIBRARIES[vendor]
    if name := library_of_torch(vendor)[0]:
        return name
    if vendor == "cuda":
        with contextlib.suppress(ImportError, RuntimeError):  # it cannot load the library
            importlib.import_module("nccl.bindings.nccl").get_version()
            return file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without NCCL, CuPy prints five lines on each rank
        try:
            is_here = importlib.import_module("cupy.cuda.nccl").available
        except ImportError:  # AMD's bindings drive the GPU
            is_here = not complaint(file)
        if is_here:
            return file
    raise DeviceError(f"{kind} is not installed: {source}")


def open_nccl(ranks: Communicator, device: GpuDevice) -> Nccl:
    """Loads this device's library on all ranks, in one version. Raises Refusal."""
    (kind, *_, oldest), number = LIBRARIES[device.name], ctypes.c_int()
    with ranks.all_or_none():
        calls = ctypes.CDLL(find_library(device.name))
        calls.ncclGetErrorString.restype = calls.ncclGetLastError.restype = ctypes.c_char_p
        calls.ncclGetVersion(ctypes.byref(number))
    user = {name: os.environ[name] for name in (*BLOCKS, POLICY) if name in os.environ}
    own = number.value, device.sharers, user, "NCCL_PROTO" in os.environ, device.arch
    versions, sharing, users, protocols, archs = zip(*ranks.all_gather(own), strict=True)
    if len(releases := set(map(release, versions))) > 1:
        raise Refusal(f"ranks have {kind} {' and '.join(sorted(releases))}")
    sharers, name = max(sharing), f"{kind} {release(number.value)}"
    file = loaded_file(device.name)
    nccl = Nccl(ranks, calls, name, number.value, file, archs=frozenset(archs))
    for each in users:
        nccl.outweighs |= each
    if kind == "RCCL" and has_endless_ll(archs, nccl.version) and not any(protocols):
        # For the process: RCCL looks at its first call whether the variable is there, and chooses
        # LL by itself if not (rcclUpdateCollectiveProtocol in its rccl_wrap.cc), whatever a
        # communicator read.
        nccl.own = {"NCCL_PROTO": "Simple"}
        os.environ.update(nccl.own)
    if nccl.version < oldest:
        raise Refusal(f"{nccl.name} is older than {release(oldest)}")
    if sharers > 1 and "NCCL_MULTI_RANK_GPU_ENABLE" not in os.environ:
        raise Refusal(
            f"{nccl.name} needs one GPU a rank, and {sharers} ranks share one; from "
            "2.30 on, NCCL_MULTI_RANK_GPU_ENABLE=1 lets NCCL try with two"
        )
    if "NCCL_DEBUG_FILE" not in os.environ:
        resets = kind == "NCCL" and nccl.version >= WINDOWS_SINCE
        resets = resets and "NCCL_DEBUG" not in os.environ
        nccl.resets_log = resets and hasattr(calls, "ncclResetDebugInit")
        # INIT logs channels, ENV the variables that were read, TUNING each call's algorithm.
        log = os.memfd_create("log")
        nccl.log = os.fdopen(log, encoding="utf-8", errors="replace")  # it quotes paths, variables
        nccl.environment |= {
            "NCCL_DEBUG": "INFO",
            "NCCL_DEBUG_SUBSYS": "INIT,ENV,TUNING" if nccl.resets_log else "INIT,ENV",
            "NCCL_DEBUG_FILE": f"/proc/self/fd/{log}",
        }
    return nccl


def transports(text: str) -> dict[str, list[str]]:
    """The transports between ranks in a log: {"0 -> 1": ["P2P/CUMEM"], ...}."""
    line = (
        r"(?:Channel|Ring) \d+(?:/\d+)? : (\d+)(?:\[\w+\])? -> (\d+)(?:\[\w+\])? "
        r"(?:\[(?:send|receive)\] )?via (P2P/direct pointer\S*|direct shared memory|\S+)"
    )
    by_pair: dict[str, list[str]] = {}
    for source, target, transport in dict.fromkeys(re.findall(line, text)):
        by_pair.setdefault(f"{source} -> {target}", []).append(transport)
    return by_pair


def decision(text: str) -> str | None:
    """What the last call in a log ran: `RING SIMPLE, 24 channels`; None without a line on it."""
    lines = DECISION.findall(text)
    if not lines:
        return None
    algorithm, protocol, low, high, kernel, channels = lines[-1]
    if algorithm:
        return f"{algorithm} {protocol}, {counted(int(high) - int(low) + 1)}"
    return f"{kernel}, {counted(int(channels))}" if kernel else COPY_ENGINES


def variables(text: str) -> dict[str, str]:
    """The variables that the library read by a log, also those from its configuration file."""
    lines = re.findall(r"\b([NR]CCL_\w+) set by environment to (\S+)", text)
    return {name: value.rstrip(".") for name, value in lines}


def channels(text: str) -> dict[str, int]:
    """The channels of the last communicator in a log: {"coll": 2, "nvls": 0, "p2p": 2}."""
    lines = re.findall(r"\d+ coll channels.*", text)
    counts = re.findall(r"(\d+) (\w+) channels(?! per)", lines[-1]) if lines else []
    return {kind: int(n) for n, kind in counts}
