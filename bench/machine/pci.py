"""Reads the PCIe topology of GPUs from /sys and /proc: paths, links, ACS, IOMMU, BARs, KFD's peers.

`root` is the folder that holds `sys` and `proc`. Nothing raises for a file that cannot be read: the
value is then None, empty or `unknown`.
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

NVIDIA, AMD, AMD_CPU, INTEL = "0x10de", "0x1002", "0x1022", "0x8086"
# One lane, one way: 8b/10b up to 5 GT/s, 128b/130b up to 32 GT/s, 236 of a flit's 256 bytes at
# 64 GT/s (PCI Express Base Specification 6.0, section 4.2). Packet headers come on top: a copy
# reaches 80 to 90 % of this.
LANE_GB_S = {2.5: 0.25, 5.0: 0.5, 8.0: 0.985, 16.0: 1.969, 32.0: 3.938, 64.0: 7.375}
GENERATION = {speed: number for number, speed in enumerate(LANE_GB_S, 1)}
# Upstream ports of AMD's desktop chipsets (pci.ids): X370, X399, 400 series, 500 series, 600 and
# 800 series, X570. Intel's chipsets have their root ports at devices 1b to 1d (Intel's datasheets).
AMD_CHIPSETS = {"0x43b0", "0x43b1", "0x43c6", "0x43e9", "0x43f4", "0x57ad"}
INTEL_CHIPSET_PORT = re.compile(r"0000:[08]0:1[bcd]\.")
HOST_BRIDGE = re.compile(r"pci[0-9a-f]+:..")
BUS_ID = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
ACS_CAPABILITY, ACS_REDIRECTS = 0x000D, 0b1100  # P2P request redirect and completion redirect
XGMI = "11"  # HSA_IOLINK_TYPE_XGMI, a link type of KFD's topology

Rate = tuple[float, int]  # GT/s and lanes of a link


class Link(NamedTuple):
    """A PCIe link, named after the `device` at its lower end; an unknown rate is None.

    `now` is the current rate (an idle link runs slower), `full` the highest rate that both ends
    reach together, `port` and `card` the maximum of the upper and of the lower end.
    """

    device: str
    now: Rate | None
    full: Rate | None
    port: Rate | None
    card: Rate | None


def gb_s(rate: Rate | None) -> float:
    """Bandwidth one way in GB/s, before packet headers; 0 if the rate is unknown."""
    return LANE_GB_S.get(rate[0], 0.0) * rate[1] if rate else 0.0


def describe_rate(rate: Rate | None) -> str:
    """Such as `PCIe 4 x8`."""
    return f"PCIe {GENERATION.get(rate[0], '?')} x{rate[1]}" if rate else "unknown"


def read_text(path: Path) -> str:
    """The content of a file, stripped; empty if this kernel or container does not show it."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _device(bus_id: str, root: Path) -> Path:
    return root / "sys/bus/pci/devices" / bus_id


def attribute(bus_id: str, name: str, root: Path = Path("/")) -> str:
    """An attribute of a PCI device, such as `vendor`; empty if it is unknown."""
    return read_text(_device(bus_id, root) / name)


def gpu_bus_ids(root: Path = Path("/")) -> list[str]:
    """All NVIDIA and AMD GPUs: display controllers, and AMD's processing accelerators."""
    kinds = {(NVIDIA, "0x03"), (AMD, "0x03"), (AMD, "0x12")}
    bus_ids = sorted(path.name for path in _device("", root).glob("*"))
    return [bus_id for bus_id in bus_ids
            if (attribute(bus_id, "vendor", root), attribute(bus_id, "class", root)[:4]) in kinds]


def chain(bus_id: str, root: Path = Path("/")) -> list[str]:
    """The path from the host bridge (`pci0000:00`) down to this device; [] without the device."""
    path = _device(bus_id, root)
    parts = path.resolve().parts if path.exists() else ()
    return [part for part in parts if BUS_ID.fullmatch(part) or HOST_BRIDGE.fullmatch(part)]


def card(bus_id: str, root: Path = Path("/")) -> str:
    """The outermost function of the card: the GPU, or the upper port of an AMD card's inner switch.

    Only the outermost link shows the slot: the links inside the card always run at their maximum.
    An inner switch is AMD's and has one lower port, to the GPU.
    """
    devices = chain(bus_id, root)
    if attribute(bus_id, "vendor", root) != AMD or len(devices) < 5:
        return bus_id
    upper = devices[-3]
    is_amd = attribute(upper, "vendor", root) in (AMD, AMD_CPU)
    children = _device(upper, root).iterdir()
    lower_ports = [path for path in children if BUS_ID.fullmatch(path.name)]
    return upper if is_amd and len(lower_ports) == 1 else bus_id


def links(bus_id: str, root: Path = Path("/")) -> list[Link]:
    """The links from the root port down to the card's slot, the last one; [] without the device."""
    devices = chain(bus_id, root)[1:]
    if not devices:
        return []
    if len(devices) == 1:  # a virtual machine may show a GPU without a port above it
        devices = ["", *devices]
    last = devices.index(card(bus_id, root))
    # Below a root port every second step is a link; the other steps are inside a switch.
    ends = zip(devices[::2], devices[1 : last + 1 : 2], strict=False)
    return [_link(upper, lower, root) for upper, lower in ends]


def _link(upper: str, lower: str, root: Path) -> Link:
    def read(name: str) -> list[float]:
        numbers = [re.match(r"[\d.]+", attribute(end, name, root)) for end in (upper, lower)]
        return [float(number[0]) if number else 0.0 for number in numbers]

    def rate(speed: float, width: float) -> Rate | None:
        return (speed, int(width)) if speed and width else None

    # Both ends show the same current state, if they show it.
    speed, width = max(read("current_link_speed")), max(read("current_link_width"))
    speeds, widths = read("max_link_speed"), read("max_link_width")
    full_speed = min(speeds) or speed or max(speeds)
    return Link(lower, rate(speed, width), rate(full_speed, width), rate(speeds[0], widths[0]),
                rate(speeds[1], widths[1]))


def rates(links: list[Link], under_load: bool = False) -> dict[str, Rate]:
    """The known rates by device: the current rate `under_load`, otherwise the full rate."""
    by_device = {link.device: link.now if under_load else link.full for link in links}
    return {device: rate for device, rate in by_device.items() if rate}


def narrowest(rates: dict[str, Rate]) -> str:
    """The device below the slowest link; among equal links the one closest to the GPU."""
    return min(reversed(rates), key=lambda device: gb_s(rates[device]))


def through_chipset(ports: list[str], root: Path = Path("/")) -> bool:
    """Whether a port belongs to the chipset: all devices of a chipset share one link to the CPU."""
    ids = {port: (attribute(port, "vendor", root), attribute(port, "device", root))
           for port in ports}
    return any((vendor == INTEL and INTEL_CHIPSET_PORT.match(port))
               or (vendor == AMD_CPU and device in AMD_CHIPSETS)
               for port, (vendor, device) in ids.items())


def path_between(a: str, b: str, root: Path = Path("/")) -> tuple[str, list[str]]:
    """The PCIe path between two devices, and the ports below the switch that joins them, if any."""
    chain_a, chain_b = chain(a, root), chain(b, root)
    if not chain_a or not chain_b:
        return "unknown", []
    common = [x for x, y in zip(chain_a, chain_b, strict=False) if x == y]
    if len(common) > 1:
        switch = "the chipset's switch" if through_chipset(common[1:], root) else "the same switch"
        return f"PCIe, below {switch}", [chain_a[len(common)], chain_b[len(common)]]
    if common:
        return "PCIe, same root complex", []
    sockets = {_socket(attribute(gpu, "numa_node", root), root) for gpu in (a, b)}
    if "" in sockets:
        return "PCIe, two root complexes, sockets unknown", []
    path = "across sockets" if len(sockets) > 1 else "two root complexes of one socket"
    return f"PCIe, {path}", []


def _socket(node: str, root: Path) -> str:
    cpu = re.match(r"\d+", read_text(root / f"sys/devices/system/node/node{node}/cpulist"))
    folder = root / "sys/devices/system/cpu"
    return read_text(folder / f"cpu{cpu[0]}/topology/physical_package_id") if cpu else ""


def acs_redirects(bus_id: str, root: Path = Path("/")) -> bool | None:
    """Whether ACS at a port sends peer traffic up to the CPU; None if only root may read it."""
    config = b""
    with suppress(OSError):
        config = (_device(bus_id, root) / "config").read_bytes()
    if len(config) < 0x104:
        return None
    offset, visited = 0x100, set[int]()
    while offset >= 0x100 and offset not in visited:  # a broken list may lead back to itself
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header & 0xFFFF == ACS_CAPABILITY:  # the control word's low byte follows 6 bytes later
            return bool(config[offset + 6] & ACS_REDIRECTS)
        visited.add(offset)
        offset = header >> 20
    return False


def iommu(bus_id: str, root: Path = Path("/")) -> str | None:
    """`off`, `passthrough` or `translating`; None if unknown."""
    device = _device(bus_id, root)
    if device.exists() and not (device / "iommu_group").exists():
        return "off"
    kinds = {"identity": "passthrough", "DMA": "translating", "DMA-FQ": "translating"}
    return kinds.get(attribute(bus_id, "iommu_group/type", root))


def memory_bytes(bus_id: str, root: Path = Path("/")) -> tuple[int | None, int | None]:
    """The memory of a GPU, from amdgpu, and its largest BAR; None if unknown."""
    lines = attribute(bus_id, "resource", root).splitlines()[:6]
    windows = [[int(word, 16) for word in line.split()[:2]] for line in lines]
    largest = max((end - start + 1 for start, end in windows if end), default=None)
    return int(attribute(bus_id, "mem_info_vram_total", root) or 0) or None, largest


def kfd_peers(root: Path = Path("/")) -> dict[str, dict[str, str]]:
    """For each AMD GPU its peers in the kernel's KFD, by `xGMI` or `PCIe`; {} before Linux 6.0."""

    def properties(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^(\w+) (\d+)$", read_text(path / "properties"), re.MULTILINE))

    folder = root / "sys/class/kfd/kfd/topology/nodes"
    bus_ids: dict[str, str] = {}
    for path in folder.glob("*"):
        node = properties(path)
        if node.get("simd_count", "0") != "0" and "p2p_links_count" in node:
            location, domain = int(node.get("location_id", 0)), int(node.get("domain", 0))
            bus, device = location >> 8 & 255, location >> 3 & 31
            bus_ids[path.name] = f"{domain:04x}:{bus:02x}:{device:02x}.{location & 7}"
    peers: dict[str, dict[str, str]] = {bus_id: {} for bus_id in bus_ids.values()}
    for name, bus_id in bus_ids.items():
        for link in map(properties, (folder / name).glob("*_links/*")):
            peer = bus_ids.get(link.get("node_to", ""))
            if peer:
                peers[bus_id][peer] = "xGMI" if link.get("type") == XGMI else "PCIe"
    return peers


def amdgpu_p2p(root: Path = Path("/")) -> str | None:
    """amdgpu's `pcie_p2p`, `Y` or `N`, or `not built`; None without the driver."""
    parameters = root / "sys/module/amdgpu/parameters"
    if not parameters.exists():
        return None
    return read_text(parameters / "pcie_p2p") or "not built"


def shm_bytes(root: Path = Path("/")) -> int | None:
    """The size limit of /dev/shm; None if it has no limit or the limit is unknown."""
    mounts = re.findall(r"^.* /dev/shm .*$", read_text(root / "proc/self/mountinfo"), re.MULTILINE)
    size = re.search(r"\bsize=(\d+)k", mounts[-1]) if mounts else None
    return int(size[1]) * 1024 if size else None
