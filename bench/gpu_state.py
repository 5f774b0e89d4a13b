"""What a GPU's driver says of it: clocks, link and throttling now, its memory, NVLinks, and who can be its peer.

NVIDIA's driver is asked through NVML, AMD's through amdsmi, as ROCm brings it, and amdgpu's files. Nothing is raised
for what is not there or not answered: it is left out.
"""

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from bench.topology import GENERATION, narrowest, text

# NVML's word on peers, and nvidia-smi's letters for it in `topo -p2p`.
PEER_STATUS = {
    "OK": "OK",
    "CHIPSET_NOT_SUPPORTED": "CNS",
    "GPU_NOT_SUPPORTED": "GNS",
    "IOH_TOPOLOGY_NOT_SUPPORTED": "TNS",
    "DISABLED_BY_REGKEY": "DR",
    "NOT_SUPPORTED": "NS",
}
READ, WRITE = 0, 1  # NVML_P2P_CAPS_INDEX_*; pynvml has a tuple for the first
THROTTLES = ("SwPowerCap", "HwSlowdown", "SyncBoost", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")


@cache
def library(name: str, start: str) -> tuple[Any, str]:
    """`pynvml` or `amdsmi`, started, or None and why not."""
    try:
        module = importlib.import_module(name)
        getattr(module, start)()
    except Exception as error:  # noqa: BLE001 - a driver of another version fails in ways of its own, and it is a witness only
        return None, f"{name}: {error}"
    return module, ""


def _ask(module: Any, function: str, *arguments: Any) -> Any:
    """The library's answer; None where it has no such function or refuses."""
    try:
        return getattr(module, function)(*arguments)
    except Exception:  # noqa: BLE001 - as above
        return None


@cache
def _nvidia(bus_id: str) -> tuple[Any, Any]:
    nvml, _ = library("pynvml", "nvmlInit")
    return nvml, _ask(nvml, "nvmlDeviceGetHandleByPciBusId", bus_id)


def nvidia_bus_ids() -> list[str]:
    """Every GPU that NVML shows this process; under WSL there is no other word of them."""
    nvml, _ = library("pynvml", "nvmlInit")
    gpus = [_ask(nvml, "nvmlDeviceGetHandleByIndex", i) for i in range(_ask(nvml, "nvmlDeviceGetCount") or 0)]
    return [_bus_id(info.busId) for gpu in gpus if (info := _ask(nvml, "nvmlDeviceGetPciInfo", gpu))]


def link_facts(pci_bus_id: str, root: Path = Path("/")) -> dict[str, Any]:
    """Clocks in MHz, PCIe generation and width, and what throttles, as they are now; {} where unknown. Takes less than
    a millisecond once it has been called before."""
    nvml, gpu = _nvidia(pci_bus_id)
    if gpu is not None:
        throttle = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", gpu) or 0
        found = {
            "sm_clock_mhz": _ask(nvml, "nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": _ask(nvml, "nvmlDeviceGetClockInfo", gpu, nvml.NVML_CLOCK_MEM),
            "pcie_generation": _ask(nvml, "nvmlDeviceGetCurrPcieLinkGeneration", gpu),
            "pcie_width": _ask(nvml, "nvmlDeviceGetCurrPcieLinkWidth", gpu),
            "throttle": [name for name in THROTTLES if throttle & getattr(nvml, f"nvmlClocksEventReason{name}", 0)],
        }
        return {name: value for name, value in found.items() if value is not None}
    found = {}
    for name, file in (("sm_clock_mhz", "pp_dpm_sclk"), ("memory_clock_mhz", "pp_dpm_mclk")):
        levels = text(root / "sys/bus/pci/devices" / pci_bus_id / file) or ""
        if now := re.search(r"(\d+)\s*Mhz \*", levels):
            found[name] = int(now[1])
    if found and (link := narrowest(pci_bus_id, root, under_load=True)):
        found |= {"pcie_generation": GENERATION.get(link.speed), "pcie_width": link.width}
    return found


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
    return {
        "name": _ask(nvml, "nvmlDeviceGetName", gpu),
        "memory_bytes": memory and memory.total,
        "bar1_bytes": bar1 and bar1.bar1Total,
        "nvlinks": nvlinks,
    }


def _bus_id(text: str | bytes) -> str:
    """NVML's `00000000:C1:00.0` as Linux writes it."""
    return (text.decode() if isinstance(text, bytes) else text).lower()[-12:]


def driver_on_peers(reader: str, owner: str) -> str:
    """What the driver says of one GPU reading and writing another's memory: one of PEER_STATUS, or `UNKNOWN`."""
    (nvml, one), (_, other) = _nvidia(reader), _nvidia(owner)
    if one is not None and other is not None:
        names = {getattr(nvml, f"NVML_P2P_STATUS_{name}"): name for name in PEER_STATUS}
        said = [names.get(_ask(nvml, "nvmlDeviceGetP2PStatus", one, other, way), "UNKNOWN") for way in (READ, WRITE)]
        return next((status for status in said if status != "OK"), "OK")
    amdsmi, _ = library("amdsmi", "amdsmi_init")
    handles = [_ask(amdsmi, "amdsmi_get_processor_handle_from_bdf", bus_id) for bus_id in (reader, owner)]
    can = None if None in handles else _ask(amdsmi, "amdsmi_is_P2P_accessible", *handles)
    return "UNKNOWN" if can is None else "OK" if can else "NOT_SUPPORTED"
