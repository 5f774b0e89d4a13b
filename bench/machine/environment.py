"""Describes this host and its software as facts, which the head of every run file holds.

A fact is {"value", "source", "status"}. If the machine does not show it, value and status are
"unknown" and the source says where a person can look. No fact names the host, its user, a path or
a serial number, except `host.name`, which is opt-in."""

import hashlib
import os
import platform
import re
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from bench.machine import files
from bench.machine.files import read
from bench.machine.placement import SIBLINGS, cores

Fact = dict[str, Any]
Environment = dict[str, Fact]

# The facts that identify a machine, and those that identify an installation.
HARDWARE = ("cpu.model", "cpu.cores", "cpu.caches", "numa.nodes", "gpu.models", "gpu.links")
SOFTWARE = (
    "os.kernel",
    "gpu.driver",
    "gpu.module",
    "gpu.runtime",
    "cupy.version",
    "python.version",
    "numpy.version",
    "mpi4py.version",
)

# Exact names only: a whole family, such as NCCL_*, has members that hold addresses and paths.
_FAMILIES = {
    "MPIR_CVAR_ALLREDUCE_": """
        CCL COMPOSITION DEVICE_COLLECTIVE INTRA_ALGORITHM INTER_ALGORITHM POSIX_INTRA_ALGORITHM
        RECEXCH_KVAL SHM_PER_LEADER SHORT_MSG_SIZE TREE_KVAL TREE_TYPE""",
    "MPIR_CVAR_": """
        ALLGATHER_INTRA_ALGORITHM ALLGATHER_POSIX_INTRA_ALGORITHM ALLTOALL_INTRA_ALGORITHM
        ALLTOALL_POSIX_INTRA_ALGORITHM ASYNC_PROGRESS BCAST_INTRANODE_BUFFER_TOTAL_SIZE
        CH4_CMA_ENABLE CH4_IPC_CMA_P2P_THRESHOLD CH4_NETMOD CH4_OFI_EAGER_THRESHOLD CH4_SHM
        CH4_SHM_POSIX_EAGER CH4_SHM_POSIX_IQUEUE_CELL_SIZE CH4_SHM_POSIX_IQUEUE_NUM_CELLS
        CH4_XPMEM_ENABLE COLLECTIVE_FALLBACK COLL_SHM_LIMIT_PER_NODE DEFAULT_THREAD_LEVEL
        DEVICE_COLLECTIVES NOLOCAL NUM_CLIQUES ODD_EVEN_CLIQUES POLLS_BEFORE_YIELD
        POSIX_NUM_COLLS_THRESHOLD POSIX_POLL_FREQUENCY REDUCE_INTRANODE_BUFFER_TOTAL_SIZE
        REDUCE_SCATTER_BLOCK_INTRA_ALGORITHM""",
    "OMPI_MCA_": """
        btl btl_sm_eager_limit btl_sm_fbox_size btl_sm_max_send_size btl_sm_rndv_eager_limit coll
        coll_sm_fragment_size coll_sm_priority coll_tuned_allgather_algorithm
        coll_tuned_allreduce_algorithm coll_tuned_allreduce_algorithm_segmentsize
        coll_tuned_alltoall_algorithm coll_tuned_reduce_scatter_block_algorithm
        coll_tuned_use_dynamic_rules mpi_yield_when_idle pml pml_ucx_devices pml_ucx_tls smsc""",
    "I_MPI_": """
        ADJUST_ALLGATHER ADJUST_ALLREDUCE ADJUST_ALLTOALL ADJUST_REDUCE_SCATTER_BLOCK FABRICS PIN
        SHM SHM_CELL_FWD_SIZE SHM_CMA SHM_HEAP THREAD_YIELD WAIT_MODE""",
    "NCCL_": """
        ALGO BUFFSIZE CUMEM_ENABLE LAUNCH_ORDER_IMPLICIT MAX_CTAS MAX_NCHANNELS MIN_CTAS
        MIN_NCHANNELS MULTI_RANK_GPU_ENABLE NTHREADS NVLS_ENABLE P2P_DISABLE P2P_LEVEL PROTO
        SHM_DISABLE WIN_ENABLE""",
    "": """
        FI_PROVIDER UCX_NET_DEVICES UCX_RNDV_THRESH UCX_TLS CXX MKL_NUM_THREADS OMP_NUM_THREADS
        OMP_PLACES OMP_PROC_BIND OPENBLAS_NUM_THREADS CUDA_DEVICE_MAX_CONNECTIONS
        CUDA_MODULE_LOADING CUDA_VISIBLE_DEVICES HIP_VISIBLE_DEVICES HSA_ENABLE_IPC_MODE_LEGACY
        HSA_ENABLE_SDMA HSA_FORCE_FINE_GRAIN_PCIE ROCR_VISIBLE_DEVICES
        """,
}
VARIABLES = [prefix + name for prefix, names in _FAMILIES.items() for name in names.split()]

# Words and numbers. A dot outside a number, or more than 32 characters, could name a host or card.
_PLAIN = re.compile(r"(?!.{33})(?:[\w,^=+*-]*|\d+\.\d+)")
_PATH_OPTIONS = ("--out", "--output_file", "-J", "--table", "--tuned")
_HYPERVISORS = (
    "KVM",
    "QEMU",
    "VMware",
    "VirtualBox",
    "Virtual Machine",
    "Xen",
    "HVM",
    "Google",
    "Amazon EC2",
)
_CPUS = "sys/devices/system/cpu"


def describe(compiler: str = "", with_hostname: bool = False) -> Environment:
    """The facts of this host by name; shares from 0 to 1. `compiler` is the device's."""
    load = read("proc/loadavg").split()
    facts: Environment = {
        **_cpu_facts(),
        "os.kernel": _fact(platform.release(), "uname"),
        "os.virtualisation": virtualisation(),
        "os.load_1min": _fact(float(load[0]) if load else None, "/proc/loadavg", "uptime"),
        "os.steal_share_since_boot": _fact(
            steal_share((0, 0), cpu_ticks()), "/proc/stat", "the st column of top"
        ),
        "os.cgroup_cpu_quota": _fact(
            _cpu_quota(), "control groups", "cpu.max of its control group"
        ),
        "python.version": _fact(platform.python_version(), "platform"),
        "numpy.version": _fact(version("numpy"), "package metadata"),
        "mpi4py.version": _fact(version("mpi4py"), "package metadata"),
        "compiler": _fact(
            re.sub(r"\S*[/:@\\]\S*", "<set>", compiler), "the compiler itself", "$CXX --version"
        ),
    }
    facts |= {
        f"env.{name}": _fact(scrub_value(os.environ[name]), "environment variable")
        for name in VARIABLES
        if name in os.environ
    }
    if with_hostname:
        facts["host.name"] = _fact(socket.gethostname(), "gethostname")
    return facts


def identities(env: Environment, library: str, compiler: str) -> tuple[str, str]:
    """Twelve hexadecimal digits each for hardware and software; hosts with the same share them."""

    def digits(names: Sequence[str], *more: str) -> str:
        lines = [f"{name}={env[name]['value']}" for name in names if name in env]
        return hashlib.sha256("\n".join([*lines, *more]).encode()).hexdigest()[:12]

    return digits(HARDWARE), digits(SOFTWARE, f"library={library}", f"compiler={compiler}")


def cpu_ticks(cpus: Collection[int] = ()) -> tuple[int, int] | None:
    """The ticks since boot, stolen and total, of these CPUs (default: all); None if unknown."""
    names = [f"cpu{cpu}" for cpu in cpus] or ["cpu"]
    rows = [line.split() for line in read("proc/stat").splitlines()]
    # Columns 9 and 10 are guest ticks, which user ticks already include.
    ticks = [[int(tick) for tick in row[1:9]] for row in rows if row[0] in names]
    return (sum(row[7] for row in ticks), sum(map(sum, ticks))) if ticks else None


def steal_share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """The share of CPU time stolen between two readings of `cpu_ticks`, 0 to 1; None if unknown."""
    if not before or not after:
        return None
    return round((after[0] - before[0]) / max(after[1] - before[1], 1), 4)


def threats(env: Environment, ranks: Sequence[tuple[int, Collection[int]]] = ()) -> Iterator[str]:
    """Conditions that can change a measured time; `ranks` are this host's, with their CPUs."""
    values = {name: fact["value"] for name, fact in env.items() if fact["status"] == "ok"}
    if (kind := values.get("os.virtualisation", "none")) != "none":
        yield f"This is a virtual machine ({kind}): its host may move or stop its cores."
    if (governor := values.get("cpu.governor", "performance")) != "performance":
        yield f"The CPU governor is {governor}: a measurement may start below the full clock."
    if (load := values.get("os.load_1min", 0.0)) > 0.5:
        yield f"The load was {load:.1f} over the minute before: other work may use the cores."
    if values.get("cpu.turbo", False):
        yield "Turbo is on: clocks depend on temperature and on the load of the other cores."
    if (reasons := values.get("gpu.throttle_reasons", "none")) != "none":
        yield f"A GPU was throttled when the run began ({reasons}): other runs may be faster."
    if values.get("cpu.logical", 0) > values.get("cpu.cores", float("inf")):
        yield "Hardware threads share cores (SMT): other work on a rank's core slows it down."
    for core in cores(sorted({cpu for _, cpus in ranks for cpu in cpus})):
        on_core = [str(rank) for rank, cpus in ranks if {*core} >= {*cpus}]
        if len(core) > 1 and len(on_core) > 1:
            yield (
                f"Ranks {' and '.join(on_core)} share a physical core (CPUs"
                f" {'-'.join(map(str, core))}): they slow each other down."
            )
    quota = values.get("os.cgroup_cpu_quota", "none")
    if quota != "none" and quota < values.get("cpu.logical", float("inf")):
        yield f"A cgroup grants {quota:g} CPUs: the kernel stops ranks in mid-run that use more."
    if (stolen := values.get("os.steal_share_since_boot", 0.0)) > 0.01:
        yield f"The hypervisor has withheld {stolen:.0%} of CPU time since boot."


def scrub_argv(argv: Sequence[str]) -> list[str]:
    """The command line with "<path>" for paths and "<set>" for possible addresses."""
    scrubbed = []
    for before, argument in zip(["", *argv], argv, strict=False):
        value = re.sub(r"^(--[\w-]+=|-J(?=.))", "", argument)
        option = argument.removesuffix(value)
        is_path = before in _PATH_OPTIONS or option.rstrip("=") in _PATH_OPTIONS
        if is_path or re.search(r"[/\\]|^~", value):
            value = "<path>"
        elif re.search(r"[:@]|\d+\.\d+\.\d+", value):
            value = "<set>"
        scrubbed.append(option + value)
    return scrubbed


def scrub_value(value: str) -> str:
    """The value, or "<set>" if it could hold a path, an address, a host name or a serial number."""
    return value if _PLAIN.fullmatch(value) else "<set>"


def gpu_facts(ranks: Sequence[Mapping[str, Any]]) -> Environment:
    """The GPUs of a run, from the facts of its ranks; {} on CPUs."""
    gpus = [rank for rank in ranks if "gpu" in rank]
    if not gpus:
        return {}
    keys = {
        "gpu.models": "gpu",
        "gpu.driver": "driver",
        "gpu.runtime": "runtime",
        "gpu.module": "module",
        "cupy.version": "cupy",
    }
    facts = {
        name: _fact(sorted({str(gpu[key]) for gpu in gpus}), "CuPy") for name, key in keys.items()
    }
    throttles = [gpu.get("throttle") for gpu in gpus]
    reasons = {reason for throttle in throttles for reason in throttle or ()}
    facts["gpu.throttle_reasons"] = _fact(
        None if None in throttles else " ".join(sorted(reasons)) or "none",
        "NVML",
        "nvidia-smi -q -d PERFORMANCE, or amd-smi metric",
    )
    return facts


def numa_node(cpu: int) -> int | None:
    """The NUMA node of a CPU; None if the kernel does not show it."""
    nodes = sorted((files.ROOT / _CPUS / f"cpu{cpu}").glob("node[0-9]*"))
    return int(nodes[0].name.removeprefix("node")) if nodes else None


def _fact(value: Any, source: str, look_at: str = "") -> Fact:
    if value is None or value == "":
        source = f"not in {source}; look at {look_at}"
        return {"value": "unknown", "source": source, "status": "unknown"}
    return {"value": value, "source": source, "status": "ok"}


def _cpuinfo() -> dict[str, str]:
    """The fields of the last CPU."""
    return dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", read("proc/cpuinfo"), re.MULTILINE))


def _cpu_facts() -> Environment:
    cpuinfo = _cpuinfo()
    model = cpuinfo.get("model name")
    if model is None and "CPU part" in cpuinfo:  # Arm numbers its cores instead of naming them
        model = f"implementer {cpuinfo.get('CPU implementer')} part {cpuinfo['CPU part']}"
    core_lists = set(map(read, files.ROOT.glob(SIBLINGS.format("[0-9]*"))))
    governors = set(map(read, files.ROOT.glob(f"{_CPUS}/cpu[0-9]*/cpufreq/scaling_governor")))
    no_turbo, boost = read(f"{_CPUS}/intel_pstate/no_turbo"), read(f"{_CPUS}/cpufreq/boost")
    turbo = no_turbo == "0" if no_turbo else boost and boost == "1"
    nodes = list(files.ROOT.glob("sys/devices/system/node/node[0-9]*"))
    return {
        "cpu.model": _fact(model, "/proc/cpuinfo", "lscpu"),
        "cpu.cores": _fact(len(core_lists) or None, "/" + SIBLINGS.format("*"), "lscpu"),
        "cpu.logical": _fact(os.sysconf("SC_NPROCESSORS_ONLN"), "sysconf"),
        "cpu.caches": _fact(_caches(), f"/{_CPUS}/*/cache", "lscpu -C"),
        "cpu.governor": _fact(
            " ".join(sorted(governors)),
            f"/{_CPUS}/*/cpufreq",
            "cpupower frequency-info, on the host of a virtual machine",
        ),
        "cpu.turbo": _fact(
            turbo, f"/{_CPUS}", "the firmware's set-up, on the host of a virtual machine"
        ),
        "numa.nodes": _fact(len(nodes) or None, "/sys/devices/system/node", "numactl --hardware"),
    }


def _caches() -> str:
    """Such as "L1d 32K x 2, L2 1024K x 2, L3 32768K x 1": the size of a cache and their number."""
    caches: dict[str, set[str]] = {}
    for path in files.ROOT.glob(f"{_CPUS}/cpu[0-9]*/cache/index[0-9]*"):
        level, kind, size, shared_by = (
            read(path / name) for name in ("level", "type", "size", "shared_cpu_list")
        )
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
        caches.setdefault(f"L{level}{suffix} {size}", set()).add(shared_by)
    return ", ".join(f"{name} x {len(sharers)}" for name, sharers in sorted(caches.items()))


def virtualisation() -> Fact:
    """The kind of hypervisor, or "none". DMI counts only if it names a known hypervisor."""
    dmi = " ".join(read(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    for hypervisor in _HYPERVISORS:
        if hypervisor in dmi and "metal" not in dmi:
            return _fact(hypervisor, "/sys/class/dmi/id")
    flags = _cpuinfo().get("flags", "").split()
    kind = "unnamed hypervisor" if "hypervisor" in flags else "none"
    return _fact(kind if flags else None, "/proc/cpuinfo", "systemd-detect-virt")


def _cpu_quota() -> float | str | None:
    """The number of CPUs that the tightest cgroup above this process grants, or "none"."""
    cgroups = re.findall(r"^\d+:([^:]*):(/.*)$", read("proc/self/cgroup"), re.MULTILINE)
    quotas = []
    for controllers, path in cgroups:  # version 2 names no controllers
        group = files.ROOT / "sys/fs/cgroup" / controllers / path.strip("/")
        for folder in (group, *group.parents):
            names = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
            limit = " ".join(read(folder / name) for name in names).split()
            if limit and limit[0] not in ("max", "-1"):
                quotas.append(int(limit[0]) / int(limit[1]))
    return min(quotas, default="none") if cgroups else None
