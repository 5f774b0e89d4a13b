"""Examines GPUs and the paths between them, for `bench.doctor` and the head of a run.

`examine` reads /sys, /proc and NVML only. `examine_world` adds the ranks' peer memory, and can load
the links while it reads them.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bench.machine import pci
from bench.machine.environment import virtualisation
from bench.machine.gpu_state import Facts, nvidia_gpu, nvidia_peer_status
from bench.machine.placement import pin
from collectives.communicator import Communicator, Disagreement
from collectives.library import open_library
from collectives.operation import Unsupported, World
from collectives.peer_buffer import PeerBuffer, WaitPolicy, probe_kernels
from collectives.world import open_device, open_world
from kernels.devices.device import DeviceError, Memory, Step, Watch

if TYPE_CHECKING:
    from kernels.devices.gpu import GpuDevice

LOCAL_COPY_BYTES = 256 << 20  # more than a GPU's caches hold
LOCAL_COPY_S = 0.2
PAIR_S, ALL_PAIRS_S = 0.5, 6.0  # a link reaches full speed within the first half of a pair's time
QUEUED_COPIES = 16  # while the links are read
PEER_TIMEOUT_S = 30.0


def examine(bus_ids: Sequence[str], root: Path = Path("/")) -> Facts:
    """The facts of these GPUs, their directed pairs and the host; None for an unknown fact."""
    amd_peers = pci.kfd_peers(root)
    gpus = [_gpu(bus_id, amd_peers, root) for bus_id in bus_ids]
    pairs = []
    for reader, owner in permutations(range(len(gpus)), 2):
        pair = _pair(gpus[reader], gpus[owner], amd_peers, root)
        pairs.append({"reader": reader, "owner": owner, "gb_s": None, **pair})
    return {"gpus": gpus, "pairs": pairs, "amdgpu_p2p": pci.amdgpu_p2p(root),
            "shm_bytes": pci.shm_bytes(root), "virtualisation": virtualisation(root)["value"],
            "peers": None, "refusals": [], "apart": False}


def _gpu(bus_id: str, amd_peers: Facts, root: Path) -> Facts:
    nvml, links = nvidia_gpu(bus_id), pci.links(bus_id, root)
    memory_bytes, bar_bytes = pci.memory_bytes(bus_id, root)
    vendor = pci.attribute(bus_id, "vendor", root)
    name = {pci.NVIDIA: "NVIDIA GPU", pci.AMD: "AMD GPU"}.get(vendor, "unknown")
    slot = links[-1] if links else None
    return {"bus_id": bus_id, "vendor": vendor, "name": nvml.get("name") or name,
            "nvlinks": [] if bus_id in amd_peers else nvml.get("nvlinks"),
            "iommu": pci.iommu(bus_id, root),
            "chipset": pci.through_chipset(pci.chain(bus_id, root)[1:-1], root),
            "memory_bytes": nvml.get("memory_bytes") or memory_bytes,
            "bar_bytes": nvml.get("bar_bytes") or bar_bytes,
            "links": pci.rates(links) or None, "slot_at": slot and slot.device,
            "slot": slot and slot.port, "card": slot and slot.card}


def _pair(reader: Facts, owner: Facts, amd_peers: Facts, root: Path) -> Facts:
    """The path between two GPUs, the driver's status of peer access, and ACS along the path."""
    reader_id, owner_id = reader["bus_id"], owner["bus_id"]
    if reader_id == owner_id:
        return {"path": "the same GPU", "status": "OK", "acs": {}}
    path, ports = pci.path_between(reader_id, owner_id, root)
    reader_links, owner_links = (
        [link["to"] for link in gpu["nvlinks"] or () if link["up"]] for gpu in (reader, owner))
    direct = reader_links.count(owner_id)
    switched = min(reader_links.count("switch"), owner_links.count("switch"))
    if direct:
        path = f"NVLink x{direct}"
    elif switched:
        path = f"NVLink x{switched} through NVSwitch"
    elif amd_peers.get(reader_id, {}).get(owner_id) == "xGMI":
        path = "xGMI"
    if reader_id in amd_peers and owner_id in amd_peers:
        status = "OK" if owner_id in amd_peers[reader_id] else "NOT_SUPPORTED"
    else:
        status = nvidia_peer_status(reader_id, owner_id)
    ports = ports if path.startswith("PCIe") else []
    acs = {port: pci.acs_redirects(port, root) for port in ports}
    return {"path": path, "status": status, "acs": acs}


def examine_world(world: World, load: bool = False) -> Facts:
    """The facts of the GPUs of this host's ranks, and of their peer memory; all ranks call it.

    With `load` it reads the links during copies, and times all copies; this takes some seconds.
    """
    communicator, device, peers = world.communicator, world.device, world.peers
    namespaces = [os.readlink(f"/proc/self/ns/{name}") for name in ("ipc", "pid")]
    ranks = communicator.node_gather((device.facts, namespaces))
    facts = examine([of_rank["pci_bus_id"] for of_rank, _ in ranks])
    facts["apart"] = any(of_rank != namespaces for _, of_rank in ranks)
    vendor = {"cuda": pci.NVIDIA, "hip": pci.AMD}[device.name]
    for gpu, (of_rank, _) in zip(facts["gpus"], ranks, strict=True):
        gpu |= {"name": of_rank["gpu"], "vendor": vendor}
    if isinstance(peers, Unsupported):
        return facts | {"refusals": [peers.reason]}
    facts |= {"peers": peers.kind, "refusals": list(peers.refusals)}
    if load:
        _load_pairs(world, facts)
        rates = communicator.node_gather(_local_copies_gb_s(world))
        for gpu, copies_gb_s in zip(facts["gpus"], rates, strict=True):
            gpu["copies_gb_s"] = copies_gb_s
    return facts


def _load_pairs(world: World, facts: Facts) -> None:
    """Copies over one pair after the other; sets the pairs' bandwidth and the links in `facts`."""
    communicator, slabs = world.communicator, cast(PeerBuffer, world.peers).slabs
    seconds = min(PAIR_S, ALL_PAIRS_S / max(1, len(facts["pairs"])))
    with communicator.together(DeviceError):
        sink = world.device.private(slabs[0].size_bytes)
    for pair in facts["pairs"]:
        ends = [facts["gpus"][pair[end]] for end in ("reader", "owner")]
        measured = None
        with communicator.together(DeviceError):
            if communicator.rank == pair["reader"]:
                bus_ids = [gpu["bus_id"] for gpu in ends]
                measured = _copy(world, sink, slabs[pair["owner"]].address, seconds, bus_ids)
        pair["gb_s"], links = communicator.all_gather(measured)[pair["reader"]]
        for gpu in ends:
            gpu["links"] = links[gpu["bus_id"]]
    sink.close()


def _copy(world: World, sink: Memory, source: int, seconds: float,
          bus_ids: Sequence[str] = ()) -> tuple[float, Facts]:
    """Copies for some seconds; returns the GB/s of the second half, and the links of these GPUs,
    read between the halves while copies are queued."""
    device, peers = cast("GpuDevice", world.device), cast(PeerBuffer, world.peers)
    kernel = probe_kernels(device, world.communicator.size).kernel("copy_local")
    arguments = peers.arguments(source, sink.address, sink.size_bytes // 4, sink.size_bytes)
    step = Step(kernel, arguments, device.blocks_for(sink.size_bytes))
    copy = device.caller(step)
    _repeat(copy, seconds / 2)
    with device.calling(kernel.name):
        for _ in range(QUEUED_COPIES):
            device.enqueue(step)
    links: Facts = {bus_id: pci.rates(pci.links(bus_id), under_load=True) or None
                    for bus_id in bus_ids}
    copy()
    return sink.size_bytes / _repeat(copy, seconds / 2) / 1e9, links


def _repeat(call: Callable[[], None], seconds: float) -> float:
    """Calls repeatedly for at least this time; returns the mean seconds of a call."""
    start_s, calls = time.perf_counter(), 0
    while (elapsed_s := time.perf_counter() - start_s) < seconds:
        call()
        calls += 1
    return elapsed_s / calls


def _local_copies_gb_s(world: World) -> dict[str, float]:
    """The bandwidth of copies within this rank's GPU, reads plus writes, by kind of slab memory."""
    device = cast("GpuDevice", world.device)
    rates = {}
    for kind in device.slab_types:
        with (suppress(DeviceError),
              closing(device.allocate_as(kind, LOCAL_COPY_BYTES)) as sink,
              closing(device.allocate_as(kind, LOCAL_COPY_BYTES)) as source):
            rates[kind] = 2 * _copy(world, sink, source.address, LOCAL_COPY_S)[0]
    return rates


def examine_ranks(communicator: Communicator) -> Facts:
    """Examines the ranks' GPUs under load; if they do not open, without load, with the reason."""
    world = None
    try:
        device, notes = open_device(communicator, "auto", share_gpus=False)
        if device.name == "cpu":
            raise Disagreement(notes[0].partition(": ")[2])
        unmapped = Unsupported("the GPUs did not open")
        world = World(communicator, device, unmapped, open_library(communicator, device))
        with communicator.together(DeviceError):
            watch = device.watch(Watch())
        waits = WaitPolicy(watch, pin(communicator).crowded, PEER_TIMEOUT_S)
        return examine_world(open_world(communicator, device, waits), load=True)
    except Disagreement as refusal:
        facts = examine_world(world) if world else examine(pci.gpu_bus_ids())
        return facts | {"refusals": [str(refusal).removesuffix(".")]}
