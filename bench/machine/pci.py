"""Reads the PCIe topology of GPUs from /sys: paths, links, ACS, IOMMU, BARs, KFD's peers. A file
that cannot be read raises nothing: the value is then None, empty or `unknown`."""

import re
from contextlib import suppress
from pathlib import Path

from bench.machine import files

NVIDIA, AMD, AMD_CPU = "0x10de", "0x1002", "0x1022"
# One lane, one way: 8b/10b up to 5 GT/s, 128b/130b up to 32 GT/s, 236 of a flit's 256 bytes at
# 64 GT/s (PCI Express Base Specification 6.0, section 4.2). A copy reaches 80 to 90 % of this.
LANE_GB_S = {2.5: 0.25, 5.0: 0.5, 8.0: 0.985, 16.0: 1.969, 32.0: 3.938, 64.0: 7.375}
GENERATION = {speed: number for number, speed in enumerate(LANE_GB_S, 1)}
HOST_BRIDGE = re.compile(r"pci[0-9a-f]+:..")
BUS_ID = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
ACS_CAPABILITY, ACS_REDIRECTS = 0x000D, 0b1100  # P2P request redirect and completion redirect
ZEN = 0x17  # a family of AMD's CPUs
XGMI = "11"  # HSA_IOLINK_TYPE_XGMI, a link type of KFD's topology
IOMMU_TYPES = {"identity": "passthrough", "DMA": "translating", "DMA-FQ": "translating"}

ONE_ROOT_COMPLEX = "PCIe, same root complex"
# Paths between devices below different root complexes.
ROOTLESS_PATHS = (
    "PCIe, two root complexes, sockets unknown",
    "PCIe, across sockets",
    "PCIe, two root complexes of one socket",
)

Rate = tuple[float, int]  # GT/s and lanes of a link


def gb_s(rate: Rate | None) -> float:
    """Bandwidth one way in GB/s, before packet headers; 0 if the rate is unknown."""
    return LANE_GB_S.get(rate[0], 0.0) * rate[1] if rate else 0.0


def describe_rate(rate: Rate | None) -> str:
    """Such as `PCIe 4 x8`."""
    return f"PCIe {GENERATION.get(rate[0], '?')} x{rate[1]}" if rate else "unknown"


def _folder(bus_id: str) -> Path:
    return files.ROOT / "sys/bus/pci/devices" / bus_id


def attribute(bus_id: str, name: str) -> str:
    """An attribute of a PCI device, such as `vendor`; empty if it is unknown."""
    return files.read(_folder(bus_id) / name)


def gpu_bus_ids() -> list[str]:
    """All NVIDIA and AMD GPUs: display controllers, and AMD's processing accelerators."""
    kinds = {(NVIDIA, "0x03"), (AMD, "0x03"), (AMD, "0x12")}
    return [
        bus_id
        for bus_id in sorted(path.name for path in _folder("").glob("*"))
        if (attribute(bus_id, "vendor"), attribute(bus_id, "class")[:4]) in kinds
    ]


def chain(bus_id: str) -> list[str]:
    """The path from the host bridge (`pci0000:00`) down to this device; [] without the device."""
    path = _folder(bus_id)
    parts = path.resolve().parts if path.exists() else ()
    return [part for part in parts if BUS_ID.fullmatch(part) or HOST_BRIDGE.fullmatch(part)]


def links(bus_id: str) -> list[tuple[str, str]]:
    """The upper and the lower end of each link from the root port to the slot; [] if unknown."""
    devices = chain(bus_id)[1:]
    if len(devices) == 1:  # a virtual machine may show a GPU without a port above it
        devices = ["", *devices]
    if len(devices) > 3 and attribute(bus_id, "vendor") == AMD:
        # The links inside a card always run at their maximum, and only the link above them shows
        # the slot. A card's inner switch is AMD's and has one lower port, to the GPU.
        switch = devices[-3]
        lower_ports = [path for path in _folder(switch).iterdir() if BUS_ID.fullmatch(path.name)]
        if attribute(switch, "vendor") in (AMD, AMD_CPU) and len(lower_ports) == 1:
            devices = devices[:-2]
    # Below a root port every second step is a link; the other steps are inside a switch.
    return list(zip(devices[::2], devices[1::2], strict=False))


def rates(bus_id: str) -> dict[str, Rate]:
    """The known rates of `links`, by the device at the lower end: the highest rate that both ends
    reach together, because an idle link runs slower."""
    by_device = {}
    for ends in links(bus_id):
        # Both ends show the same current state, if they show it.
        speed = max(_number(end, "current_link_speed") for end in ends)
        width = max(_number(end, "current_link_width") for end in ends)
        speeds = [_number(end, "max_link_speed") for end in ends]
        speed = min(speeds) or speed or max(speeds)
        if speed and width:
            by_device[ends[1]] = speed, int(width)
    return by_device


def max_rate(device: str, kind: str = "max") -> Rate | None:
    """The highest rate of a device at its end of a link, or the `current` one."""
    speed, width = _number(device, f"{kind}_link_speed"), _number(device, f"{kind}_link_width")
    return (speed, int(width)) if speed and width else None


def _number(device: str, name: str) -> float:
    number = re.match(r"[\d.]+", attribute(device, name))
    return float(number[0]) if number else 0.0


def narrowest(rates: dict[str, Rate]) -> str:
    """The device below the slowest link; among equal links the one closest to the GPU."""
    return min(reversed(rates), key=lambda device: gb_s(rates[device]))


def path_between(a: str, b: str) -> tuple[str, list[str]]:
    """The PCIe path between two devices, and the ports below the switch or the root complex that
    joins them."""
    chain_a, chain_b = chain(a), chain(b)
    if not chain_a or not chain_b:
        return "unknown", []
    common = [x for x, y in zip(chain_a, chain_b, strict=False) if x == y]
    if len(common) > 1:
        return "PCIe, below the same switch", [chain_a[len(common)], chain_b[len(common)]]
    if common:
        return ONE_ROOT_COMPLEX, [chain_a[1], chain_b[1]]
    sockets = {_socket(attribute(gpu, "numa_node")) for gpu in (a, b)}
    if "" in sockets:
        return ROOTLESS_PATHS[0], []
    return ROOTLESS_PATHS[1 if len(sockets) > 1 else 2], []


def _socket(node: str) -> str:
    cpu = re.match(r"\d+", files.read(f"sys/devices/system/node/node{node}/cpulist"))
    topology = f"sys/devices/system/cpu/cpu{cpu[0] if cpu else ''}/topology"
    return files.read(f"{topology}/physical_package_id")


def acs_redirects(bus_id: str) -> bool | None:
    """Whether ACS at a port sends peer traffic up to the CPU; None if only root may read it."""
    config = b""
    with suppress(OSError):
        config = (_folder(bus_id) / "config").read_bytes()
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


def forwards_between_ports() -> bool:
    """Whether Linux lets peers below different root ports reach each other, whichever ports: on
    AMD's CPUs from Zen on (cpu_supports_p2pdma in drivers/pci/p2pdma.c)."""
    cpuinfo = files.read("proc/cpuinfo")
    family = re.search(r"^cpu family\s*: (\d+)", cpuinfo, re.MULTILINE)
    return "AuthenticAMD" in cpuinfo and family is not None and int(family[1]) >= ZEN


def iommu(bus_id: str) -> str | None:
    """`off`, `passthrough` or `translating`; None if unknown."""
    device = _folder(bus_id)
    if device.exists() and not (device / "iommu_group").exists():
        return "off"
    return IOMMU_TYPES.get(attribute(bus_id, "iommu_group/type"))


def memory_bytes(bus_id: str) -> int | None:
    """The memory of a GPU, from amdgpu; None if unknown."""
    return int(attribute(bus_id, "mem_info_vram_total") or 0) or None


def bar_bytes(bus_id: str) -> int | None:
    """The largest BAR of a device; None if unknown."""
    lines = attribute(bus_id, "resource").splitlines()[:6]
    windows = [[int(word, 16) for word in line.split()[:2]] for line in lines]
    return max((end - start + 1 for start, end in windows if end), default=None)


def kfd_peers() -> dict[str, dict[str, str]]:
    """For each AMD GPU its peers in the kernel's KFD, by `xGMI` or `PCIe`; {} before Linux 6.0."""

    def properties(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^(\w+) (\d+)$", files.read(path / "properties"), re.MULTILINE))

    nodes = files.ROOT / "sys/class/kfd/kfd/topology/nodes"
    bus_ids = {}
    for folder in nodes.glob("*"):
        node = properties(folder)
        if node.get("simd_count", "0") != "0" and "p2p_links_count" in node:
            location, domain = int(node.get("location_id", 0)), int(node.get("domain", 0))
            bus, device = location >> 8 & 255, location >> 3 & 31
            bus_ids[folder.name] = f"{domain:04x}:{bus:02x}:{device:02x}.{location & 7}"
    peers = {}
    for name, bus_id in bus_ids.items():
        links = map(properties, (nodes / name).glob("*_links/*"))
        peers[bus_id] = {
            bus_ids[link["node_to"]]: "xGMI" if link.get("type") == XGMI else "PCIe"
            for link in links
            if link.get("node_to") in bus_ids
        }
    return peers


def amdgpu_p2p() -> str | None:
    """amdgpu's `pcie_p2p`, `Y` or `N`, or `not built`; None without the driver."""
    parameters = files.ROOT / "sys/module/amdgpu/parameters"
    if not parameters.exists():
        return None
    return files.read(parameters / "pcie_p2p") or "not built"
