"""Opens what a run stands on: the device that was asked for, and the peers' memory on it."""

from collectives.communicator import Communicator, Disagreement
from collectives.operation import Unsupported, World
from collectives.peer_buffer import PeerBuffer, ProbeFailed, connect
from kernels import gpu_driver
from kernels.device import MOST_RANKS, Device, DeviceError, Watch
from kernels.device_cpu import CpuDevice
from kernels.device_gpu import GpuDevice


def choose_gpus(seen: list[list[str]]) -> list[str]:
    """The PCI bus id that each rank of a host takes, from what each of them sees: one that no other has, and where
    there is none left its turn's.

    Under Slurm a rank may see one only, under mpirun all see all; who sees least goes first.
    """
    chosen: dict[int, str] = {}
    for rank in sorted(range(len(seen)), key=lambda rank: len(seen[rank])):
        free = [bus_id for bus_id in seen[rank] if bus_id not in chosen.values()]
        chosen[rank] = free[0] if free else seen[rank][rank % len(seen[rank])]
    return [chosen[rank] for rank in range(len(seen))]


def open_device(communicator: Communicator, name: str, share_gpus: bool) -> tuple[Device, list[str]]:
    """The device of that name on every rank, and what a reader of its results has to be told: why `auto` chose it.
    Raises Disagreement on all."""
    if name == "cpu":
        return _open_cpu(communicator), []
    refusal, seen = None, list[str]()
    try:
        vendor, seen = gpu_driver.visible_gpus()
        if name not in ("auto", vendor):
            raise DeviceError(f"there is no {name} device here: the installed CuPy is built for {vendor}")
    except DeviceError as error:
        refusal = str(error)
    if name == "auto":
        refusal = next((said for said in communicator.all_gather(refusal) if said), None)
        everyone = communicator.node_gather(seen)
        chosen = choose_gpus(everyone) if not refusal else []
        if not refusal and not share_gpus and len(set(chosen)) < len(chosen):
            refusal = f"{len(chosen)} ranks see {len({i for ids in everyone for i in ids})} GPU between them"
        refusal = next((said for said in communicator.all_gather(refusal) if said), None)
        if refusal:
            return _open_cpu(communicator), [f"--device auto chose the CPU: {refusal}."]
    with communicator.together(DeviceError):
        if refusal:
            raise DeviceError(refusal)
    chosen = choose_gpus(communicator.node_gather(seen))
    mine = chosen[communicator.local_rank]
    sharers = [rank for rank, bus_id in enumerate(chosen) if bus_id == mine]
    with communicator.together(DeviceError):
        if len(sharers) > 1 and not share_gpus:
            raise DeviceError(
                f"ranks {', '.join(map(str, sharers))} of this host would share GPU {mine}: start one rank a GPU, "
                "or add --ranks-share-gpus for a test"
            )
        device = GpuDevice(mine, len(sharers))
    kinds = communicator.all_gather((device.name, device.most_blocks, device.threads, len(sharers)))
    with communicator.together(DeviceError):
        other = next((r for r, kind in enumerate(kinds) if kind[0] != kinds[0][0]), None)
        if other is not None:
            raise DeviceError(
                f"rank 0 has a {kinds[0][0]} device and rank {other} a {kinds[other][0]} one; a run is of one"
            )
    device.most_blocks, device.threads = min(k[1] for k in kinds), min(k[2] for k in kinds)
    if max(k[3] for k in kinds) > 1:  # then no figure of this run is that of a wire
        device.ways = ("same_device", "host_staged")
    return device, [f"--device auto chose {device.name}."] if name == "auto" else []


def _open_cpu(communicator: Communicator) -> Device:
    with communicator.together(DeviceError, OSError):
        return CpuDevice()


def open_world(
    communicator: Communicator,
    device: Device,
    watch: Watch,
    yields: bool,
    timeout_s: float,
    memory: str = "auto",
    graph: bool = False,
) -> World:
    """Maps the peers' memory, or says in `peers` why there is none. `memory` is `auto`, `mapped` or `host_staged`.

    Raises Disagreement, on all ranks, where memory cannot be shared.
    """
    if communicator.hosts > 1:
        reason = f"its ranks are on {communicator.hosts} hosts, and memory is mapped within one"
        return World(communicator, device, Unsupported(reason), graph=graph)
    if communicator.size > MOST_RANKS:
        reason = f"{communicator.size} ranks, and a slab serves {MOST_RANKS} at most"
        return World(communicator, device, Unsupported(reason), graph=graph)
    ways = [way for way in device.ways if memory == "auto" or (memory == "host_staged") == (way == "host_staged")]
    if not ways:
        raise Disagreement(f"--memory {memory}: the {device.name} device has {', '.join(device.ways)}")
    peers: PeerBuffer | Unsupported
    try:
        peers = connect(communicator, device, watch, yields, timeout_s, ways)
    except ProbeFailed as failure:
        peers = Unsupported(str(failure))
    return World(communicator, device, peers, graph=graph)
