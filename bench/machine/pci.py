"""Reads the PCIe topology of GPUs from /sys: paths, links, ACS, AtomicOps, errors, IOMMU, BARs, and
KFD's peers; and the kernel's options. A file that cannot be read raises nothing: the value is then
None, empty or `unknown`."""

import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench.machine import files
from kernels.devices.gpu_driver import AMD_GPUS

NVIDIA, AMD, AMD_CPU, INTEL = "0x10de", "0x1002", "0x1022", "0x8086"
# One lane, one way: 8b/10b up to 5 GT/s, 128b/130b up to 32 GT/s, 236 of a flit's 256 bytes
# from 64 GT/s on (PCI Express Base Specification 7.0, section 4.2). A copy reaches 80 to 90 %.
LANE_GB_S = {2.5: 0.25, 5.0: 0.5, 8.0: 0.985, 16.0: 1.969, 32.0: 3.938, 64.0: 7.375, 128.0: 14.75}
WIDTHS = 1, 2, 4, 8, 12, 16, 32  # lanes; a lost device shows 63
GENERATION = {speed: number for number, speed in enumerate(LANE_GB_S, 1)}
HOST_BRIDGE = re.compile(r"pci[0-9a-f]+:..")
BUS_ID = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
ACS_CAPABILITY = 0x000D
ACS_REDIRECTS = 0b1100  # P2P request redirect and completion redirect
ZEN = 0x17  # a family of AMD's CPUs
# The PCIe capability, its registers and their bits: Linux's include/uapi/linux/pci_regs.h.
EXPRESS_CAPABILITY = 0x10
ABILITIES = 0x24  # DEVCAP2
ROUTES_ATOMICS = 1 << 6
COMPLETES_ATOMICS = 0b11 << 7  # of 32 and of 64 bits
CONTROL = 0x28  # DEVCTL2
BLOCKS_ATOMICS = 1 << 7
TARGET = 0x30  # LNKCTL2
NO_ATOMICS = 0b11 << 2  # of KFD's flags of a link: the driver could not enable them
ALL_ONES = b"\xff" * 4  # of a vendor and a device that are absent
OPTIONS = "HSA_AMD_P2P", "PCI_P2PDMA", "DMABUF_MOVE_NOTIFY"  # that AMD's peers over PCIe need
XGMI = "11"  # HSA_IOLINK_TYPE_XGMI, a link type of KFD's topology
IOMMU_TYPES = {"identity": "passthrough", "DMA": "translating", "DMA-FQ": "translating"}

SAME_SWITCH = "PCIe, below the same switch"
ONE_ROOT_COMPLEX = "PCIe, same root complex"
# Paths between devices below different root complexes, by the sockets of these; 0: unknown.
ROOTLESS_PATHS = (
    "PCIe, two root complexes, sockets unknown",
    "PCIe, two root complexes of one socket",
    "PCIe, across sockets",
)

Rate = tuple[float, int]  # GT/s and lanes of a link


def gb_s(rate: Rate | None) -> float:
    """Bandwidth one way in GB/s, before packet headers; 0 if the rate is unknown."""
    return LANE_GB_S[rate[0]] * rate[1] if rate else 0.0


def describe_rate(rate: Rate | None) -> str:
    """Such as `PCIe 4 x8`."""
    return f"PCIe {GENERATION[rate[0]]} x{rate[1]}" if rate else "unknown"


def _folder(bus_id: str) -> Path:
    return files.ROOT / "sys/bus/pci/devices" / bus_id


def attribute(bus_id: str, name: str) -> str:
    """An attribute of a PCI device, such as `vendor`, or the first that a pattern matches; empty if
    it is unknown."""
    return next(map(files.read, _folder(bus_id).glob(name)), "") if bus_id else ""


def content(bus_id: str, name: str) -> bytes:
    """An attribute that is no text; empty if it is unknown."""
    with suppress(OSError):
        return (_folder(bus_id) / name).read_bytes()
    return b""


def lost_at(bus_id: str) -> str | None:
    """The device from which on a path reads as ones: it, or the port above, has fallen off the bus,
    or has no power. None while all answer."""
    lost = (each for each in chain(bus_id)[1:] if content(each, "config")[:4] == ALL_ONES)
    return next(lost, None)


def gpu_bus_ids() -> list[str]:
    """All NVIDIA and AMD GPUs: display controllers, and AMD's processing accelerators."""
    kinds = {(NVIDIA, "0x03"), *AMD_GPUS}
    return [
        bus_id
        for bus_id in sorted(path.name for path in _folder("").glob("*"))
        if (attribute(bus_id, "vendor"), attribute(bus_id, "class")[:4]) in kinds
    ]


def intel_cards() -> list[str]:
    """Intel's display controllers, but for a processor's own, which most desktops have: that is
    device 2 of bus 0, where no card can be."""
    return [
        bus_id
        for bus_id in sorted(path.name for path in _folder("").glob("*"))
        if attribute(bus_id, "vendor") == INTEL
        and attribute(bus_id, "class").startswith("0x03")
        and not re.fullmatch(r"[0-9a-f]+:00:02\.\d", bus_id)
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
        speed = max(_speed(end, "current") for end in ends)
        width = max(_width(end, "current") for end in ends)

        speeds = [_speed(end, "max") for end in ends]
        speed = min(speeds) or speed or max(speeds)
        if speed and width:
            by_device[ends[1]] = min(speed, target_speed(ends[0]) or speed), width
    return by_device


def max_rate(device: str, kind: str = "max") -> Rate | None:
    """The highest rate of a device at its end of a link, or the `current` one."""
    speed, width = _speed(device, kind), _width(device, kind)
    return (speed, width) if speed and width else None


def _speed(device: str, kind: str) -> float:
    """In GT/s, one of LANE_GB_S; 0 if it is unknown."""
    number = re.match(r"\d+\.?\d*(?= GT/s)", attribute(device, f"{kind}_link_speed"))
    speed = float(number[0]) if number else 0.0
    return speed if speed in LANE_GB_S else 0.0


def _width(device: str, kind: str) -> int:
    """In lanes; 0 if it is unknown."""
    width = files.whole(attribute(device, f"{kind}_link_width"))
    return width if width in WIDTHS else 0


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
        return SAME_SWITCH, [chain_a[len(common)], chain_b[len(common)]]
    if common:
        return ONE_ROOT_COMPLEX, [chain_a[1], chain_b[1]]

    sockets = {_socket(attribute(gpu, "numa_node")) for gpu in (a, b)}
    return ROOTLESS_PATHS[0 if "" in sockets else len(sockets)], []


def _socket(node: str) -> str:
    cpu = re.match(r"\d+", files.read(f"sys/devices/system/node/node{node}/cpulist"))
    topology = f"sys/devices/system/cpu/cpu{cpu[0] if cpu else ''}/topology"
    return files.read(f"{topology}/physical_package_id")


def _capability(bus_id: str, number: int, is_extended: bool) -> bytes | None:
    """The registers of a capability; empty without it; None if only root may read them, or if the
    device is lost."""
    config, visited = content(bus_id, "config"), set[int]()
    # Others than root read 0x40 bytes.
    if len(config) < (0x104 if is_extended else 0x44) or config.startswith(ALL_ONES):
        return None

    offset = 0x100 if is_extended else config[0x34]
    while offset >= 0x40 and offset not in visited:  # a broken list may lead back to itself
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header & (0xFFFF if is_extended else 0xFF) == number:
            return config[offset:]

        visited.add(offset)
        offset = header >> 20 if is_extended else header >> 8 & 0xFC
        if offset >= len(config):  # which was cut
            return None
    return b""


def driver(bus_id: str) -> str | None:
    """The driver that a device is bound to; None without one."""
    link = _folder(bus_id) / "driver"
    return link.resolve().name if link.exists() else None


def acs_redirects(bus_id: str) -> bool | None:
    """Whether ACS at a port sends peer traffic up to the CPU; None if only root may read it."""
    acs = _capability(bus_id, ACS_CAPABILITY, True)
    if acs is None or 0 < len(acs) < 8:
        return None
    return bool(acs) and bool(acs[6] & ACS_REDIRECTS)


def _register(bus_id: str, offset: int) -> int | None:
    """16 bits of the PCIe capability; None if unknown."""
    express = _capability(bus_id, EXPRESS_CAPABILITY, False)
    if not express or len(express) < offset + 2:
        return None
    return int.from_bytes(express[offset : offset + 2], "little")


def target_speed(port: str) -> float | None:
    """The speed that a port allows the link below it, in GT/s; None if unknown."""
    return dict(enumerate(LANE_GB_S, 1)).get((_register(port, TARGET) or 0) & 0xF)


def atomics(bus_id: str) -> dict[str, bool | None]:
    """By port above a device, whether AtomicOps get through: the root port completes them, others
    route them. None if only root may know."""
    states = dict[str, bool | None]()
    for port in chain(bus_id)[1:-1]:
        able, control = _register(port, ABILITIES), _register(port, CONTROL) or 0
        if able is None:
            states[port] = None
        elif states:  # a port of a switch
            states[port] = bool(able & ROUTES_ATOMICS and not control & BLOCKS_ATOMICS)
        else:  # the root port
            states[port] = able & COMPLETES_ATOMICS == COMPLETES_ATOMICS

    return states


def errors(bus_ids: Sequence[str]) -> dict[str, int]:
    """PCIe errors since the boot at these devices and at the ports above them, those that Linux
    counts: `{"correctable at 0000:00:01.1": 3}`."""
    counts = {}
    for device in sorted({device for bus_id in bus_ids for device in chain(bus_id)[1:]}):
        for kind in ("correctable", "nonfatal", "fatal"):
            total = re.search(r"TOTAL_ERR_\w+ (\d{1,18})$", attribute(device, f"aer_dev_{kind}"))
            if total:
                counts[f"{kind} at {device}"] = int(total[1])
    return counts


def new_errors(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """The errors that came between, in words. A device that was reset or lost hides its own."""
    lost = [kind for kind, number in before.items() if after.get(kind, -1) < number]
    counted = Counter(after) - Counter(before)
    sentences = [f"{number} {kind}" for kind, number in counted.items()]
    return sentences + [f"an unknown number of {kind}" for kind in lost]


def kernel_options() -> dict[str, bool | None]:
    """Whether this kernel has each of OPTIONS; None if its configuration cannot be read."""
    text = files.read(f"boot/config-{files.read('proc/sys/kernel/osrelease')}")
    with suppress(OSError, EOFError, zlib.error, UnicodeDecodeError):
        text = text or gzip.decompress((files.ROOT / "proc/config.gz").read_bytes()).decode()
    return {name: f"CONFIG_{name}=y" in text if "CONFIG_" in text else None for name in OPTIONS}


def forwards_between_ports() -> bool | None:
    """Whether Linux lets peers below different root ports reach each other, whichever ports: on
    AMD's CPUs from Zen on (cpu_supports_p2pdma in drivers/pci/p2pdma.c). None if unknown."""
    text = files.read("proc/cpuinfo")
    family = re.search(r"AuthenticAMD\s+cpu family\s*: (\d+)", text)
    if family is None:
        return False if "vendor_id" in text and "AuthenticAMD" not in text else None
    return int(family[1]) >= ZEN


def iommu(bus_id: str) -> str | None:
    """`off`, `passthrough` or `translating`; None if unknown."""
    device = _folder(bus_id)
    if device.exists() and not os.path.lexists(device / "iommu_group"):
        return "off"
    return IOMMU_TYPES.get(attribute(bus_id, "iommu_group/type"))


def bar(bus_id: str) -> tuple[int, int] | None:
    """The bytes and the address of a device's largest BAR; None if unknown."""
    lines = attribute(bus_id, "resource").splitlines()[:6]
    ends = filter(
        None, (re.match(r"0x([0-9a-f]{1,16}) 0x([0-9a-f]{1,16})\b", line) for line in lines)
    )
    windows = [[int(word, 16) for word in each.groups()] for each in ends]
    return max(((end - start + 1, start) for start, end in windows if end > start), default=None)


class KfdGpu(NamedTuple):
    """An AMD GPU in the kernel's KFD: its peers' links, `xGMI` or `PCIe`, by bus id, whether the
    driver could enable AtomicOps (None if unknown), and its architecture."""

    links: dict[str, str]
    has_atomics: bool | None
    arch: str | None


def kfd_gpus() -> dict[str, KfdGpu]:
    """KFD's GPUs by bus id; {} before Linux 6.0."""

    def properties(path: Path) -> dict[str, str]:
        return dict(
            re.findall(r"^(\w+) (\d{1,18})$", files.read(path / "properties"), re.MULTILINE)
        )

    nodes = files.ROOT / "sys/class/kfd/kfd/topology/nodes"
    bus_ids, archs = {}, {}
    for folder in nodes.glob("*"):
        node = properties(folder)
        if node.get("simd_count", "0") != "0" and "p2p_links_count" in node:
            location = int(node.get("location_id", 0))
            domain = int(node.get("domain", 0))
            bus, device = location >> 8 & 255, location >> 3 & 31
            bus_ids[folder.name] = f"{domain:04x}:{bus:02x}:{device:02x}.{location & 7}"
            archs[folder.name] = gfx_name(int(node.get("gfx_target_version", 0)))

    gpus = {}
    for name, bus_id in bus_ids.items():
        links = [*map(properties, (nodes / name).glob("*_links/*"))]
        kinds = {
            bus_ids[link["node_to"]]: "xGMI" if link.get("type") == XGMI else "PCIe"
            for link in links
            if link.get("node_to") in bus_ids
        }
        has_atomics = None
        if all("flags" in link for link in links):
            has_atomics = not any(int(link["flags"]) & NO_ATOMICS for link in links)
        gpus[bus_id] = KfdGpu(kinds, has_atomics, archs[name])
    return gpus


def gfx_name(version: int) -> str | None:
    """KFD's gfx_target_version as the compiler's name: 120001 is gfx1201, 90010 is gfx90a. None for
    0, of a kernel that does not know it."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}" if version else None


def over_xgmi(bus_id: str) -> list[str]:
    """The bus ids of the GPUs that an AMD GPU reaches without PCIe, also unseen ones."""
    gpu = kfd_gpus().get(bus_id)
    return [peer for peer, link in gpu.links.items() if link == "xGMI"] if gpu else []


def amdgpu_p2p() -> str | None:
    """amdgpu's `pcie_p2p`, `Y` or `N`, or `not built`; None without the driver, or if unknown."""
    parameters = files.ROOT / "sys/module/amdgpu/parameters"
    if not parameters.exists() or files.is_hidden(parameters / "pcie_p2p"):
        return None
    return files.read(parameters / "pcie_p2p") or "not built"
