"""Asks the GPU drivers for load, throttling, memory, clocks, NVLinks and peer access: NVIDIA's by
NVML (pynvml), AMD's by amdgpu's files in /sys. What a driver does not give is left out."""

import re
from contextlib import suppress
from functools import cache
from typing import Any

from bench.machine import pci
from bench.machine.files import whole

Facts = dict[str, Any]  # as the head of a run stores it

# NVML_P2P_STATUS_* from 0 on, by the letters of `nvidia-smi topo -p2p`.
PEER_STATUS = {
    "OK": "the driver allows it",
    "CNS": "the driver does not support this chipset or root complex",
    "GNS": "the driver does not support this model, nor most GeForce cards",
    "TNS": "the driver does not support this topology",
    "DR": "RegistryDwords in /proc/driver/nvidia/params disables it",
    "NS": "the driver does not support it",
}
IDLE_PERCENT = 10  # of time and of memory: a desktop draws, and a driver keeps some
SM_CLOCK, MEMORY_CLOCK = 1, 2  # NVML_CLOCK_*
READ = 0  # NVML_P2P_CAPS_INDEX_READ, for which pynvml has a tuple
THROTTLES = (
    "SwPowerCap",
    "HwSlowdown",
    "SyncBoost",
    "SwThermalSlowdown",
    "HwThermalSlowdown",
    "HwPowerBrakeSlowdown",
)


@cache
def nvml() -> Any:
    """pynvml, initialised; None if it is not installed or the host has no NVIDIA driver."""
    with suppress(Exception):  # its errors differ between versions, and it is optional
        import pynvml

        pynvml.nvmlInit()
        return pynvml
    return None


def ask(function: str, *arguments: Any) -> Any:
    """The answer of NVML; None if it has no such function or refuses."""
    with suppress(Exception):
        return getattr(nvml(), function)(*arguments)


@cache
def handle(bus_id: str) -> Any:
    """NVML's handle of a GPU; None if it does not know the GPU."""
    return ask("nvmlDeviceGetHandleByPciBusId", bus_id)


def serial(bus_id: str) -> str | None:
    """A GPU's serial number, as amdgpu's unique_id; otherwise its UUID; None if no driver tells."""
    own, uuid = (ask(f"nvmlDeviceGet{name}", handle(bus_id)) for name in ("Serial", "UUID"))
    return own or uuid or pci.attribute(bus_id, "unique_id") or None


def throttle_reasons(bus_id: str) -> list[str] | None:
    """Why an NVIDIA GPU is slower than its clocks now; None where no driver tells."""
    reasons = ask("nvmlDeviceGetCurrentClocksEventReasons", handle(bus_id))
    bits = {name: getattr(nvml(), f"nvmlClocksEventReason{name}", 0) for name in THROTTLES}
    return None if reasons is None else [name for name, bit in bits.items() if reasons & bit]


def in_use(bus_id: str) -> str | None:
    """A sentence if others use the GPU, for a process that has not opened it."""
    gpu = handle(bus_id)
    if gpu is None:
        busy, used, total = (
            whole(pci.attribute(bus_id, name)) or 0
            for name in ("gpu_busy_percent", "mem_info_vram_used", "mem_info_vram_total")
        )
    else:
        rates, memory = (
            ask(f"nvmlDeviceGet{name}", gpu) for name in ("UtilizationRates", "MemoryInfo")
        )
        busy = rates.gpu if rates else 0
        used, total = (memory.used, memory.total) if memory else (0, 0)
    if busy > 100 or used > total:  # the driver does not know
        return None
    taken = used / (total or 1)
    if busy <= IDLE_PERCENT and taken <= IDLE_PERCENT / 100:
        return None
    return (
        f"GPU {bus_id} is in use: {busy} % busy, {taken:.0%} of its memory taken. Its times are "
        "longer, and less memory is free."
    )


def intel_gpus() -> list[str]:
    """A sentence if Intel's cards are here, which no code of ours can use; [] without."""
    cards = ", ".join(pci.intel_cards())
    sentence = (
        f"Intel's GPUs are not supported, and not measured: {cards}; oneCCL's benchmark measures "
        "them (docs/gpu.md)."
    )
    return [sentence] if cards else []


def nvidia_gpu(bus_id: str) -> Facts:
    """Name, architecture, memory and BAR1 in bytes, NVLinks, VBIOS, ECC, power cap and clocks of a
    GPU, without those that NVML does not give; {} if it does not know the GPU."""
    gpu = handle(bus_id)
    if gpu is None:
        return {}
    memory = ask("nvmlDeviceGetMemoryInfo", gpu)
    bar1 = ask("nvmlDeviceGetBAR1MemoryInfo", gpu)
    ecc, cap_mw = (ask(f"nvmlDeviceGet{name}", gpu) for name in ("EccMode", "EnforcedPowerLimit"))
    clocks = [ask("nvmlDeviceGetClockInfo", gpu, kind) for kind in (SM_CLOCK, MEMORY_CLOCK)]
    capability = ask("nvmlDeviceGetCudaComputeCapability", gpu)
    links = (_nvlink(gpu, link) for link in range(nvml().NVML_NVLINK_MAX_LINKS))
    facts = {
        "name": ask("nvmlDeviceGetName", gpu),
        "arch": capability and f"sm_{capability[0]}{capability[1]}",
        "memory_bytes": memory and memory.total,
        "bar_bytes": bar1 and bar1.bar1Total,
        "nvlinks": [link for link in links if link],
        "vbios": ask("nvmlDeviceGetVbiosVersion", gpu),
        "ecc": ecc and bool(ecc[0]),
        "cap_w": cap_mw and cap_mw // 1000,
        "clocks_mhz": None if None in clocks else "/".join(map(str, clocks)),
    }
    return {name: value for name, value in facts.items() if value is not None}


def amd_card(bus_id: str) -> Facts:
    """Memory in bytes and its maker, VBIOS, ECC, power cap and clocks of a GPU from amdgpu; None if
    unknown."""
    memory, vendor, vbios, errors, cap_uw = (
        pci.attribute(bus_id, name)
        for name in (
            "mem_info_vram_total",
            "mem_info_vram_vendor",
            "vbios_version",
            "ras/umc_err_count",
            "hwmon/*/power1_cap",
        )
    )
    cap = whole(cap_uw)
    return {
        "memory_bytes": whole(memory) or None,
        "memory_vendor": vendor or None,
        "vbios": vbios or None,
        "ecc": True if errors else None,  # amdgpu counts errors only where ECC is on
        "cap_w": cap and cap // 10**6,
        "clocks_mhz": amd_clocks(bus_id),
    }


def amd_clocks(bus_id: str) -> str | None:
    """The clocks of the cores and of the memory in MHz, joined by a slash; None if unknown."""
    tables = [pci.attribute(bus_id, f"pp_dpm_{kind}") for kind in ("sclk", "mclk")]
    return "/".join(re.findall(r"(\d+)Mhz \*", "\n".join(tables))) or None


def _nvlink(gpu: Any, link: int) -> Facts | None:
    """Whether an NVLink is up, and its other end: a bus id, `switch`, None if unknown."""
    up = ask("nvmlDeviceGetNvLinkState", gpu, link)
    if up is None:
        return None
    end = ask("nvmlDeviceGetNvLinkRemotePciInfo", gpu, link)
    bus_id = end and f"{end.domain:04x}:{end.bus:02x}:{end.device:02x}.0"
    kind = ask("nvmlDeviceGetNvLinkRemoteDeviceType", gpu, link)
    is_switch = kind == nvml().NVML_NVLINK_DEVICE_TYPE_SWITCH
    return {"up": up == nvml().NVML_FEATURE_ENABLED, "to": "switch" if is_switch else bus_id}


def nvidia_peer_status(reader: str, owner: str) -> str:
    """Whether a GPU may read another GPU's memory: a key of PEER_STATUS, or `unknown`."""
    status = ask("nvmlDeviceGetP2PStatus", handle(reader), handle(owner), READ)
    return dict(enumerate(PEER_STATUS)).get(status, "unknown")
