"""What a GPU's driver says of it: clocks, link and throttling now, its memory, NVLinks, and who can be its peer.

NVIDIA's driver is asked through NVML, AMD's through amdsmi, as ROCm brings it, and amdgpu's files. Nothing is raised
for what is not there or not answered: it is left out.
"""

import importlib
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from bench.machine.pci import GENERATION, attribute, links, narrowest, rates

# NVML's word on peers: nvidia-smi's letters for it in `topo -p2p`, and what it means.
PEER_STATUS = {
    "OK": ("OK", "allowed"),
    "CHIPSET_NOT_SUPPORTED": ("CNS", "NVIDIA's driver does not list this chipset or root complex as fit for peers"),
    "GPU_NOT_SUPPORTED": ("GNS", "NVIDIA's driver gives none to this model, nor to most GeForce cards"),
    "IOH_TOPOLOGY_NOT_SUPPORTED": ("TNS", "NVIDIA's driver refuses peers across this topology"),
    "DISABLED_BY_REGKEY": ("DR", "a registry key disables it (RegistryDwords in /proc/driver/nvidia/params)"),
    "NOT_SUPPORTED": ("NS", "the driver does not support it"),
}
READ, WRITE = 0, 1  # NVML_P2P_CAPS_INDEX_*; pynvml has a tuple for the first
THROTTLES = ("SwPowerCap", "HwSlowdown", "SyncBoost", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")


@cache
def library(name: str, start: str) -> Any:
    """`pynvml` or `amdsmi`, started; None where it is not there or does not start."""
    with suppress(Exception):  # a driver of another version fails in ways of its own, and it is a witness only
        module = importlib.import_module(name)
        getattr(module, start)()
        return module


def _ask(module: Any, function: str, *arguments: Any) -> Any:
    """The library's answer; None where it has no such function or refuses."""
    with suppress(Exception):
        return getattr(module, function)(*arguments)


@cache
def _nvidia(bus_id: str) -> tuple[Any, Any]:
    nvml = library("pynvml", "nvmlInit")
    return nvml, _ask(nvml, "nvmlDeviceGetHandleByPciBusId", bus_id)


def _bus_id(text: str | bytes) -> str:
    """NVML's `00000000:C1:00.0` as Linux writes it."""
    return (text.decode() if isinstance(text, bytes) else text).lower()[-12:]


def link_facts(pci_bus_id: str, root: Path = Path("/")) -> dict[str, Any]:
    """Clocks in MHz, PCIe generation and width, what it draws in W, and what throttles, as they are now; {} where
    unknown. Takes less than a millisecond once it has been called before."""
    nvml, gpu = _nvidia(pci_bus_id)
    found: dict[str, Any]
    if gpu is not None:
        found = {
            "sm_clock_mhz": _ask(nvml, "nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": _ask(nvml, "nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_MEM),
            "pcie_generation": _ask(nvml, "nvmlDeviceGetCurrPcieLinkGeneration", gpu),
            "pcie_width": _ask(nvml, "nvmlDeviceGetCurrPcieLinkWidth", gpu)}
        if (draw_mw := _ask(nvml, "nvmlDeviceGetPowerUsage", gpu)) is not None:
            found["power_w"] = draw_mw / 1e3
        if (throttle := _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", gpu)) is not None:
            reasons = {name: getattr(nvml, f"nvmlClocksEventReason{name}", 0) for name in THROTTLES}
            found["throttle"] = [name for name, bit in reasons.items() if throttle & bit]
    else:
        files = {"sm_clock_mhz": "pp_dpm_sclk", "memory_clock_mhz": "pp_dpm_mclk"}
        levels = {name: attribute(pci_bus_id, file, root) for name, file in files.items()}
        found = {name: int(now[1]) for name, all in levels.items() if (now := re.search(r"(\d+)\s*Mhz \*", all))}
        if found and (rate := rates(links(pci_bus_id, root), under_load=True)):
            speed, width = rate[narrowest(rate)]
            found |= {"pcie_generation": GENERATION.get(speed), "pcie_width": width}
    return {name: value for name, value in found.items() if value is not None}


def nvidia_gpu(bus_id: str) -> dict[str, Any]:
    """Name, memory and BAR1 in bytes, and every NVLink: whether it is up, and what it leads to (a bus id, `switch`, or
    None where the driver does not say). {} where NVML is not there or does not know the GPU."""
    nvml, gpu = _nvidia(bus_id)
    if gpu is None:
        return {}
    memory, bar1 = _ask(nvml, "nvmlDeviceGetMemoryInfo", gpu), _ask(nvml, "nvmlDeviceGetBAR1MemoryInfo", gpu)
    nvlinks = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        up = _ask(nvml, "nvmlDeviceGetNvLinkState", gpu, link)
        if up is None:
            break
        remote = _ask(nvml, "nvmlDeviceGetNvLinkRemotePciInfo", gpu, link)
        switch = _ask(nvml, "nvmlDeviceGetNvLinkRemoteDeviceType", gpu, link) == nvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
        to = "switch" if switch else _bus_id(remote.busId) if remote else None
        nvlinks.append({"up": up == nvml.NVML_FEATURE_ENABLED, "to": to})
    return {"name": _ask(nvml, "nvmlDeviceGetName", gpu), "memory_bytes": memory and memory.total,
            "bar_bytes": bar1 and bar1.bar1Total, "nvlinks": nvlinks}


def driver_on_peers(reader: str, owner: str) -> str:
    """What the driver says of one GPU reading and writing another's memory: one of PEER_STATUS, or `UNKNOWN`."""
    (nvml, one), (_, other) = _nvidia(reader), _nvidia(owner)
    if one is not None and other is not None:
        names = {getattr(nvml, f"NVML_P2P_STATUS_{name}"): name for name in PEER_STATUS}
        said = [names.get(_ask(nvml, "nvmlDeviceGetP2PStatus", one, other, way), "UNKNOWN") for way in (READ, WRITE)]
        return next((status for status in said if status != "OK"), "OK")
    amdsmi = library("amdsmi", "amdsmi_init")
    handles = [_ask(amdsmi, "amdsmi_get_processor_handle_from_bdf", bus_id) for bus_id in (reader, owner)]
    can = None if None in handles else _ask(amdsmi, "amdsmi_is_P2P_accessible", *handles)
    return "UNKNOWN" if can is None else "OK" if can else "NOT_SUPPORTED"
