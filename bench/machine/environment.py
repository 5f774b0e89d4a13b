"""What this host is and what runs on it, as facts that say where they were read.

Every fact is {"value", "source", "status"}. What a machine does not show has the status "unknown", and its source then
says where a person could look: a virtual machine hides its governor and its turbo from its guests, and a guess would
be taken for a reading. Nothing here names the host, its user, a path or a serial number, unless `with_hostname` asks.
"""

import hashlib
import os
import platform
import re
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.machine.pci import text

Fact = dict[str, Any]
Environment = dict[str, Fact]

# What makes two machines the same machine, and two installations the same installation.
HARDWARE = ("cpu.model", "cpu.cores", "cpu.caches", "numa.nodes", "gpu.models", "gpu.links")
SOFTWARE = ("os.kernel", "gpu.driver", "gpu.runtime", "cupy.version", "python.version", "numpy.version",
            "mpi4py.version")

# Exact names only: a whole family, such as NCCL_*, has members that hold addresses and paths.
VARIABLES = (
    *(f"MPIR_CVAR_ALLREDUCE_{name}" for name in (
        "CCL", "COMPOSITION", "DEVICE_COLLECTIVE", "INTRA_ALGORITHM", "INTER_ALGORITHM", "POSIX_INTRA_ALGORITHM",
        "RECEXCH_KVAL", "SHM_PER_LEADER", "SHORT_MSG_SIZE", "TREE_KVAL", "TREE_TYPE")),
    *(f"MPIR_CVAR_{name}" for name in (
        "ASYNC_PROGRESS", "CH4_CMA_ENABLE", "CH4_IPC_CMA_P2P_THRESHOLD", "CH4_OFI_EAGER_THRESHOLD", "CH4_SHM",
        "CH4_SHM_POSIX_EAGER", "CH4_SHM_POSIX_IQUEUE_CELL_SIZE", "CH4_SHM_POSIX_IQUEUE_NUM_CELLS", "CH4_XPMEM_ENABLE",
        "COLLECTIVE_FALLBACK", "COLL_SHM_LIMIT_PER_NODE", "DEFAULT_THREAD_LEVEL", "DEVICE_COLLECTIVES", "NOLOCAL",
        "NUM_CLIQUES", "ODD_EVEN_CLIQUES", "POSIX_NUM_COLLS_THRESHOLD", "POSIX_POLL_FREQUENCY")),
    "OMPI_MCA_btl", "OMPI_MCA_coll", "OMPI_MCA_pml", "OMPI_MCA_coll_tuned_allreduce_algorithm",
    "I_MPI_ADJUST_ALLREDUCE", "I_MPI_FABRICS", "I_MPI_PIN", "FI_PROVIDER", "UCX_NET_DEVICES", "UCX_RNDV_THRESH",
    "UCX_TLS", "CXX", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND", "OPENBLAS_NUM_THREADS",
    "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_MODULE_LOADING", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
    "HSA_ENABLE_IPC_MODE_LEGACY", "HSA_ENABLE_SDMA", "HSA_FORCE_FINE_GRAIN_PCIE", "ROCR_VISIBLE_DEVICES",
    *(f"NCCL_{name}" for name in (
        "ALGO", "BUFFSIZE", "CUMEM_ENABLE", "LAUNCH_ORDER_IMPLICIT", "MAX_CTAS", "MAX_NCHANNELS", "MIN_CTAS",
        "MIN_NCHANNELS", "MULTI_RANK_GPU_ENABLE", "NTHREADS", "NVLS_ENABLE", "P2P_DISABLE", "P2P_LEVEL", "PROTO",
        "SHM_DISABLE", "WIN_ENABLE")),
)  # fmt: skip

# Words and numbers as these variables take them. Dots outside a number, and anything long, could name a host or a card.
_PLAIN = re.compile(r"(?!.{33})(?:[\w,^=+*-]*|\d+\.\d+)")
_PATH_OPTIONS = ("--out", "--output_file", "-J", "--table", "--tuned")
_HYPERVISORS = ("KVM", "QEMU", "VMware", "VirtualBox", "Virtual Machine", "Xen", "HVM", "Google", "Amazon EC2")


def describe(*, compiler: str | None = None, with_hostname: bool = False, root: Path = Path("/"),
             variables: Mapping[str, str] = os.environ) -> Environment:
    """The facts of the host that this process runs on, by name; sizes in bytes, shares from 0 to 1.

    `compiler` is its name and version, as the device that compiles knows them. `root` is where /proc and /sys are
    looked for. Raises nothing for what cannot be read: that is an unknown fact.
    """
    stolen = steal_share((0, 0), cpu_ticks(root=root))
    facts: Environment = {
        **_cpu_facts(root),
        "memory.total_bytes": _read(root, "proc/meminfo", "free -b", _total_bytes),
        "memory.transparent_huge_pages": _read(
            root, "sys/kernel/mm/transparent_hugepage/enabled", "the kernel's configuration",
            lambda choices: "".join(re.findall(r"\[(\w+)\]", choices))),
        "numa.nodes": _read(root, "sys/devices/system/node/online", "numactl --hardware", _count_list),
        "os.kernel": _read(root, "proc/sys/kernel/osrelease", "uname -r"),
        "os.clocksource": _read(root, "sys/devices/system/clocksource/clocksource0/current_clocksource",
                                "the kernel's log"),
        "os.virtualisation": _virtualisation(root),
        "os.load_1min": _read(root, "proc/loadavg", "uptime", lambda loads: float(loads.split()[0])),
        "os.steal_share_since_boot": _fact(stolen, "/proc/stat", "the st column of top"),
        "os.cgroup_cpu_quota": _cpu_quota(root),
        "python.version": _fact(platform.python_version(), "platform"),
        "numpy.version": _fact(version("numpy"), "package metadata"),
        "mpi4py.version": _fact(version("mpi4py"), "package metadata"),
        "compiler": _fact(compiler and scrub_value(compiler, words=True), "the compiler itself", "$CXX --version")}
    given = {f"env.{name}": variables[name] for name in VARIABLES if name in variables}
    facts |= {name: _fact(scrub_value(value), "environment variable") for name, value in given.items()}
    return facts | ({"host.name": _fact(socket.gethostname(), "gethostname")} if with_hostname else {})


def machine_id(env: Environment) -> str:
    """Twelve hexadecimal digits that two hosts share if their hardware is the same, whatever runs on them."""
    return _hash(f"{name}={env[name]['value']}" for name in HARDWARE if name in env)


def software_id(env: Environment, library: str, compiler: str) -> str:
    """Twelve hexadecimal digits of what runs: kernel, driver, Python, numpy, the baseline library and the compiler."""
    facts = [f"{name}={env[name]['value']}" for name in SOFTWARE if name in env]
    return _hash([*facts, f"library={library}", f"compiler={compiler}"])


def cpu_ticks(cpus: Collection[int] = (), root: Path = Path("/")) -> tuple[int, int] | None:
    """Ticks since boot that the hypervisor withheld from these CPUs (none: from all), and all their ticks; None where
    the kernel does not count them."""
    names = [f"cpu{cpu}" for cpu in cpus] or ["cpu"]
    rows = [line.split() for line in text(root / "proc/stat").splitlines()]
    # Guest ticks, the last two columns, are already within user ticks.
    ticks = [[int(tick) for tick in row[1:9]] for row in rows if row[0] in names]
    return (sum(of_cpu[7] for of_cpu in ticks), sum(map(sum, ticks))) if ticks else None


def steal_share(before: tuple[int, int] | None, now: tuple[int, int] | None) -> float | None:
    """What the hypervisor withheld between two readings of `cpu_ticks`, from 0 to 1; None where either is unknown."""
    return round((now[0] - before[0]) / max(now[1] - before[1], 1), 4) if before and now else None


def siblings(cpus: Collection[int], root: Path = Path("/")) -> Fact:
    """Of these CPUs, those that are hardware threads of one physical core: "0-4 1-5", or "none"."""
    path = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores: dict[str, list[int]] = {}
    for cpu in sorted(cpus):
        cores.setdefault(text(root / path.format(cpu)), []).append(cpu)
    shared = ["-".join(map(str, core)) for core in cores.values() if len(core) > 1]
    return _fact(None if "" in cores else " ".join(shared) or "none", "/" + path.format("*"), "lscpu -e")


def threats(env: Environment, ranks: Sequence[tuple[int, Collection[int]]] = ()) -> list[str]:
    """Sentences on what here can move a measured time without the code under test having changed. `ranks` are those on
    this host, each with the CPUs that it may use."""
    known = {name: fact["value"] for name, fact in env.items() if fact["status"] == "ok"}
    found = []
    if known.get("os.virtualisation", "none") != "none":
        found.append(f"This is a virtual machine ({known['os.virtualisation']}): its host may move or stop its cores.")
    if known.get("cpu.governor", "performance") != "performance":
        found.append(f"The CPU's governor is {known['cpu.governor']}: a measurement may start below the full clock.")
    if known.get("os.load_1min", 0.0) > 0.5:
        found.append(f"The load was {known['os.load_1min']:.1f} over the minute before: other work may use the cores.")
    if known.get("cpu.turbo", False):
        found.append("Turbo is on: clocks follow temperature and what the other cores do.")
    if throttled := known.get("cpu.throttled_since_boot", 0):
        found.append(f"Heat has throttled the CPU {throttled} times since boot: it may do so again in mid-run.")
    if (why := known.get("gpu.throttle_reasons", "none")) != "none":
        found.append(f"A GPU was held back when the run began ({why}): its clocks are not those of another day.")
    if known.get("cpu.smt", False):
        found.append("Hardware threads share cores (SMT): other work on a rank's core slows it down.")
    for core in known.get("cpu.smt_siblings", "none").replace("none", "").split():
        on_it = [str(rank) for rank, cpus in ranks if {*map(int, core.split("-"))}.issuperset(cpus)]
        if len(on_it) > 1:
            found.append(f"Ranks {' and '.join(on_it)} share a physical core (CPUs {core}): they slow each other down.")
    quota = known.get("os.cgroup_cpu_quota", "none")
    if quota != "none" and quota < known.get("cpu.logical", float("inf")):
        found.append(f"A control group grants {quota:g} CPUs: once they are used up, ranks stop in mid-run.")
    if known.get("os.steal_share_since_boot", 0.0) > 0.01:
        found.append(f"The hypervisor has withheld {known['os.steal_share_since_boot']:.0%} of CPU time since boot.")
    return found


def scrub_argv(argv: Sequence[str]) -> list[str]:
    """The command line with "<path>" for what is a path and "<set>" for what may hold an address."""
    scrubbed = []
    for before, argument in zip(["", *argv], argv, strict=False):
        long_option = re.fullmatch(r"(--[\w-]+)=(.*)", argument, re.DOTALL)
        option, value = long_option.groups() if long_option else ("", argument)
        if before in _PATH_OPTIONS or option in _PATH_OPTIONS or re.search(r"[/\\]|^~", value):
            value = "<path>"
        elif value.startswith("-J") and value != "-J":
            value = "-J<path>"
        elif re.search(r"[:@]|\d+\.\d+\.\d+", value):
            value = "<set>"
        scrubbed.append(f"{option}={value}" if option else value)
    return scrubbed


def scrub_value(value: str, *, words: bool = False) -> str:
    """The value, or "<set>" where it could hold a path, an address, a host's name or a serial number.

    With `words`, text of several words such as a compiler's version, of which only those with a slash, a colon or an
    at sign are replaced.
    """
    if words:
        return " ".join("<set>" if re.search(r"[/:@\\]", word) else word for word in value.split())
    return value if _PLAIN.fullmatch(value) else "<set>"


def _fact(value: Any, source: str, look_at: str = "") -> Fact:
    if value is None or value == "":
        return {"value": "unknown", "source": f"not in {source}; look at {look_at}", "status": "unknown"}
    return {"value": value, "source": source, "status": "ok"}


def _read(root: Path, path: str, look_at: str, parse: Callable[[str], Any] = str) -> Fact:
    """What the file holds; where there are several by this pattern, what is in them, each once, in order."""
    found = " ".join(sorted(set(filter(None, map(text, root.glob(path))))))
    return _fact(parse(found) if found else None, f"/{path}", look_at)


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _cpu_facts(root: Path) -> Environment:
    listed: dict[str, str] = dict(
        re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", text(root / "proc/cpuinfo"), re.MULTILINE))
    model = listed.get("model name")
    if model is None and "CPU part" in listed:  # Arm numbers its cores instead of naming them
        model = f"implementer {listed.get('CPU implementer')} part {listed['CPU part']}"
    flags = set(listed.get("flags", listed.get("Features", "")).split())
    cores = {(text(path / "physical_package_id"), text(path / "core_id"))
             for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/topology")}
    facts = {
        "cpu.model": _fact(model, "/proc/cpuinfo", "lscpu"),
        "cpu.cores": _fact(len(cores) or None, "/sys/devices/system/cpu/*/topology", "lscpu"),
        "cpu.logical": _read(root, "sys/devices/system/cpu/online", "nproc", _count_list),
        "cpu.caches": _fact(_caches(root), "/sys/devices/system/cpu/*/cache", "lscpu -C"),
        "cpu.smt": _read(root, "sys/devices/system/cpu/smt/active", "lscpu", lambda active: active == "1"),
        "cpu.governor": _read(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
                              "cpupower frequency-info, on the host of a virtual machine"),
        "cpu.turbo": _turbo(root),
        "cpu.throttled_since_boot": _throttled(root)}
    for name, flag in (("avx512", "avx512f"), ("avx2", "avx2"), ("f16c", "f16c")):
        facts[f"cpu.flags.{name}"] = _fact(flag in flags if flags else None, "/proc/cpuinfo", "lscpu")
    return facts


def _caches(root: Path) -> str:
    """Such as "L1d 32K x 2, L2 1024K x 2, L3 32768K x 1": size of one, times how many there are."""
    found: dict[str, set[str]] = {}
    for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cache/index[0-9]*"):
        level, kind, size, shared = (text(path / name) for name in ("level", "type", "size", "shared_cpu_list"))
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
        found.setdefault(f"L{level}{suffix} {size}", set()).add(shared)
    return ", ".join(f"{name} x {len(shared)}" for name, shared in sorted(found.items()))


def _turbo(root: Path) -> Fact:
    intel = _read(root, "sys/devices/system/cpu/intel_pstate/no_turbo", "", lambda off: off == "0")
    other = _read(root, "sys/devices/system/cpu/cpufreq/boost",
                  "the firmware's set-up, on the host of a virtual machine", lambda on: on == "1")
    return intel if intel["status"] == "ok" else other


def _throttled(root: Path) -> Fact:
    """How often heat has lowered a core's clock; hardware threads of one core count alike."""
    path = "devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"
    counts = [int(text(found) or 0) for found in (root / "sys").glob(path)]
    return _fact(sum(counts) if counts else None, f"/sys/{path}", "the kernel's log, or sensors")


def _total_bytes(meminfo: str) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _count_list(listed: str) -> int:
    """How many numbers a kernel list such as "0-3,8" names."""
    ends = [[int(end) for end in part.split("-")] for part in listed.split(",")]
    return sum(end[-1] - end[0] + 1 for end in ends)


def _virtualisation(root: Path) -> Fact:
    """The hypervisor's kind, "none" on bare metal. DMI is believed only where it names a known hypervisor."""
    if named := text(root / "sys/hypervisor/type"):
        return _fact(named, "/sys/hypervisor/type")
    dmi = " ".join(text(root / f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    for hypervisor in _HYPERVISORS:
        if hypervisor in dmi and "metal" not in dmi:
            return _fact(hypervisor, "/sys/class/dmi/id")
    flags = re.search(r"^flags\s*:(.*)$", text(root / "proc/cpuinfo"), re.MULTILINE)
    kind = None if flags is None else "unnamed hypervisor" if " hypervisor" in flags[1] else "none"
    return _fact(kind, "/proc/cpuinfo", "systemd-detect-virt")


def _cpu_quota(root: Path) -> Fact:
    """The CPUs that the tightest control group above this process grants, or "none"."""
    own = dict(re.findall(r"^\d+:([^:]*):(/.*)$", text(root / "proc/self/cgroup"), re.MULTILINE))
    granted = []
    for controllers, path in own.items():
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        for group in (mount / path.strip("/"), *(mount / parent for parent in Path(path.strip("/")).parents)):
            if controllers:
                limit = [text(group / f"cpu.cfs_{name}_us") or "-1" for name in ("quota", "period")]
            else:
                limit = (text(group / "cpu.max") or "max").split()
            if limit[0] not in ("max", "-1"):
                granted.append(int(limit[0]) / int(limit[1]))
    return _fact(min(granted, default="none") if own else None, "control groups", "cpu.max of its control group")


def gpu_facts(ranks: Sequence[Mapping[str, Any]]) -> Environment:
    """The GPUs of a run, from what its ranks say of theirs; nothing where they run on CPUs."""
    gpus = [rank for rank in ranks if "gpu" in rank]
    if not gpus:
        return {}
    reasons = None if any(gpu.get("throttle") is None for gpu in gpus) else {r for gpu in gpus for r in gpu["throttle"]}
    throttle = None if reasons is None else " ".join(sorted(reasons)) or "none"
    read = {"gpu.models": "gpu", "gpu.driver": "driver", "gpu.runtime": "runtime", "cupy.version": "cupy"}
    facts = {name: _fact(sorted({str(gpu[key]) for gpu in gpus}), "CuPy") for name, key in read.items()}
    return facts | {"gpu.throttle_reasons": _fact(throttle, "NVML", "nvidia-smi -q -d PERFORMANCE, or amd-smi metric")}


def numa_node(cpu: int, root: Path = Path("/")) -> int | None:
    """The NUMA node of a CPU; None where the kernel does not say."""
    nodes = sorted((root / f"sys/devices/system/cpu/cpu{cpu}").glob("node[0-9]*"))
    return int(nodes[0].name.removeprefix("node")) if nodes else None
