"""`python -m bench.doctor`: how this machine's GPUs reach each other, over what, and what stands in the way.

Alone it tells what /sys, /proc and the drivers' libraries know. Under mpirun, a rank a GPU, it also maps and probes the
peers' memory as a benchmark does, and then copies over each directed pair while a thread reads the state of the links,
which slow down when idle. Every GPU's own copies are timed in each kind of memory that its slabs could be made of.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any, NoReturn

from bench import environment, topology
from bench.cli import CANNOT, FINE, Parser
from bench.diagnosis import Facts, page, summary
from bench.gpu_state import driver_on_peers, library, nvidia_bus_ids, nvidia_gpu
from bench.placement import pin
from collectives.communicator import Communicator, Disagreement, launched_rank
from collectives.operation import DeviceError, Memory, Step, Unsupported, Watch, World
from collectives.world import open_device, open_world

__all__ = ["examine", "examine_world", "main", "summary"]  # the last for who heads a run with it
COPY_BYTES = 256 << 20  # within one GPU: beyond its caches
LOAD_S = 0.5  # for a pair, in which its links come up to speed
LONGEST_S = 120.0
KINDS = {"nvidia": ("nvidiactl", "nvidia-uvm", "nvidia[0-9]*"), "amd": ("kfd", "dri/renderD*")}  # of device files


def examine(bus_ids: Sequence[str], root: Path = Path("/")) -> Facts:
    """What is known of these GPUs, of each directed pair of them and of the host, without loading a link."""
    gpus = [_gpu(bus_id, root) for bus_id in bus_ids]
    amd_peers = topology.kfd(root)
    host = {
        **topology.container(root),
        "kernel": topology.kernel_p2p(root),
        "virtualisation": environment.describe(root=root)["os.virtualisation"]["value"],
        "denied": _denied([gpu["vendor"] for gpu in gpus], root),
    }
    return {
        "gpus": gpus,
        "pairs": [
            {"reader": reader, "owner": owner, "gb_s": None, "link_gb_s": None}
            | _pair(gpus[reader], gpus[owner]["bus_id"], amd_peers, root)
            for reader, owner in permutations(range(len(gpus)), 2)
        ],
        "host": host,
        "peers": None,
        "refusals": [],
        "apart": False,
        "under_load": False,
    }


def _pair(reader: Facts, owner: str, amd_peers: dict[str, dict[str, str]], root: Path) -> Facts:
    """The path from one GPU to another, what the driver says of it, and ACS at the ports where PCIe turns."""
    own = reader["bus_id"]
    if own == owner:
        return {"path": "the same GPU", "status": "OK", "acs": {}}
    path, turns = topology.path_between(own, owner, root)
    up = [link["to"] for link in reader["nvlinks"] if link["up"]]
    if count := up.count(owner) or up.count("switch"):
        path = f"NVLink x{count}{'' if owner in up else ' through NVSwitch'}"
    elif amd_peers.get(own, {}).get(owner) == "xGMI":
        path = "xGMI"
    if own in amd_peers and owner in amd_peers:
        status = "OK" if owner in amd_peers[own] else "NOT_SUPPORTED"
    else:
        status = driver_on_peers(own, owner)
    acs = {port: topology.acs(port, root) for port in turns if path.startswith("PCIe")}
    return {
        "path": path,
        "status": status,
        "acs": {port: None if bits is None else sorted(bits) for port, bits in acs.items()},
    }


def _gpu(bus_id: str, root: Path) -> Facts:
    vendor = {topology.NVIDIA: "nvidia", topology.AMD: "amd"}.get(topology.vendor(bus_id, root) or "", "unknown")
    nvml = nvidia_gpu(bus_id) if vendor != "amd" else {}
    return {
        "bus_id": bus_id,
        "vendor": vendor,
        "name": nvml.get("name") or f"{vendor} GPU",
        "chipset": topology.through_chipset(topology.chain(bus_id, root)[1:-1], root),
        "iommu": topology.iommu(bus_id, root),
        "memory_bytes": nvml.get("memory_bytes") or topology.vram_bytes(bus_id, root),
        "bar_bytes": nvml.get("bar1_bytes") or topology.largest_bar_bytes(bus_id, root),
        "nvlinks": nvml.get("nvlinks", []),
        **_link(bus_id, root, under_load=False),
    }


def _link(bus_id: str, root: Path, under_load: bool) -> Facts:
    """The narrowest link up to the root port, the most that the card can do, and its slot: [GT/s, lanes]."""
    slot, least = topology.slot_link(bus_id, root), topology.narrowest(bus_id, root, under_load)
    return {
        "link": [least.speed if under_load else least.full_speed, least.width] if least else None,
        "link_at": least and least.at,
        "card_most": [slot.card_speed, slot.card_width] if slot else None,
        "slot_most": [slot.port_speed, slot.port_width] if slot else None,
        "slot_at": slot and slot.at,
    }


def _denied(vendors: list[str], root: Path) -> list[str]:
    """The device files that these GPUs need and this process may not open, with why."""
    found = []
    for pattern in (pattern for vendor in dict.fromkeys(vendors) for pattern in KINDS.get(vendor, ())):
        paths = list((root / "dev").glob(pattern))
        if not any(os.access(path, os.R_OK | os.W_OK) for path in paths):
            found.append(f"/dev/{pattern} {'is closed to this user' if paths else 'is missing'}")
    return found


def examine_world(world: World, load: bool = False) -> Facts:
    """The same for the GPUs of a world's ranks on this host, in their order, with what became of their peers' memory;
    every rank calls it. With `load` links are read under load, and copies are timed, which takes seconds."""
    communicator, device, peers = world.communicator, world.device, world.peers
    ranks = communicator.node_gather((device.facts["pci_bus_id"], device.facts["gpu"], topology.container()))
    facts = examine([bus_id for bus_id, _, _ in ranks])
    for gpu, (_, name, _) in zip(facts["gpus"], ranks, strict=True):
        gpu |= {"name": name, "vendor": {"cuda": "nvidia", "hip": "amd"}[device.name]}
    facts["apart"] = len({(space["ipc"], space["pid"]) for _, _, space in ranks}) > 1
    if isinstance(peers, Unsupported):
        facts["refusals"] = [peers.reason]
    else:
        facts |= {"peers": peers.kind, "refusals": list(peers.refusals)}
    if load and facts["peers"]:
        load_pairs(world, facts)
        for gpu, rates in zip(facts["gpus"], communicator.node_gather(local_copies_gb_s(world)), strict=True):
            gpu["copies_gb_s"] = rates
    return facts


def load_pairs(world: World, facts: Facts) -> None:
    """Copies over one directed pair after the other, and puts what was reached, and the links' state meanwhile, into
    the facts. What a link allows is that of the narrower of the pair's two."""
    communicator, device = world.communicator, world.device
    assert not isinstance(world.peers, Unsupported)
    slabs = world.peers.slabs
    with communicator.together(DeviceError):
        sink = device.private(slabs[0].size_bytes)
    for pair in facts["pairs"]:
        reached: list[float] = []
        seen: dict[str, Facts] = {}
        with communicator.together(DeviceError):
            if communicator.rank == pair["reader"]:
                copy = _copier(world, sink, slabs[pair["owner"]].address, sink.size_bytes)
                with _watching([facts["gpus"][pair[end]]["bus_id"] for end in ("reader", "owner")]) as seen:
                    reached.append(_rate_gb_s(copy, sink.size_bytes, min(LOAD_S, 6 / len(facts["pairs"]))))
        pair["gb_s"], states = communicator.all_gather((reached[0] if reached else None, seen))[pair["reader"]]
        for gpu in facts["gpus"]:
            if state := states.get(gpu["bus_id"]):
                gpu |= state
        links = [facts["gpus"][pair[end]]["link"] for end in ("reader", "owner")]
        if pair["path"].startswith("PCIe") and all(links):
            pair["link_gb_s"] = min(topology.gb_s(*link) for link in links)
    facts["under_load"] = True
    sink.close()


def _copier(world: World, to: Memory, origin: int, size_bytes: int) -> Callable[[], None]:
    device = world.device
    kernels = device.compile("link_probe", {"WORLD": str(world.communicator.size), "ELEMENT": "Int32"})
    assert not isinstance(world.peers, Unsupported)
    arguments = world.peers.arguments(origin, to.address, size_bytes // 4, size_bytes)
    return device.caller(Step(kernels.kernel("copy_local"), arguments, device.blocks_for(size_bytes)))


def _rate_gb_s(copy: Callable[[], None], size_bytes: int, seconds: float) -> float:
    """GB/s over the later half of so many seconds of copying."""
    copies, started_s = 0, time.perf_counter()
    while (now_s := time.perf_counter()) < started_s + seconds:
        if now_s < started_s + seconds / 2:
            copies, timed_s = 0, now_s
        copy()
        copies += 1
    return copies * size_bytes / (time.perf_counter() - timed_s) / 1e9


@contextmanager
def _watching(bus_ids: Sequence[str]) -> Iterator[dict[str, Facts]]:
    """Reads the links of these GPUs now and then; yields the fastest state that each was seen in, by bus id."""
    seen: dict[str, Facts] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for bus_id in bus_ids:
                state = _link(bus_id, Path("/"), under_load=True)
                before = seen.get(bus_id, state)["link"]
                if state["link"] and topology.gb_s(*state["link"]) >= topology.gb_s(*before):
                    seen[bus_id] = state

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def local_copies_gb_s(world: World) -> dict[str, float]:
    """How fast this rank's GPU copies within itself, bytes read and written together, in each kind of memory that it
    can make slabs of; a kind that cannot be had is left out."""
    device: Any = world.device
    found = {}
    for kind in device.slab_types:
        memories: list[Memory] = []
        try:
            memories += [device.allocate_as(kind, COPY_BYTES) for _ in range(2)]
            found[kind] = 2 * _rate_gb_s(_copier(world, memories[0], memories[1].address, COPY_BYTES), COPY_BYTES, 0.2)
        except DeviceError:
            continue
        finally:
            for memory in memories:
                memory.close()
    return found


def examine_ranks(communicator: Communicator) -> Facts:
    """What the ranks find with their GPUs, or, where these cannot be opened, what can be told without, and why."""
    try:
        device, choice = open_device(communicator, "auto", share_gpus=False)
        if device.name == "cpu":
            raise Disagreement(" ".join(choice))
        with communicator.together(DeviceError):
            watch = device.watch(Watch())
    except Disagreement as refusal:
        return examine_alone() | {"refusals": [str(refusal).removesuffix(".")]}
    try:
        world = open_world(communicator, device, watch, pin(communicator)[0], 30.0)
    except Disagreement as refusal:
        world = World(communicator, device, Unsupported(str(refusal)))
    return examine_world(world, load=True)


def examine_alone() -> Facts:
    """What one process can tell of all GPUs of the host."""
    return examine(topology.gpus() or nvidia_bus_ids())


def looked_at() -> str:
    """What was searched where no GPU was found."""
    libraries = [
        library(*names)[1] or f"{names[0]} sees none" for names in (("pynvml", "nvmlInit"), ("amdsmi", "amdsmi_init"))
    ]
    return f"No GPU to examine: none of NVIDIA's or AMD's is in /sys/bus/pci/devices; {'; '.join(libraries)}."


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Prints the report and exits: 0 it was printed, 2 the command line, 3 there is no GPU here."""
    parser = Parser(
        prog="bench.doctor",
        usage="[mpirun -n RANKS] python -m bench.doctor [--format table|json]",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status:\n  0 the report was printed; 2 the command line; 3 there is no GPU here",
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="table or json (table)")
    options = parser.parse_args(argv)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)  # a rank that is lost must not keep the others for good
    communicator = None if launched_rank() is None else Communicator()
    facts = examine_ranks(communicator) if communicator else examine_alone()
    if not communicator or communicator.rank == 0:
        if options.format == "json":
            print(json.dumps(facts, indent=1))
        else:
            print(page(facts) if facts["gpus"] else " ".join([looked_at(), *facts["refusals"]]))
    sys.stdout.flush()
    sys.exit(FINE if facts["gpus"] else CANNOT)


if __name__ == "__main__":
    main()
