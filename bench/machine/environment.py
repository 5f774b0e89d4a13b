"""Describes this host and its software as facts, which the head of every run file holds.

A fact is {"value", "source", "status"}. If the machine does not show it, value and status are
"unknown" and the source says where a person can look. No fact names the host, its user, a path or
a serial number."""

import hashlib
import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from bench.machine import files
from bench.machine.files import is_hidden, read, whole
from bench.machine.placement import SIBLINGS, cores

Environment = dict[str, dict[str, Any]]  # facts by name

TABLES = msgspec.toml.decode(Path(__file__).with_suffix(".toml").read_bytes())
SETTINGS = [prefix + name for prefix, names in TABLES["settings"].items() for name in names.split()]
VARIABLES = [*SETTINGS, *TABLES["variables"].split()]
FACTS = TABLES["facts"]

# Words and numbers. A dot outside a number, or more than 32 characters, could name a host or card.
_PLAIN = re.compile(r"(?!.{33})(?:[\w,^=+*-]*|\d+\.\d+)")
# What NCCL_ALGO may have before a list of algorithms.
_COLLECTIVE = re.compile(r"(?:^|;)(?:allreduce|allgather|reducescatter|broadcast|reduce):", re.I)
_PATH_OPTIONS = ("--out", "--table", "--tuned")
_CPUS = "sys/devices/system/cpu"


def describe(compiler: str = "", more: Mapping[str, Any] = {}) -> Environment:
    """The facts of this host by name; shares from 0 to 1. `compiler` is the device's; `more` are
    values that only a run knows, None if unknown."""
    cpuinfo = _cpuinfo()
    model = cpuinfo.get("model name")
    if model is None and "CPU part" in cpuinfo:  # Arm numbers its cores instead of naming them
        model = f"implementer {cpuinfo.get('CPU implementer')} part {cpuinfo['CPU part']}"
    core_lists = set(map(read, files.ROOT.glob(SIBLINGS.format("[0-9]*"))))
    governors = set(map(read, files.ROOT.glob(f"{_CPUS}/cpu[0-9]*/cpufreq/scaling_governor")))
    no_turbo, boost = read(f"{_CPUS}/intel_pstate/no_turbo"), read(f"{_CPUS}/cpufreq/boost")
    turbo = {"0": True, "1": False}.get(no_turbo, {"0": False, "1": True}.get(boost))
    nodes = list(files.ROOT.glob("sys/devices/system/node/node[0-9]*"))
    # Such as "L1d 32K x 2, L2 1024K x 2, L3 32768K x 1": the size of a cache and their number.
    caches: dict[str, set[str]] = {}
    for path in files.ROOT.glob(f"{_CPUS}/cpu[0-9]*/cache/index[0-9]*"):
        level, kind, size, shared_by = (
            read(path / name) for name in ("level", "type", "size", "shared_cpu_list")
        )
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
        if re.fullmatch(r"[0-9] [0-9]{1,9}[KM]?", f"{level} {size}"):
            caches.setdefault(f"L{level}{suffix} {size}", set()).add(shared_by)
    counted = (f"{name} x {len(sharers)}" for name, sharers in sorted(caches.items()))
    load = re.match(r"[0-9]+\.[0-9]+(?= )", read("proc/loadavg"))
    values = {
        "cpu.model": model,
        "cpu.cores": len(core_lists) if core_lists and all(core_lists) else None,
        "cpu.logical": os.sysconf("SC_NPROCESSORS_ONLN"),
        "cpu.caches": ", ".join(counted),
        "cpu.governor": " ".join(sorted(filter(None, governors))),
        "cpu.turbo": turbo,
        "numa.nodes": len(nodes) or None,
        "os.kernel": platform.release(),
        "os.virtualisation": virtualisation(),
        "os.load_1min": float(load[0]) if load else None,
        "os.steal_share_since_boot": steal_share((0, 0), cpu_ticks()),
        "os.cgroup_cpu_quota": _cpu_quota(),
        "python.version": platform.python_version(),
        "numpy.version": version("numpy"),
        "mpi4py.version": version("mpi4py"),
        "compiler": re.sub(r"\S*[/:@\\]\S*", "<set>", compiler),
        **{
            f"env.{name}": scrub_value(os.environ[name]) for name in VARIABLES if name in os.environ
        },
        **more,
    }
    facts: Environment = {}
    for name, value in values.items():
        where = FACTS.get(name, {"source": "environment variable"})
        facts[name] = {"value": value, "source": where["source"], "status": "ok"}
        if value is None or value == "":
            source = f"not in {where['source']}; look at {where.get('look_at', 'it')}"
            facts[name] = {"value": "unknown", "source": source, "status": "unknown"}
    return facts


def identities(env: Environment, library: str, compiler: str) -> tuple[str, str]:
    """Twelve hexadecimal digits each for hardware and software; hosts with the same share them."""

    def digits(kind: str, *more: str) -> str:
        names = [name for name, row in FACTS.items() if row.get("identifies") == kind]
        lines = [f"{name}={env[name]['value']}" for name in names if name in env]
        return hashlib.sha256("\n".join([*lines, *more]).encode()).hexdigest()[:12]

    return digits("hardware"), digits("software", f"library={library}", f"compiler={compiler}")


def cpu_ticks(cpus: Collection[int] = ()) -> tuple[int, int] | None:
    """The ticks since boot, stolen and total, of these CPUs (default: all); None if unknown."""
    names = [f"cpu{cpu}" for cpu in cpus] or ["cpu"]
    rows = [line.split() for line in read("proc/stat").splitlines()]
    # Columns 9 and 10 are guest ticks, which user ticks already include.
    texts = [row[1:9] for row in rows if row and row[0] in names]
    ticks = [[tick for tick in map(whole, row) if tick is not None] for row in texts]
    if not ticks or any(len(row) < 8 for row in ticks):
        return None
    return sum(row[7] for row in ticks), sum(map(sum, ticks))


def steal_share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """The share of CPU time stolen between two readings of `cpu_ticks`, 0 to 1; None if unknown."""
    if not before or not after:
        return None
    return round((after[0] - before[0]) / max(after[1] - before[1], 1), 4)


def threats(env: Environment, ranks: Sequence[tuple[int, Collection[int]]] = ()) -> Iterator[str]:
    """Conditions that can change a measured time; `ranks` are this host's, with their CPUs."""
    values = {name: fact["value"] for name, fact in env.items() if fact["status"] == "ok"}
    for name, row in FACTS.items():
        if "threat" in row and name in values:
            value, harmless = values[name], row["harmless"]
            is_harmless = value == harmless if isinstance(value, str) else value <= harmless
            if not is_harmless:
                yield row["threat"].format(value)
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


def scrub_argv(argv: Sequence[str]) -> list[str]:
    """The command line with "<path>" for paths and "<set>" for possible addresses."""
    scrubbed = []
    for before, argument in zip(["", *argv], argv, strict=False):
        value = re.sub(r"^--[\w-]+=", "", argument)
        option = argument.removesuffix(value)
        is_path = before in _PATH_OPTIONS or option.rstrip("=") in _PATH_OPTIONS
        is_fraction = re.fullmatch(r"\d+/\d+", value)  # of --scale
        if (is_path and value != "none") or (re.search(r"[/\\]|^~", value) and not is_fraction):
            value = "<path>"
        elif re.search(r"[:@]|\d+\.\d+\.\d+", value):
            value = "<set>"
        scrubbed.append(option + value)
    return scrubbed


def scrub_value(value: str) -> str:
    """The value, or "<set>" if it could hold a path, an address, a host name or a serial number."""
    return value if _PLAIN.fullmatch(_COLLECTIVE.sub(",", value)) else "<set>"


def settings_of(collective: str = "") -> str | None:
    """The stored variables that set a library, or that choose how MPI performs a collective:
    `I_MPI_ADJUST_ALLREDUCE=2`; None if none is set."""
    word = collective.replace("all_", "all")
    names = [name for name in SETTINGS if word in name.lower() and name in os.environ]
    return " ".join(f"{name}={scrub_value(os.environ[name])}" for name in names) or None


def of_gpus(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The values of a run's GPUs for `describe`, from the facts of its ranks; {} on CPUs."""
    gpus = [rank for rank in ranks if "gpu" in rank]
    if not gpus:
        return {}
    values: dict[str, Any] = {
        name: sorted({str(gpu[row["of_rank"]]) for gpu in gpus})
        for name, row in FACTS.items()
        if "of_rank" in row
    }
    throttles = [gpu.get("throttle") for gpu in gpus]
    reasons = {reason for throttle in throttles for reason in throttle or ()}
    known = None if None in throttles else " ".join(sorted(reasons)) or "none"
    return values | {"gpu.throttle_reasons": known}


def numa_node(cpu: int) -> int | None:
    """The NUMA node of a CPU; None if the kernel does not show it."""
    nodes = sorted((files.ROOT / _CPUS / f"cpu{cpu}").glob("node[0-9]*"))
    return whole(nodes[0].name.removeprefix("node")) if nodes else None


def _cpuinfo() -> dict[str, str]:
    """The fields of the last CPU."""
    return dict(re.findall(r"^([^\t:]+?)\s*:[ \t]*(.*)$", read("proc/cpuinfo"), re.MULTILINE))


def virtualisation() -> str | None:
    """The kind of hypervisor, or "none"; None if unknown. DMI counts only if it names a known
    hypervisor."""
    dmi = " ".join(read(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))
    for hypervisor in TABLES["hypervisors"]:
        if hypervisor in dmi and "metal" not in dmi:
            return str(hypervisor)
    flags = _cpuinfo().get("flags", "").split()
    kind = "unnamed hypervisor" if "hypervisor" in flags else "none"
    return kind if flags else None


def _cpu_quota() -> float | str | None:
    """The number of CPUs that the tightest cgroup above this process grants, or "none"; None if
    the kernel shows no such limit, or one that is no number."""
    cgroups = re.findall(r"^\d+:([^:]*):(/.*)$", read("proc/self/cgroup"), re.MULTILINE)
    quotas = []
    for controllers, path in cgroups:  # version 2 names no controllers
        group = files.ROOT / "sys/fs/cgroup" / controllers / path.strip("/")
        for folder in (group, *group.parents):
            names = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
            limit = " ".join(read(folder / name) for name in names).split()
            if any(is_hidden(folder / name) for name in names):
                return None
            if limit and limit[0] not in ("max", "-1"):
                quota_us, period_us = [*map(whole, limit), None][:2]
                if not quota_us or not period_us:
                    return None
                quotas.append(quota_us / period_us)
    return min(quotas, default="none") if cgroups else None
