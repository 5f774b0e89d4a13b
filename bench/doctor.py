"""`python -m bench.doctor`: how this machine's GPUs reach each other, over what, and what stands in the way.

Alone it tells what /sys, /proc and the drivers' libraries know. Under mpirun, a rank a GPU, it also probes the peers'
memory as a benchmark does, and reads the links, which slow down when idle, while it copies over each directed pair.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import permutations
from pathlib import Path
from typing import Any, NoReturn, cast

from bench.harness.options import CANNOT, FINE, Parser
from bench.machine import environment
from bench.machine import pci as topology
from bench.machine.diagnosis import Facts, page
from bench.machine.gpu_state import driver_on_peers, nvidia_gpu
from bench.machine.placement import pin
from collectives.communicator import Communicator, Disagreement, launched_rank
from collectives.operation import DeviceError, Memory, Step, Unsupported, Watch, World
from collectives.world import open_device, open_world

COPY_BYTES = 256 << 20  # within one GPU: beyond its caches
LOAD_S, ALL_PAIRS_S = 0.5, 6.0  # in the first half of a pair's time its links come up to speed
UNDER_WAY = 16  # copies, while the links are read
LONGEST_S = 120.0


def examine(bus_ids: Sequence[str], root: Path = Path("/")) -> Facts:
    """What is known of these GPUs, of each directed pair of them and of the host, without loading a link."""
    amd_peers = topology.kfd(root)
    gpus = [_gpu(bus_id, root) | ({"nvlinks": []} if bus_id in amd_peers else {}) for bus_id in bus_ids]
    pairs = [{"reader": reader, "owner": owner, "gb_s": None} | _pair(gpus[reader], gpus[owner], amd_peers, root)
             for reader, owner in permutations(range(len(gpus)), 2)]
    return {"gpus": gpus, "pairs": pairs, "kernel": topology.kernel_p2p(root), "shm_bytes": topology.shm_bytes(root),
            "virtualisation": environment.describe(root=root)["os.virtualisation"]["value"],
            "peers": None, "refusals": [], "apart": False}


def _gpu(bus_id: str, root: Path) -> Facts:
    """What is known of a GPU; None where unknown."""
    nvml, links = nvidia_gpu(bus_id), topology.links(bus_id, root)
    memory_bytes, bar_bytes = topology.memory_bytes(bus_id, root)
    vendor, edge = topology.attribute(bus_id, "vendor", root), links[-1] if links else None
    return {"bus_id": bus_id, "vendor": vendor, "nvlinks": nvml.get("nvlinks"), "iommu": topology.iommu(bus_id, root),
            "name": nvml.get("name") or {topology.NVIDIA: "NVIDIA GPU", topology.AMD: "AMD GPU"}.get(vendor, "unknown"),
            "chipset": topology.through_chipset(topology.chain(bus_id, root)[1:-1], root),
            "memory_bytes": nvml.get("memory_bytes") or memory_bytes, "bar_bytes": nvml.get("bar_bytes") or bar_bytes,
            "links": topology.rates(links) or None,
            "slot_at": edge and edge.at, "slot": edge and edge.port, "card": edge and edge.card}


def _pair(reader: Facts, owner: Facts, amd_peers: dict[str, dict[str, str]], root: Path) -> Facts:
    """The path from one GPU to another, what the driver says of it, and ACS at the ports where PCIe turns."""
    one, other = reader["bus_id"], owner["bus_id"]
    if one == other:
        return {"path": "the same GPU", "status": "OK", "acs": {}}
    path, turns = topology.path_between(one, other, root)
    up = [[link["to"] for link in gpu["nvlinks"] or () if link["up"]] for gpu in (reader, owner)]
    if direct := up[0].count(other):
        path = f"NVLink x{direct}"
    elif switched := min(to.count("switch") for to in up):
        path = f"NVLink x{switched} through NVSwitch"
    elif amd_peers.get(one, {}).get(other) == "xGMI":
        path = "xGMI"
    known = one in amd_peers and other in amd_peers
    return {"path": path,
            "status": ("OK" if other in amd_peers[one] else "NOT_SUPPORTED") if known else driver_on_peers(one, other),
            "acs": {port: topology.redirects(port, root) for port in turns if path.startswith("PCIe")}}


def examine_world(world: World, load: bool = False) -> Facts:
    """The same for the GPUs of a world's ranks on this host, in their order, with what became of their peers' memory;
    every rank calls it. With `load` links are read under load, and copies are timed, which takes seconds."""
    communicator, device, peers = world.communicator, world.device, world.peers
    spaces = [os.readlink(f"/proc/self/ns/{name}") for name in ("ipc", "pid")]
    ranks = communicator.node_gather((device.facts["pci_bus_id"], device.facts["gpu"], spaces))
    facts = examine([bus_id for bus_id, _, _ in ranks])
    facts["apart"] = any(rank[2] != spaces for rank in ranks)
    for gpu, (_, name, _) in zip(facts["gpus"], ranks, strict=True):
        gpu |= {"name": name, "vendor": {"cuda": topology.NVIDIA, "hip": topology.AMD}[device.name]}
    if isinstance(peers, Unsupported):
        return facts | {"refusals": [peers.reason]}
    facts |= {"peers": peers.kind, "refusals": list(peers.refusals)}
    if load:
        _load_pairs(world, facts)
        for gpu, rates in zip(facts["gpus"], communicator.node_gather(_local_copies_gb_s(world)), strict=True):
            gpu["copies_gb_s"] = rates
    return facts


def _load_pairs(world: World, facts: Facts) -> None:
    """Copies over one directed pair after the other; what was reached, and the links meanwhile, go into the facts."""
    communicator, device, peers = world.communicator, world.device, world.peers
    assert not isinstance(peers, Unsupported)
    seconds = min(LOAD_S, ALL_PAIRS_S / max(1, len(facts["pairs"])))
    with communicator.together(DeviceError):
        sink = device.private(peers.slabs[0].size_bytes)
    for pair in facts["pairs"]:
        ends, found = [facts["gpus"][pair[end]] for end in ("reader", "owner")], None
        with communicator.together(DeviceError):
            if communicator.rank == pair["reader"]:
                ids = [gpu["bus_id"] for gpu in ends]
                found = _copy(world, sink, peers.slabs[pair["owner"]].address, seconds, ids)
        pair["gb_s"], links = communicator.all_gather(found)[pair["reader"]]
        for gpu in ends:
            gpu["links"] = links[gpu["bus_id"]]
    sink.close()


def _copy(world: World, to: Memory, origin: int, seconds: float, watched: Sequence[str] = ()) -> tuple[float, Facts]:
    """GB/s over the later half of so many seconds of copying from there, and the links of the `watched` GPUs at the end
    of the earlier half, while copies are under way."""
    device, peers = cast(Any, world.device), cast(Any, world.peers)
    kernels = device.compile("link_probe", {"WORLD": str(world.communicator.size), "ELEMENT": "Int32"})
    arguments = peers.arguments(origin, to.address, to.size_bytes // 4, to.size_bytes)
    step = Step(kernels.kernel("copy_local"), arguments, device.blocks_for(to.size_bytes))
    copy = device.caller(step)
    links: Facts = {}
    for _ in range(2):
        began_s, copies = time.perf_counter(), 0
        while (took_s := time.perf_counter() - began_s) < seconds / 2:
            copy()
            copies += 1
        if watched and not links:
            with device.calling(step.kernel.name):
                for _ in range(UNDER_WAY):
                    device.enqueue(step)
            links = {i: topology.rates(topology.links(i), under_load=True) or None for i in watched}
            copy()
    return copies * to.size_bytes / took_s / 1e9, links


def _local_copies_gb_s(world: World) -> dict[str, float]:
    """How fast this rank's GPU copies within itself, bytes read and written together, in each kind of memory that it
    can make slabs of; a kind that cannot be had is left out."""
    device: Any = world.device
    found = {}
    for kind in device.slab_types:
        with (suppress(DeviceError), closing(device.allocate_as(kind, COPY_BYTES)) as to,
              closing(device.allocate_as(kind, COPY_BYTES)) as origin):
            found[kind] = 2 * _copy(world, to, origin.address, 0.2)[0]
    return found


def examine_ranks(communicator: Communicator) -> Facts:
    """What the ranks find with their GPUs, or, where these cannot be opened, what can be told without, and why."""
    device = None
    try:
        opened, choice = open_device(communicator, "auto", share_gpus=False)
        if opened.name == "cpu":
            raise Disagreement(choice[0].partition(": ")[2])
        device = opened
        with communicator.together(DeviceError):
            watch = device.watch(Watch())
        return examine_world(open_world(communicator, device, watch, pin(communicator).crowded, 30.0), load=True)
    except Disagreement as refusal:
        why = str(refusal).removesuffix(".")
        if device:
            return examine_world(World(communicator, device, Unsupported(why)))
        return examine(topology.gpus()) | {"refusals": [why]}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Prints the report and exits: 0 it was printed, 2 the command line, 3 there is no GPU here."""
    Parser(prog="bench.doctor", usage="[mpirun -n RANKS] python -m bench.doctor", description=__doc__,
           epilog="exit status: 0 the report was printed; 2 the command line; 3 there is no GPU here").parse_args(argv)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)  # a rank that is lost must not keep the others for good
    communicator = None if launched_rank() is None else Communicator()
    facts = examine_ranks(communicator) if communicator else examine(topology.gpus())
    if not communicator or communicator.rank == 0:
        why = "; ".join(facts["refusals"]) or "under WSL, mpirun -n 1 python -m bench.doctor asks the driver"
        nothing = f"No GPU to examine: /sys/bus/pci/devices has none of NVIDIA's or AMD's; {why}."
        print(page(facts) if facts["gpus"] else nothing, flush=True)
    sys.exit(FINE if facts["gpus"] else CANNOT)


if __name__ == "__main__":
    main()
