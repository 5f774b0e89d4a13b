"""Opens the World of a run: the requested device, the peers' memory on it, and the library."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from collectives.communicator import Communicator, Refusal
from collectives.connect import connect
from collectives.operation import Library, Unsupported, World
from collectives.peer_buffer import PeerBuffer, WaitPolicy
from kernels.devices.cpu import CpuDevice
from kernels.devices.device import Device, DeviceError


def open_device(
    communicator: Communicator, name: str, share_gpus: bool, mixed_gpus: bool = False
) -> tuple[Device, list[str]]:
    """The device, and notes on what `auto` chose and on GPUs that no rank uses; "gpu" is any GPU.
    Ranks use GPUs of unlike architectures only if they may be `mixed_gpus`. Raises Refusal, also if
    `auto` would choose the CPU beside a GPU that CuPy cannot use."""
    if name == "cpu":
        with communicator.all_or_none(DeviceError, OSError):
            return CpuDevice(), []
    chosen, left_out, refusal = _visible_gpus(communicator, name, mixed_gpus)
    lacks_gpus = len(set(chosen)) < len(chosen) and not share_gpus
    left_out_sentence = None
    if lacks_gpus and left_out:  # `auto` would measure the CPU beside enough GPUs
        others, number = " and ".join(left_out), len(set(chosen))
        left_out_sentence = (
            f"{len(chosen)} ranks need a GPU each, and {number} of the commonest kind can be used "
            f"here: {others} would set the times of all; start {number} "
            f"{'rank' if number == 1 else 'ranks'}, or add --mixed-gpus"
        )
    if sentence := communicator.first_reason(left_out_sentence):
        raise Refusal(sentence)
    if name == "auto":
        if lacks_gpus:
            refusal = f"{len(chosen)} ranks see {len(set(chosen))} GPU between them"
        if refusal := communicator.first_reason(refusal):
            device, _ = open_device(communicator, "cpu", share_gpus)
            return device, [f"--device auto chose the CPU: {refusal}."]
    device = _open_gpu(communicator, chosen, share_gpus, mixed_gpus)
    notes = [f"--device auto chose {device.name}."] if name == "auto" else []
    if others := ", ".join(dict.fromkeys(chain(*communicator.all_gather(left_out)))):
        notes.append(f"Left out: {others}, not of the commonest kind; --mixed-gpus uses all GPUs.")
    return device, notes


def _visible_gpus(
    communicator: Communicator, name: str, mixed_gpus: bool
) -> tuple[list[str], list[str], str | None]:
    """The GPUs for the ranks of this host by their PCI bus ids, those of another kind in words, and
    a sentence that says why `auto` chooses the CPU. Under mpirun each rank sees all GPUs, under
    Slurm perhaps one. Raises Refusal without GPUs, for `auto` only beside a GPU."""
    # Not at the top: a CPU run loads nothing that belongs to GPUs.
    from kernels.devices import gpu_access, gpu_driver

    refusal, visible, left_out = None, list[str](), list[str]()
    with communicator.all_or_none():
        try:
            vendor, visible, others = gpu_driver.visible_gpus(mixed_gpus)
            left_out = [*map(str, others)]
            if name not in ("auto", "gpu", vendor):
                raise DeviceError(
                    f"there is no {name} device here: the installed CuPy is built for {vendor}"
                )
        except DeviceError as error:
            refusal = gpu_access.with_remedy(error)
            if name != "auto":
                raise DeviceError(refusal) from error
            if node := gpu_access.gpu_here():  # nobody measures a CPU beside a GPU by accident
                raise DeviceError(
                    f"a GPU is here ({node}) and cannot be used: {refusal}; to measure the CPU add "
                    "--device cpu"
                ) from error
    if not all(by_rank := communicator.node_gather(visible)):
        return [], [], refusal
    chosen = [gpus[rank % len(gpus)] for rank, gpus in enumerate(by_rank)]
    return chosen, left_out, refusal


def _open_gpu(
    communicator: Communicator, chosen: list[str], share_gpus: bool, mixed_gpus: bool
) -> Device:
    """This rank's GPU. Ranks of one run use one kind of GPU with one grid. Raises Refusal."""
    from kernels.devices.gpu import GpuDevice

    bus_id = chosen[communicator.local_rank]
    sharers = [rank for rank, other in enumerate(chosen) if other == bus_id]
    with communicator.all_or_none():
        if len(sharers) > 1 and not share_gpus:
            raise DeviceError(
                f"ranks {', '.join(map(str, sharers))} of this host would share GPU "
                f"{bus_id}: start one rank a GPU; for tests, benchmarks take --ranks-share-gpus"
            )
        device = GpuDevice(bus_id, len(sharers))
    own = device.name, device.arch, device.most_blocks, device.threads, len(sharers)
    names, archs, blocks, threads, sharing = zip(*communicator.all_gather(own), strict=True)
    nodes = communicator.all_gather(device.most_graph_nodes)
    for rank, name in enumerate(names):
        if name != names[0]:
            raise Refusal(
                f"{communicator.rank_name(0)} has a {names[0]} device and "
                f"{communicator.rank_name(rank)} a {name} device; a run uses one "
                "kind"
            )
        if archs[rank] != archs[0] and not mixed_gpus:
            raise Refusal(
                f"{communicator.rank_name(0)} has a GPU of the kind {archs[0]} and "
                f"{communicator.rank_name(rank)} one of the kind {archs[rank]}; to measure unlike "
                "GPUs together add --mixed-gpus"
            )
    device.most_blocks, device.threads = min(blocks), min(threads)
    device.most_graph_nodes = min(filter(None, nodes), default=None)
    if max(sharing) > 1:  # then no figure of this run measures a wire
        device.sharing = tuple(mode.replace("mapped", "same_device") for mode in device.sharing)
    return device


def modes_of(device: Device, memory: str) -> list[str]:
    """The device's ways of sharing this kind of memory. Raises Refusal without any."""
    modes = [
        mode
        for mode in device.sharing
        if memory == "auto" or (memory == "host_staged") == (mode == "host_staged")
    ]
    if not modes:
        raise Refusal(
            f"--memory {memory}: the {device.name} device has {', '.join(device.sharing)}"
        )
    return modes


def open_world(
    communicator: Communicator,
    device: Device,
    waits: WaitPolicy,
    memory: str = "auto",
    graph: bool = False,
) -> World:
    """Maps the peers' memory, or says in `peers` why that failed. `memory` is `auto`, `mapped`,
    `host_staged` or both; of both the first is `peers`. Raises Refusal if memory cannot be
    shared."""
    kinds = [modes_of(device, kind) for kind in memory.split(",")]
    # Not at the top: a run loads one device and one library.
    library: Library
    if device.is_cpu:
        from collectives.library.mpi import MpiLibrary

        library = MpiLibrary(communicator, device)
    else:
        from collectives.library.gpu_library import NcclLibrary

        library = NcclLibrary(communicator, device)
    if communicator.hosts == 1:
        mapped = [connect(communicator, device, waits, modes) for modes in kinds]
        first, *others = (
            World(communicator, device, peers, library, waits.watch, graph) for peers in mapped
        )
        return replace(first, other_memory=others)
    if len(kinds) > 1:
        raise Refusal(f"--memory {memory}: one kind at a time between hosts")
    unmapped = Unsupported(
        f"its ranks are on {communicator.hosts} hosts, and memory is mapped within one "
        "(if these are containers of one host: docs/cluster.md says what to type)",
        depends_on_size=True,
    )
    world, rail = World(communicator, device, unmapped, library, waits.watch, graph), None
    if len({*map(len, communicator.nodes)}) == 1:
        own = [ranks[communicator.local_rank] for ranks in communicator.nodes]
        rail = world.among(own)
    return replace(world, node=_open_node(world, waits, kinds[0]), rail=rail)


def _open_node(world: World, waits: WaitPolicy, modes: Sequence[str]) -> World:
    """The world of this host's ranks. Its memory is mapped on all hosts or on none."""
    node = world.among(world.communicator.nodes[world.communicator.host])
    try:
        peers = connect(node.communicator, world.device, waits, modes)
    except Refusal as refusal:
        peers = Unsupported(str(refusal))
    reason = peers.reason if isinstance(peers, Unsupported) else None
    if reason := world.communicator.first_reason(reason):
        peers = Unsupported(f"the ranks of a host cannot map each other's memory: {reason}")
    elif isinstance(peers, PeerBuffer):
        kinds = world.communicator.all_gather(peers.kind)
        if other := next((kind for kind in kinds if kind != kinds[0]), None):
            peers = Unsupported(
                f"the hosts differ: memory is {kinds[0]} for rank 0 and {other} "
                f"for rank {kinds.index(other)}; --memory host_staged is alike"
            )
    return replace(node, peers=peers)
