"""Opens what a run stands on: the device that was asked for, and the peers' memory on it."""

from collectives.communicator import Communicator, Disagreement
from collectives.operation import Unsupported, World
from collectives.peer_buffer import PeerBuffer, ProbeFailed, connect
from kernels.devices import gpu_driver
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import MOST_RANKS, Device, DeviceError, Watch
from kernels.devices.gpu import GpuDevice


def choose_gpus(seen: list[list[str]]) -> list[str]:
    """The PCI bus id that each rank of a host takes, from what each of them sees: one that no other has, and where
    there is none left its turn's.

    Under Slurm a rank may see one only, under mpirun all see all; who sees least goes first.
    """
    chosen: dict[int, str] = {}
    for rank in sorted(range(len(seen)), key=lambda rank: len(seen[rank])):
        free = (bus_id for bus_id in seen[rank] if bus_id not in chosen.values())
        chosen[rank] = next(free, seen[rank][rank % len(seen[rank])])
    return [chosen[rank] for rank in range(len(seen))]


def open_device(communicator: Communicator, name: str, share_gpus: bool) -> tuple[Device, list[str]]:
    """The device of that name on every rank, and, for readers of results, why `auto` chose it. Raises Disagreement."""
    if name == "cpu":
        with communicator.together(DeviceError, OSError):
            return CpuDevice(), []
    refusal, seen = None, list[str]()
    try:
        vendor, seen = gpu_driver.visible_gpus()
        if name not in ("auto", vendor):
            raise DeviceError(f"there is no {name} device here: the installed CuPy is built for {vendor}")
    except DeviceError as error:
        refusal = str(error)
    everyone = communicator.node_gather(seen)
    chosen = choose_gpus(everyone) if all(everyone) else []
    if name == "auto":
        if len(set(chosen)) < len(chosen) and not share_gpus:
            refusal = f"{len(chosen)} ranks see {len({i for ids in everyone for i in ids})} GPU between them"
        if refusal := communicator.first_word(refusal):
            return open_device(communicator, "cpu", share_gpus)[0], [f"--device auto chose the CPU: {refusal}."]
    with communicator.together(DeviceError):
        if refusal:
            raise DeviceError(refusal)
    mine = chosen[communicator.local_rank]
    sharers = [rank for rank, bus_id in enumerate(chosen) if bus_id == mine]
    with communicator.together(DeviceError):
        if len(sharers) > 1 and not share_gpus:
            raise DeviceError(f"ranks {', '.join(map(str, sharers))} of this host would share GPU {mine}: start one "
                              "rank a GPU, or add --ranks-share-gpus for a test")
        device = GpuDevice(mine, len(sharers))
    kinds = communicator.all_gather((device.name, device.most_blocks, device.threads, len(sharers)))
    if other := next((rank for rank, kind in enumerate(kinds) if kind[0] != kinds[0][0]), 0):
        both = f"rank 0 has a {kinds[0][0]} device and rank {other} a {kinds[other][0]} one"
        raise Disagreement(f"{both}; a run is of one")
    device.most_blocks, device.threads = min(k[1] for k in kinds), min(k[2] for k in kinds)
    if max(k[3] for k in kinds) > 1:  # then no figure of this run is that of a wire
        device.ways = ("same_device", "host_staged")
    return device, [f"--device auto chose {device.name}."] if name == "auto" else []


def open_world(communicator: Communicator, device: Device, watch: Watch, yields: bool, timeout_s: float,
               memory: str = "auto", graph: bool = False) -> World:
    """Maps the peers' memory, or says in `peers` why there is none. `memory` is `auto`, `mapped` or `host_staged`.

    Raises Disagreement, on all ranks, where memory cannot be shared.
    """
    ways = [way for way in device.ways if memory == "auto" or (memory == "host_staged") == (way == "host_staged")]
    peers: PeerBuffer | Unsupported
    if communicator.hosts > 1:
        peers = Unsupported(f"its ranks are on {communicator.hosts} hosts, and memory is mapped within one")
    elif communicator.size > MOST_RANKS:
        peers = Unsupported(f"{communicator.size} ranks, and a slab serves {MOST_RANKS} at most")
    elif not ways:
        raise Disagreement(f"--memory {memory}: the {device.name} device has {', '.join(device.ways)}")
    else:
        try:
            peers = connect(communicator, device, watch, yields, timeout_s, ways)
        except ProbeFailed as failure:
            peers = Unsupported(str(failure))
    return World(communicator, device, peers, graph=graph)
