"""Where GPUs sit: PCIe paths and links, ACS, IOMMU, BARs, KFD's links and the container, read from /sys and /proc.

`root` is where these two are looked for. Nothing is raised for what cannot be read: it is None, `unknown` or left
out.
"""

import gzip
import re
from dataclasses import dataclass
from pathlib import Path

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
FIRST_NAMESPACES = {"ipc": 0xEFFFFFFF, "pid": 0xEFFFFFFC}  # their numbers, for good: include/linux/proc_ns.h
ACS_CAPABILITY = 0x000D
ACS_BITS = ("SrcValid", "TransBlk", "ReqRedir", "CmpltRedir", "UpstreamFwd", "EgressCtrl", "DirectTrans")
XGMI = "11"  # HSA_IOLINK_TYPE_XGMI, the type of a link in KFD's topology


@dataclass(frozen=True)
class Link:
    """The PCIe link above `at`: what it runs at, and the most of the port above and of the card below. Speeds in GT/s,
    widths in lanes, 0 where unknown."""

    at: str
    speed: float
    width: int
    port_speed: float
    port_width: int
    card_speed: float
    card_width: int

    @property
    def full_speed(self) -> float:
        """What it comes up to under load, as far as both ends say; an idle link runs slower."""
        both = min(self.port_speed, self.card_speed)
        return both or self.speed or self.port_speed or self.card_speed


def gb_s(speed: float, width: int) -> float:
    """Bytes one way in GB/s before packet headers; 0 where the link is unknown."""
    return LANE_GB_S.get(speed, 0.0) * width


def said(speed: float, width: int) -> str:
    """Such as `PCIe 4 x8`, as far as it is known."""
    generation = [str(GENERATION[speed])] if speed in GENERATION else []
    return " ".join(["PCIe", *generation, *([f"x{width}"] if width else [])]) if speed or width else "unknown"


def text(path: Path) -> str | None:
    """What the file holds, or None where this kernel, or this container, does not show it."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _device(bus_id: str, root: Path) -> Path:
    return root / "sys/bus/pci/devices" / bus_id


def vendor(bus_id: str, root: Path = Path("/")) -> str | None:
    return text(_device(bus_id, root) / "vendor")


def gpus(root: Path = Path("/")) -> list[str]:
    """The bus ids of all NVIDIA and AMD GPUs: display controllers, and AMD's that are processing accelerators."""
    found = []
    for path in sorted((root / "sys/bus/pci/devices").glob("*")):
        kind, made_by = (text(path / "class") or "")[:6], vendor(path.name, root)
        if (kind.startswith("0x03") and made_by in (NVIDIA, AMD)) or (kind == "0x1200" and made_by == AMD):
            found.append(path.name)
    return found


def chain(bus_id: str, root: Path = Path("/")) -> list[str]:
    """From the host bridge (`pci0000:00`) through root port and switches to the device; [] where it is not there."""
    path = _device(bus_id, root)
    if not path.exists():
        return []
    return [part for part in path.resolve().parts if BUS_ID.fullmatch(part) or re.fullmatch(r"pci[0-9a-f]+:..", part)]


def _number(value: str | None) -> float:
    found = re.match(r"[\d.]+", value or "")
    return float(found[0]) if found else 0.0


def links(bus_id: str, root: Path = Path("/")) -> list[Link]:
    """Every link between the root port and the device, the device's own last."""

    def end(bus_id: str) -> list[float]:
        names = ("current_link_speed", "current_link_width", "max_link_speed", "max_link_width")
        return [_number(text(_device(bus_id, root) / name)) for name in names]

    ids = chain(bus_id, root)[1:]
    if len(ids) == 1:  # in a virtual machine a device may hang on no port
        ids = ["", *ids]
    found = []
    # From a root port down, every second step is a link; those between are inside a switch.
    for port, lower in zip(ids[::2], ids[1::2], strict=False):
        above, below = end(port), end(lower)
        # Both ends of a link show the same state, where they show it.
        speed, width = below[0] or above[0], below[1] or above[1]
        found.append(Link(lower, speed, int(width), above[2], int(above[3]), below[2], int(below[3])))
    return found


def card(bus_id: str, root: Path = Path("/")) -> str:
    """The card's outermost function: the GPU's, or on AMD's cards that of an inner switch, whose one lower port leads
    to the GPU. The links inside show the most that they can do, whatever the slot gives."""
    ids = chain(bus_id, root)
    if vendor(bus_id, root) != AMD or len(ids) < 5:
        return bus_id
    upper, lower = ids[-3:-1]
    ports = [path.name for path in _device(upper, root).iterdir() if BUS_ID.fullmatch(path.name)]
    inner = vendor(upper, root) in (AMD, AMD_CPU) and ports == [lower] and not through_chipset([upper], root)
    return upper if inner else bus_id


def slot_link(bus_id: str, root: Path = Path("/")) -> Link | None:
    """The link between the card and its slot; None where the device is not there."""
    edge = card(bus_id, root)
    return next((link for link in links(bus_id, root) if link.at == edge), None)


def narrowest(bus_id: str, root: Path = Path("/"), under_load: bool = False) -> Link | None:
    """The slowest link between the device and its root port, of those that are known. Not under load, the full speed of
    each link counts, since idle links run slower."""
    known = [link for link in links(bus_id, root) if link.width and (link.speed if under_load else link.full_speed)]
    rates = {link: gb_s(link.speed if under_load else link.full_speed, link.width) for link in known}
    return min(reversed(known), key=lambda link: rates[link]) if known else None


def through_chipset(bus_ids: list[str], root: Path = Path("/")) -> bool:
    """Whether one of these ports belongs to the chipset, all of whose devices share one link to the CPU."""
    for bus_id in bus_ids:
        made_by, model = vendor(bus_id, root), text(_device(bus_id, root) / "device")
        if (made_by == AMD_CPU and model in AMD_CHIPSETS) or (made_by == INTEL and INTEL_CHIPSET_PORT.match(bus_id)):
            return True
    return False


def path_between(a: str, b: str, root: Path = Path("/")) -> tuple[str, list[str]]:
    """How PCIe leads from one device to the other, in words, and the two ports below the switch at which it turns ([]
    where it turns in a root complex)."""
    one, other = chain(a, root), chain(b, root)
    common = [x for x, y in zip(one, other, strict=False) if x == y]
    if not one or not other:
        return "unknown", []
    if len(common) > 1:
        ports = max(ids.index(card(gpu, root)) - len(common) for ids, gpu in ((one, a), (other, b)))
        kind = "the chipset's switch" if through_chipset(common[1:], root) else "the same switch"
        turns = [one[len(common)], other[len(common)]]
        return f"PCIe, {'several switches below one root port' if ports > 1 else kind}", turns
    if common:
        return "PCIe, same root complex", []
    nodes = [text(_device(gpu, root) / "numa_node") or "-1" for gpu in (a, b)]
    sockets = [_socket(node, root) for node in nodes]
    if nodes[0] == nodes[1] != "-1":
        return "PCIe, two root complexes of one NUMA node", []
    if None in sockets:
        return "PCIe, two root complexes, sockets unknown", []
    return "PCIe, across sockets" if sockets[0] != sockets[1] else "PCIe, two NUMA nodes of one socket", []


def _socket(node: str, root: Path) -> str | None:
    cpus = re.match(r"\d+", text(root / f"sys/devices/system/node/node{node}/cpulist") or "")
    return text(root / f"sys/devices/system/cpu/cpu{cpus[0]}/topology/physical_package_id") if cpus else None


def acs(bus_id: str, root: Path = Path("/")) -> set[str] | None:
    """What ACS does at a bridge, in lspci's words; None where the kernel shows no more than 64 bytes of its
    configuration, as it does to all but root."""
    try:
        config = (_device(bus_id, root) / "config").read_bytes()
    except OSError:
        return None
    if len(config) < 0x104:
        return None
    at = 0x100
    while at >= 0x100:
        header = int.from_bytes(config[at : at + 4], "little")
        if header & 0xFFFF == ACS_CAPABILITY:
            control = int.from_bytes(config[at + 6 : at + 8], "little")
            return {name for bit, name in enumerate(ACS_BITS) if control >> bit & 1}
        config = config[:at] + bytes(4) + config[at + 4 :]  # a list that leads back to itself ends here
        at = header >> 20
    return set()


def iommu(bus_id: str, root: Path = Path("/")) -> str:
    """`off`, `passthrough`, `translating` or `unknown`."""
    group = _device(bus_id, root) / "iommu_group"
    if not group.exists():
        return "off" if _device(bus_id, root).exists() else "unknown"
    kind = text(group / "type") or ""
    return "passthrough" if kind == "identity" else "translating" if kind.startswith("DMA") else "unknown"


def largest_bar_bytes(bus_id: str, root: Path = Path("/")) -> int | None:
    """The size of the largest of a device's six windows into its memory."""
    sizes = []
    for line in (text(_device(bus_id, root) / "resource") or "").splitlines()[:6]:
        start, end, _ = (int(word, 16) for word in line.split())
        sizes.append(end - start + 1 if end else 0)
    return max(sizes, default=None)


def vram_bytes(bus_id: str, root: Path = Path("/")) -> int | None:
    """An AMD GPU's memory, by its driver."""
    found = text(_device(bus_id, root) / "mem_info_vram_total")
    return int(found) if found and found.isdigit() else None


def kfd(root: Path = Path("/")) -> dict[str, dict[str, str]]:
    """For each GPU of ROCm's driver, the GPUs that the kernel has made its peers, by `xGMI` or `PCIe`. {} without the
    driver, and where it is too old to tell (before Linux 6.0)."""
    nodes: dict[str, tuple[str, Path]] = {}
    for path in (root / "sys/class/kfd/kfd/topology/nodes").glob("*"):
        listed = dict(re.findall(r"^(\w+) (\d+)$", text(path / "properties") or "", re.MULTILINE))
        where, domain = int(listed.get("location_id", 0)), int(listed.get("domain", 0))
        if int(listed.get("simd_count", 0)) and "p2p_links_count" in listed:
            nodes[path.name] = f"{domain:04x}:{where >> 8 & 255:02x}:{where >> 3 & 31:02x}.{where & 7}", path
    peers: dict[str, dict[str, str]] = {bus_id: {} for bus_id, _ in nodes.values()}
    for bus_id, path in nodes.values():
        for link in path.glob("*_links/*/properties"):
            listed = dict(re.findall(r"^(\w+) (\d+)$", text(link) or "", re.MULTILINE))
            if (to := listed.get("node_to", "")) in nodes:
                peers[bus_id][nodes[to][0]] = "xGMI" if listed.get("type") == XGMI else "PCIe"
    return peers


def kernel_p2p(root: Path = Path("/")) -> dict[str, str]:
    """Whether the kernel is built for AMD GPUs to be PCIe peers, option by option: `y`, `n` or `unknown`; and amdgpu's
    own switch `pcie_p2p`, which is there in a driver built with HSA_AMD_P2P only."""
    release = text(root / "proc/sys/kernel/osrelease")
    config = None
    for path in (root / "proc/config.gz", root / f"boot/config-{release}", root / f"lib/modules/{release}/config"):
        try:
            config = config or (gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes()).decode()
        except OSError:
            continue
    built = {name: "y" if f"\nCONFIG_{name}=y\n" in f"\n{config}\n" else "n" for name in ("PCI_P2PDMA", "HSA_AMD_P2P")}
    found = built if config else dict.fromkeys(built, "unknown")
    parameters = root / "sys/module/amdgpu/parameters"
    if parameters.exists():
        switch = text(parameters / "pcie_p2p")
        found |= {"HSA_AMD_P2P": "n"} if switch is None else {"HSA_AMD_P2P": "y", "pcie_p2p": switch.lower()}
    return found


def container(root: Path = Path("/")) -> dict[str, int | None]:
    """This process's IPC and PID namespaces by number, and the limit of its /dev/shm in bytes (None: unknown, or none
    was given)."""
    found: dict[str, int | None] = {}
    for name in FIRST_NAMESPACES:
        link = root / f"proc/self/ns/{name}"
        found[name] = int(_number(str(link.readlink()).partition("[")[2])) if link.is_symlink() else None
    mounts = re.findall(r"^.* /dev/shm .* - \S+ \S+ (\S+)$", text(root / "proc/self/mountinfo") or "", re.MULTILINE)
    size = re.search(r"\bsize=(\d+)k", mounts[-1]) if mounts else None
    return found | {"shm_bytes": int(size[1]) * 1024 if size else None}
