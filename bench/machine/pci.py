"""Where GPUs sit: PCIe paths and links, ACS, IOMMU, BARs, KFD's links and the container, read from /sys and /proc.

`root` is where these two are looked for. Nothing is raised for what cannot be read: it is None, empty or `unknown`.
"""

import gzip
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

NVIDIA, AMD, AMD_CPU, INTEL = "0x10de", "0x1002", "0x1022", "0x8086"
# One lane, one way: 8b/10b up to 5 GT/s, 128b/130b up to 32 GT/s, 236 of a flit's 256 bytes at 64 GT/s (PCI Express
# Base Specification 6.0, section 4.2). Packet headers come on top: a copy reaches 80 to 90 % of this.
LANE_GB_S = {2.5: 0.25, 5.0: 0.5, 8.0: 0.985, 16.0: 1.969, 32.0: 3.938, 64.0: 7.375}
GENERATION = {speed: number for number, speed in enumerate(LANE_GB_S, 1)}
# AMD's desktop chipsets, by the upstream port of the switch that they are (pci.ids): X370, X399, 400 series, 500
# series, 600 and 800 series, X570. Intel's has its root ports at devices 1b to 1d of its bus (its datasheets).
AMD_CHIPSETS = {"0x43b0", "0x43b1", "0x43c6", "0x43e9", "0x43f4", "0x57ad"}
INTEL_CHIPSET_PORT = re.compile(r"0000:[08]0:1[bcd]\.")
BUS_ID = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
ACS_CAPABILITY, ACS_REDIRECTS = 0x000D, 0b1100  # of requests and of completions
XGMI = "11"  # HSA_IOLINK_TYPE_XGMI, the type of a link in KFD's topology

Rate = tuple[float, int]  # of a link: GT/s and lanes


class Link(NamedTuple):
    """The PCIe link above `at`: what it runs at now, the most that it comes up to as far as its ends say (an idle link
    runs slower), and the most that the port above and the card below can do; None where unknown."""

    at: str
    now: Rate | None
    full: Rate | None
    port: Rate | None
    card: Rate | None


def gb_s(rate: Rate | None) -> float:
    """Bytes one way in GB/s before packet headers; 0 where the link is unknown."""
    return LANE_GB_S.get(rate[0], 0.0) * rate[1] if rate else 0.0


def said(rate: Rate | None) -> str:
    """Such as `PCIe 4 x8`."""
    return f"PCIe {GENERATION.get(rate[0], '?')} x{rate[1]}" if rate else "unknown"


def text(path: Path) -> str:
    """What the file holds, or nothing where this kernel, or this container, does not show it."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _device(bus_id: str, root: Path) -> Path:
    return root / "sys/bus/pci/devices" / bus_id


def attribute(bus_id: str, name: str, root: Path = Path("/")) -> str:
    return text(_device(bus_id, root) / name)


def gpus(root: Path = Path("/")) -> list[str]:
    """The bus ids of all NVIDIA and AMD GPUs: display controllers, and AMD's that are processing accelerators."""
    kinds = {(NVIDIA, "0x03"), (AMD, "0x03"), (AMD, "0x12")}
    ids = sorted(path.name for path in _device("", root).glob("*"))
    return [i for i in ids if (attribute(i, "vendor", root), attribute(i, "class", root)[:4]) in kinds]


def chain(bus_id: str, root: Path = Path("/")) -> list[str]:
    """From the host bridge (`pci0000:00`) through root port and switches to the device; [] where it is not there."""
    path = _device(bus_id, root)
    parts = path.resolve().parts if path.exists() else ()
    return [part for part in parts if BUS_ID.fullmatch(part) or re.fullmatch(r"pci[0-9a-f]+:..", part)]


def card(bus_id: str, root: Path = Path("/")) -> str:
    """The card's outermost function: the GPU's, or on AMD's cards that of an inner switch, whose one lower port leads
    to the GPU. The links inside show the most that they can do, whatever the slot gives."""
    ids = chain(bus_id, root)
    if attribute(bus_id, "vendor", root) != AMD or len(ids) < 5:
        return bus_id
    upper, lower = ids[-3:-1]
    ports = [path.name for path in _device(upper, root).iterdir() if BUS_ID.fullmatch(path.name)]
    made_by = attribute(upper, "vendor", root)
    inner = made_by in (AMD, AMD_CPU) and ports == [lower] and not through_chipset([upper], root)
    return upper if inner else bus_id


def links(bus_id: str, root: Path = Path("/")) -> list[Link]:
    """Every link between root port and card, that of the card's slot last; [] where the device is not there."""

    def both(port: str, lower: str, name: str) -> list[float]:
        words = [re.match(r"[\d.]+", attribute(end, name, root)) for end in (port, lower)]
        return [float(word[0]) if word else 0.0 for word in words]

    ids, edge = chain(bus_id, root)[1:], card(bus_id, root)
    if len(ids) == 1:  # in a virtual machine a device may hang on no port
        ids = ["", *ids]
    found: list[Link] = []
    # From a root port down, every second step is a link; those between are inside a switch, those below inside a card.
    for port, lower in zip(ids[::2], ids[1 : ids.index(edge) + 1 : 2] if ids else (), strict=False):
        # Both ends of a link show the same state, where they show it.
        speed, width = (max(both(port, lower, f"current_link_{name}")) for name in ("speed", "width"))
        speeds, widths = both(port, lower, "max_link_speed"), both(port, lower, "max_link_width")
        full = min(speeds) or speed or max(speeds)
        rates = (speed, width), (full, width), (speeds[0], widths[0]), (speeds[1], widths[1])
        found.append(Link(lower, *((of, int(lanes)) if of and lanes else None for of, lanes in rates)))
    return found


def rates(links: list[Link], under_load: bool = False) -> dict[str, Rate]:
    """Those of the known links, by the device below: as they are now `under_load`, else what they come up to."""
    found = {link.at: link.now if under_load else link.full for link in links}
    return {at: rate for at, rate in found.items() if rate}


def narrowest(rates: dict[str, Rate]) -> str:
    """Above which device the slowest of these links is; of those alike the card's own."""
    return min(reversed(rates), key=lambda at: gb_s(rates[at]))


def through_chipset(bus_ids: list[str], root: Path = Path("/")) -> bool:
    """Whether one of these ports belongs to the chipset, all of whose devices share one link to the CPU."""
    return any((attribute(port, "vendor", root) == AMD_CPU and attribute(port, "device", root) in AMD_CHIPSETS)
               or (attribute(port, "vendor", root) == INTEL and INTEL_CHIPSET_PORT.match(port)) for port in bus_ids)


def path_between(a: str, b: str, root: Path = Path("/")) -> tuple[str, list[str]]:
    """How PCIe leads from one device to the other, in words, and the two ports below the switch at which it turns ([]
    where it turns in a root complex)."""
    one, other = chain(a, root), chain(b, root)
    common = [x for x, y in zip(one, other, strict=False) if x == y]
    if not one or not other:
        return "unknown", []
    if len(common) > 1:
        switch = "the chipset's switch" if through_chipset(common[1:], root) else "the same switch"
        return f"PCIe, below {switch}", [one[len(common)], other[len(common)]]
    if common:
        return "PCIe, same root complex", []
    sockets = {_socket(attribute(gpu, "numa_node", root), root) for gpu in (a, b)}
    if "" in sockets:
        return "PCIe, two root complexes, sockets unknown", []
    return f"PCIe, {'across sockets' if len(sockets) > 1 else 'two root complexes of one socket'}", []


def _socket(node: str, root: Path) -> str:
    cpus = re.match(r"\d+", text(root / f"sys/devices/system/node/node{node}/cpulist"))
    return text(root / f"sys/devices/system/cpu/cpu{cpus[0]}/topology/physical_package_id") if cpus else ""


def redirects(bus_id: str, root: Path = Path("/")) -> bool | None:
    """Whether ACS at a port sends peers' traffic up to the CPU; None where the kernel shows that to root alone."""
    config = b""
    with suppress(OSError):
        config = (_device(bus_id, root) / "config").read_bytes()
    if len(config) < 0x104:
        return None
    at, seen = 0x100, set[int]()
    while at >= 0x100 and at not in seen:  # a list that leads back to itself ends there
        header = int.from_bytes(config[at : at + 4], "little")
        if header & 0xFFFF == ACS_CAPABILITY:
            return bool(int.from_bytes(config[at + 6 : at + 8], "little") & ACS_REDIRECTS)
        seen.add(at)
        at = header >> 20
    return False


def iommu(bus_id: str, root: Path = Path("/")) -> str | None:
    """`off`, `passthrough` or `translating`; None where unknown."""
    device = _device(bus_id, root)
    if device.exists() and not (device / "iommu_group").exists():
        return "off"
    kinds = {"identity": "passthrough", "DMA": "translating", "DMA-FQ": "translating"}
    return kinds.get(attribute(bus_id, "iommu_group/type", root))


def memory_bytes(bus_id: str, root: Path = Path("/")) -> tuple[int | None, int | None]:
    """A GPU's memory, as AMD's driver tells it, and the largest of its windows into that; None where unknown."""
    lines = attribute(bus_id, "resource", root).splitlines()[:6]
    windows = [[int(word, 16) for word in line.split()[:2]] for line in lines]
    largest = max((end - start + 1 for start, end in windows if end), default=None)
    return int(attribute(bus_id, "mem_info_vram_total", root) or 0) or None, largest


def kfd(root: Path = Path("/")) -> dict[str, dict[str, str]]:
    """For each GPU of ROCm's driver, the GPUs that the kernel has made its peers, by `xGMI` or `PCIe`. {} without the
    driver, and where it is too old to tell (before Linux 6.0)."""

    def listed(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^(\w+) (\d+)$", text(path / "properties"), re.MULTILINE))

    ids: dict[str, str] = {}
    for node in (folder := root / "sys/class/kfd/kfd/topology/nodes").glob("*"):
        if (of := listed(node)).get("simd_count", "0") != "0" and "p2p_links_count" in of:
            at = int(of.get("location_id", 0))
            ids[node.name] = f"{int(of.get('domain', 0)):04x}:{at >> 8 & 255:02x}:{at >> 3 & 31:02x}.{at & 7}"
    peers: dict[str, dict[str, str]] = {bus_id: {} for bus_id in ids.values()}
    for name, bus_id in ids.items():
        for link in map(listed, (folder / name).glob("*_links/*")):
            if link.get("node_to") in ids:
                peers[bus_id][ids[link["node_to"]]] = "xGMI" if link.get("type") == XGMI else "PCIe"
    return peers


def kernel_p2p(root: Path = Path("/")) -> dict[str, str]:
    """Whether the kernel is built for AMD GPUs to be PCIe peers, option by option: `y`, `n` or `unknown`; and amdgpu's
    own switch `pcie_p2p`, which is there in a driver built with HSA_AMD_P2P only."""
    release = text(root / "proc/sys/kernel/osrelease")
    found = dict.fromkeys(("PCI_P2PDMA", "HSA_AMD_P2P"), "unknown")
    for name in (f"lib/modules/{release}/config", f"boot/config-{release}", "proc/config.gz"):
        with suppress(OSError):
            config = (root / name).read_bytes()
            lines = (gzip.decompress(config) if name.endswith(".gz") else config).decode().splitlines()
            found = {option: "y" if f"CONFIG_{option}=y" in lines else "n" for option in found}
    if (parameters := root / "sys/module/amdgpu/parameters").exists():
        switch = text(parameters / "pcie_p2p").lower()
        found |= {"HSA_AMD_P2P": "y", "pcie_p2p": switch} if switch else {"HSA_AMD_P2P": "n"}
    return found


def shm_bytes(root: Path = Path("/")) -> int | None:
    """The limit of /dev/shm; None where it is unknown, or none was given."""
    mounts = re.findall(r"^.* /dev/shm .*$", text(root / "proc/self/mountinfo"), re.MULTILINE)
    size = re.search(r"\bsize=(\d+)k", mounts[-1]) if mounts else None
    return int(size[1]) * 1024 if size else None
