"""Recorded machines with every file that the doctor and the head of a run read, and files of /sys
and /proc that lie, are cut, or cannot be read."""

import gzip
import random
import shutil
import struct
from pathlib import Path

from bench.machine.placement import SIBLINGS
from tests.bench.machines import KFD_NODES, RECORDED, lay_out, recorded, with_express, write

MACHINES = sorted(path.stem for path in RECORDED.glob("*.json"))
HUGE, NEGATIVE = 10**30, -7
TEXTS = "vbios_version", "vendor"  # which may be any
CPUS = "sys/devices/system/cpu"
HOST: dict[str, str | bytes] = {
    "proc/config.gz": gzip.compress(b"CONFIG_PCI_P2PDMA=y\nCONFIG_HSA_AMD_P2P=y\n" * 40),
    "proc/cpuinfo": "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel name\t: A\nflags\t: fpu",
    "proc/loadavg": "0.50 0.40 0.30 1/234 5678",
    "proc/self/cgroup": "0::/job",
    "proc/stat": "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10",
    "proc/sys/kernel/osrelease": "6.17.0",
    "sys/class/dmi/id/sys_vendor": "A maker",
    "sys/fs/cgroup/job/cpu.max": "150000 100000",
    "sys/module/amdgpu/parameters/pcie_p2p": "Y",
    "sys/devices/system/node/node0/cpulist": "0-1",
    SIBLINGS.format(0): "0-1",
    SIBLINGS.format(1): "0-1",
    f"{CPUS}/cpu0/topology/physical_package_id": "0",
    f"{CPUS}/cpu0/cpufreq/scaling_governor": "performance",
    f"{CPUS}/cpu0/node0/present": "1",
    f"{CPUS}/intel_pstate/no_turbo": "1",
    **{
        f"{CPUS}/cpu0/cache/index0/{name}": text
        for name, text in {
            "level": "1",
            "type": "Data",
            "size": "32K",
            "shared_cpu_list": "0-1",
        }.items()
    },
}
# Of each device on a path, and of each display controller.
PORT: dict[str, str | bytes] = {
    "aer_dev_correctable": "RxErr 0\nTOTAL_ERR_COR 0",
    "config": with_express(able=0b111 << 6, target=4),
}
GPU: dict[str, str | bytes] = {
    "resource": "0x0000380000000000 0x00003807ffffffff 0x000000000014220c",
    "iommu_group/type": "identity",
    "numa_node": "0",
    "mem_info_vram_total": str(32 << 30),
    "mem_info_vram_used": "0",
    "mem_info_vram_vendor": "samsung",
    "gpu_busy_percent": "0",
    "gpu_metrics": struct.pack("<HBB", 256, 1, 3) + bytes(252),
    "hwmon/hwmon3/power1_cap": "300000000",
    "hwmon/hwmon3/power1_average": "50000000",
    "hwmon/hwmon3/in1_label": "vddgfx",
    "pp_dpm_sclk": "0: 500Mhz\n1: 2400Mhz *",
    "pp_dpm_mclk": "0: 96Mhz\n1: 1258Mhz *",
    "unique_id": "1234",
    "vbios_version": "113-D7",
}


def whole_machine(root: Path, name: str) -> list[str]:
    """Lays the machine out with all these files. Returns the bus ids of its display controllers."""
    write(lay_out(root, name), HOST)
    gpus = []
    for folder, files in recorded(name)["pci"].items():
        device, more = root / "sys/devices" / folder, dict(PORT)
        if files.get("class", "").startswith("0x03"):
            gpus.append(device.name)
            more |= GPU
        write(device, {file: text for file, text in more.items() if not (device / file).exists()})
    for node, bus_id in enumerate(gpus, 1):
        location = int(bus_id[5:7], 16) << 8
        properties = f"simd_count 240\np2p_links_count 1\nlocation_id {location}\ndomain 0"
        links = {
            f"p2p_links/{to}/properties": f"type 2\nnode_to {to}\nflags 1"
            for to in range(1, len(gpus) + 1)
        }
        write(
            root / KFD_NODES / str(node),
            {"properties": f"{properties}\ngfx_target_version 90010", **links},
        )
    return gpus


def cards_below_switches(root: Path, count: int, **attributes: str) -> list[str]:
    """Lays out NVIDIA's GPUs, eight below a switch and two switches below a root complex. Returns
    their bus ids."""
    bus_ids = []
    for number in range(count):
        switch, slot = divmod(number, 8)
        domain, port = f"{switch // 2:04x}", 1 + switch % 2
        path = f"{port:02x}:00.0", f"{port:02x}:{1 + slot:02x}.0", f"{16 * port + slot:02x}:00.0"
        device = root / f"sys/devices/pci{domain}:00/{domain}:00:{port:02x}.0"
        for part in path:
            device = device / f"{domain}:{part}"
        write(device, {"class": "0x030200", "vendor": "0x10de", **attributes})
        for each in (device, device.parent, device.parents[1], device.parents[2]):
            link = root / "sys/bus/pci/devices" / each.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(each)
        bus_ids.append(device.name)
    return bus_ids


def forge(path: Path, chance: random.Random) -> str:
    """Replaces a file by one of these kinds of damage, whose name it returns."""
    content = path.read_bytes()
    kinds = {
        "absent": b"",
        "empty": b"",
        "cut": content[: len(content) // 2],
        "huge": _numbers(content, HUGE),
        "negative": _numbers(content, NEGATIVE),
        "zero": _numbers(content, 0),
        "text": b"unknown speed\n",
        "binary": chance.randbytes(len(content)),
        "ones": b"\xff" * len(content),
        "folder": b"",
        "loop": b"",
        "unreadable": b"",
    }
    if path.name in TEXTS:
        kinds = {kind: bad for kind, bad in kinds.items() if kind not in ("huge", "negative")}
    kind = chance.choice([*kinds])
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "unreadable":  # for root too, whom no mode of a file stops
        path.symlink_to("/proc/self/mem")
    elif kind != "absent":
        path.write_bytes(kinds[kind])
    return kind


def _numbers(content: bytes, number: int) -> bytes:
    """The content with this instead of its last number."""
    words = content.split()
    places = [at for at, word in enumerate(words) if word[:1].isdigit()]
    if places:
        words[places[-1]] = str(number).encode()
    return b" ".join(words) + b"\n"


def forget(path: Path) -> None:
    """Removes whatever stands at a path."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
