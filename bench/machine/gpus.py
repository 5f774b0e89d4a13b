"""Examines GPUs and the paths between them, for `bench.doctor` and a run's head. `examine` reads
/sys, /proc and NVML, `examine_peers` adds peer memory, `open_and_examine` opens the GPUs for it."""

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from itertools import permutations
from typing import Any

from bench.machine import pci
from bench.machine.environment import virtualisation
from bench.machine.gpu_state import Facts, amd_card, intel_gpus, nvidia_gpu, nvidia_peer_status
from bench.machine.pci import KfdGpu
from bench.machine.placement import pin
from collectives.communicator import Communicator, Refusal
from collectives.operation import Unsupported, World
from collectives.peer_buffer import PeerBuffer, WaitPolicy
from collectives.probe import wire_speed
from collectives.world import open_device, open_world
from kernels.devices.device import Device, DeviceError, Watch
from kernels.devices.gpu_driver import APU_LABEL, legacy_ipc_fails

UNCACHED_SINCE = 7, 2  # HIP, on gfx1200 and gfx1201; that of ROCm 10.0 is 7.15
SHM = "/dev/shm"
LOADS = 10  # measurements of the wire, by whose end links and clocks are up


def examine(bus_ids: Sequence[str]) -> Facts:
    """The facts of these GPUs, their directed pairs and the host; None for an unknown fact."""
    amd_gpus = pci.kfd_gpus()
    gpus = [_gpu(bus_id, amd_gpus.get(bus_id)) for bus_id in bus_ids]
    pairs = [
        {"reader": reader, "owner": owner, **_pair(gpus[reader], gpus[owner], amd_gpus)}
        for reader, owner in permutations(range(len(gpus)), 2)
    ]
    return {
        "gpus": gpus,
        "pairs": pairs,
        "amdgpu_p2p": pci.amdgpu_p2p(),
        "forwards": pci.forwards_between_ports(),
        "kernel": pci.kernel_options(),
        "errors": pci.errors(bus_ids),
        "wire": None,
        "uncached": None,
        "graphs": "",
        "bindings": "",
        "shm_bytes": shutil.disk_usage(SHM).total if os.path.isdir(SHM) else None,
        "virtualisation": virtualisation() or "unknown",
        "legacy_ipc": any(gpu["vendor"] == pci.AMD for gpu in gpus) and legacy_ipc_fails(),
        "peers": None,
        "obstacles": [],
        "refusals": [],
        "left_out": intel_gpus(),
    }


def _gpu(bus_id: str, amd_gpu: KfdGpu | None) -> Facts:
    """A GPU by itself: its slot, its links and its card. `amd_gpu`: what KFD knows of it."""
    vendor = pci.attribute(bus_id, "vendor")
    links, rates = pci.links(bus_id), pci.rates(bus_id)
    port, card = links[-1] if links else ("", "")
    bar_bytes, bar = pci.bar(bus_id) or (None, None)
    counted = pci.errors([bus_id])
    atomics = pci.atomics(bus_id)
    states = {*atomics.values()} or {None}
    if amd_gpu:  # the driver has tried to enable them
        states = {amd_gpu.has_atomics}

    return {
        "bus_id": bus_id,
        "vendor": vendor,
        "name": {pci.NVIDIA: "NVIDIA GPU", pci.AMD: "AMD GPU"}.get(vendor, "unknown"),
        "arch": amd_gpu.arch if amd_gpu else None,
        # Under mpirun the GPU's own driver says it.
        "integrated": True if pci.attribute(bus_id, "hwmon/*/in1_label") == APU_LABEL else None,
        "driver": pci.driver(bus_id),
        "lost_at": pci.lost_at(bus_id),
        "iommu": pci.iommu(bus_id),
        "nvlinks": [] if amd_gpu else None,
        "links": rates or None,
        "link": rates[pci.narrowest(rates)] if rates else None,
        "slot_at": card,
        "own": pci.max_rate(bus_id, "current"),
        "slot": pci.max_rate(port),
        "card": pci.max_rate(card),
        "now": pci.max_rate(card, "current"),
        "target": pci.target_speed(port),
        "bar": bar and hex(bar),
        "bar_bytes": bar_bytes,
        "atomics": get_through(states),
        "refusing": ", ".join(port for port, passes in atomics.items() if passes is False),
        "errors": sum(counted.values()) if counted else None,
        **amd_card(bus_id),
        **nvidia_gpu(bus_id),
    }


def get_through(states: Collection[bool | None]) -> bool | None:
    """Whether AtomicOps get through all ports, of which each lets them through, does not, or is
    unknown (None)."""
    if False in states:
        return False
    return None if None in states else True


def _pair(reader: Facts, owner: Facts, amd_gpus: Mapping[str, KfdGpu]) -> Facts:
    """The path between two GPUs, the driver's status of peer access, and ACS along the path."""
    reader_id, owner_id = reader["bus_id"], owner["bus_id"]
    if reader_id == owner_id:
        return {"path": "the same GPU", "status": "OK", "acs": {}}

    path, ports = pci.path_between(reader_id, owner_id)
    reader_links, owner_links = (
        [link["to"] for link in gpu["nvlinks"] or () if link["up"]] for gpu in (reader, owner)
    )

    amd_link = amd_gpus[reader_id].links.get(owner_id) if reader_id in amd_gpus else None
    direct = reader_links.count(owner_id)
    switched = min(reader_links.count("switch"), owner_links.count("switch"))
    if direct:
        path = f"NVLink x{direct}"
    elif switched:
        path = f"NVLink x{switched} through NVSwitch"
    elif amd_link == "xGMI":
        path = amd_link

    if reader_id in amd_gpus and owner_id in amd_gpus:
        status = "OK" if amd_link else "NS"
    else:
        status = nvidia_peer_status(reader_id, owner_id)

    return {
        "path": path,
        "status": status,
        "acs": {port: pci.acs_redirects(port) for port in ports if path.startswith("PCIe")},
    }


def examine_peers(
    communicator: Communicator, device: Device, peers: PeerBuffer | Unsupported
) -> Facts:
    """The facts of the GPUs of this host's ranks, and of their peer memory. All ranks call it."""
    ranks = communicator.node_gather(device.facts | {"arch": device.arch})
    facts = examine([of_rank["pci_bus_id"] for of_rank in ranks])
    release = device.facts["runtime"]
    if device.arch.startswith("gfx120"):
        memory = "the uncached memory that is requested"
        if tuple(map(int, release.split(".")[:2])) < UNCACHED_SINCE:
            memory = (
                "fine-grained memory where uncached is requested: 7.2 and newer do not "
                "(ROCm/rocm-systems pull request 1670)"
            )
        facts["uncached"] = f"HIP {release} gives {device.arch} {memory}"

    facts["graphs"], facts["bindings"] = device.graph_defect, device.without_cupy
    vendor = {"cuda": pci.NVIDIA, "hip": pci.AMD}[device.name]
    for gpu, of_rank in zip(facts["gpus"], ranks, strict=True):
        gpu |= {"name": of_rank["gpu"], "vendor": vendor, "arch": of_rank["arch"]}
        gpu |= {"integrated": of_rank["integrated"]}

    if isinstance(peers, Unsupported):
        return facts | {"refusals": [peers.reason]}
    return facts | {"peers": peers.sharing, "refusals": list(peers.refusals)}


def examine_library(world: World) -> list[str]:
    """Sentences on NCCL or RCCL from its first all-reduce: transport, settings, failure."""
    library: Any = world.library  # of GPUs
    reason = ""
    try:
        library.smallest()
    except DeviceError as error:
        reason = str(error)

    notes: list[str] = library.describe(world)["notes"]
    return notes if reason in " ".join(notes) else [reason, *notes]


def open_linked(
    communicator: Communicator, name: str, share_gpus: bool, mixed_gpus: bool
) -> tuple[Device, list[str]]:
    """`open_device`; a GPU knows the peers that it reaches without PCIe, and who did not choose the
    CPU is told of GPUs that cannot be used."""
    device, notes = open_device(communicator, name, share_gpus, mixed_gpus)
    if device.is_cpu and name == "auto":
        notes += intel_gpus()
    device.over_xgmi = pci.over_xgmi(device.facts.get("pci_bus_id", ""))
    return device, notes


def open_and_examine(communicator: Communicator, mixed_gpus: bool) -> tuple[Facts, World | None]:
    """Opens and examines the ranks' GPUs, which may be of unlike architectures if they may be
    `mixed_gpus`. Returns their facts and the world; if they do not open, the facts with the reason,
    and None."""
    gpu, notes = None, list[str]()
    try:
        gpu, notes = open_linked(communicator, "gpu", False, mixed_gpus)
        with communicator.all_or_none():
            watch = gpu.watch(Watch())
        waits = WaitPolicy(watch, pin(communicator).oversubscribed)
        world = open_world(communicator, gpu, waits)

        wire = None
        if isinstance(world.peers, PeerBuffer):
            for _ in range(LOADS):
                wire = wire_speed(world.peers)
        facts = examine_peers(communicator, gpu, world.peers)
        return facts | {"wire": wire, "left_out": notes + facts["left_out"]}, world
    except Refusal as refusal:
        reason = str(refusal).removesuffix(".")
        if gpu:
            facts = examine_peers(communicator, gpu, Unsupported(reason))
            return facts | {"left_out": notes + facts["left_out"]}, None
        return examine(pci.gpu_bus_ids()) | {"refusals": [reason]}, None
