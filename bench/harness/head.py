"""The head of a run: the machine, the ranks, the planned cases, and what was found before anything was measured."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bench import VERSION
from bench.doctor import examine_world
from bench.harness.iteration import Subject, empty_subject
from bench.harness.timing import Bench, measure_link, run, times_us
from bench.machine import environment
from bench.machine.diagnosis import summary
from bench.machine.gpu_state import link_facts
from bench.machine.pci import said
from collectives.library import gpu as library_gpu
from collectives.library.mpi import library_name
from collectives.operation import Unsupported, World
from reports.result import Planned, Run


def link_ceilings(bench: Bench, links: dict[int, dict[str, Subject]]) -> dict[str, float]:
    """What the link's parts reach at the largest size, and what an empty collective takes; on rank 0."""
    if not links:
        return {}
    bench.flight.note("empty launches", text="")
    empty = run(bench, empty_subject(bench.world, bench.flight.watch), 20, 100, 0)
    gathered = bench.world.communicator.gather(empty)
    if gathered is not None:
        overhead_us = float(np.median(times_us(gathered, bench.clock_shared)["time"]))
        bench.overhead_us = 0.0 if bench.clock_shared else overhead_us
    size = max(links)
    for part in links[size].values():
        part.iterations = 20
    found = measure_link(bench, links[size], size, -1)
    if found is None:
        return {}
    a_us = {"copy_in": found.copy_in_us, "push": found.push_us, "peer_read": found.peer_read_us,
            "memory": found.memory_us}
    rates = {f"{part}_gb_s": size / time_us / 1e3 for part, time_us in a_us.items() if time_us}
    trip = {"round_trip_ns": max(found.link_rtt_ns)} if found.link_rtt_ns else {}
    return {"size_bytes": size, "overhead_us": overhead_us, **rates, **trip}


class Machine(NamedTuple):
    """What a run stands on: the host's facts, the ranks, their GPUs as the doctor sees them (None on CPUs), and what
    hardware and software are called in short."""

    facts: environment.Environment
    ranks: list[dict[str, Any]]
    gpus: dict[str, Any] | None
    machine_id: str
    software_id: str


def examine(options: Namespace, world: World, cpus: list[int]) -> Machine:
    """This machine, alike on all ranks; `cpus` are this rank's."""
    communicator, device = world.communicator, world.device
    facts = environment.describe(compiler=device.compiler, with_hostname=options.with_hostname)
    facts["mpi.thread_level"] = {"value": communicator.thread_level, "source": "MPI_Query_thread", "status": "ok"}
    rank: dict[str, Any] = {"rank": communicator.rank, "device": device.name, "arch": device.arch, "cpus": cpus}
    bus_id = device.facts.get("pci_bus_id")
    state = {"throttle": link_facts(bus_id).get("throttle")} if bus_id else {}
    ranks = communicator.all_gather(rank | {"numa": environment.numa_node(cpus[0])} | device.facts | state)
    facts |= environment.gpu_facts(ranks)
    here = {cpu for of_rank in communicator.node_gather(cpus) for cpu in of_rank}
    facts["cpu.smt_siblings"] = environment.siblings(here)
    gpus = None if device.name == "cpu" else examine_world(world)
    if gpus:
        links = {pair["path"] for pair in gpus["pairs"]} | {said(gpu["card"]) for gpu in gpus["gpus"]}
        known = "unknown" if "unknown" in links else "ok"
        facts["gpu.links"] = {"value": sorted(links), "source": "/sys/bus/pci/devices, NVML, KFD", "status": known}
    software = environment.software_id(facts, library_name(world), device.compiler)
    return Machine(*communicator.broadcast((facts, ranks, gpus, environment.machine_id(facts), software)))


def describe(command: str, options: Namespace, bench: Bench, machine: Machine, planned: list[Planned],
             link: dict[str, float], cpus: list[int], notes: Sequence[str]) -> Run:
    """The head of the run; `notes` are sentences that only the caller knows."""
    world = bench.world
    communicator, device = world.communicator, world.device
    here = communicator.node_gather((communicator.rank, cpus))
    found = [preflight(world)]
    if options.slowed_percent:
        found.insert(0, f"Slowed on purpose: our kernels take {options.slowed_percent:g} % longer than they need.")
    if not device.clock_shared and "overhead_us" in link:
        steps_us = device.facts["event_resolution_us"]
        apart = "of unknown resolution" if steps_us is None else f"at least {steps_us:g} us apart"
        empty = f"Each time has {link['overhead_us']:.2f} us in it that an empty launch takes"
        found.append(f"{empty}; events are {apart}.")
    world_facts = {
        "size": communicator.size, "hosts": communicator.hosts, "ranks": machine.ranks,
        "mpi_library": communicator.library, "mpi_thread_level": communicator.thread_level,
        "dispatch": options.dispatch, "device_asked": options.device, "slowed_percent": options.slowed_percent}
    if machine.gpus:
        used = library_gpu.describe(world)
        world_facts |= {"launch": "graph" if world.graph else "stream", "gpus": machine.gpus, "library": used}
        found += [*summary(machine.gpus), *used["notes"], *transport(used)]
    return Run(
        run_id=bench.flight.run_id, benchmark=command, version=VERSION, argv=environment.scrub_argv(sys.argv[1:]),
        seed=options.seed, machine_id=machine.machine_id, software_id=machine.software_id, environment=machine.facts,
        memory={} if isinstance(world.peers, Unsupported) else world.peers.types, link=link,
        clock_shared=bench.clock_shared, cases=planned, world=world_facts,
        notes=[*found, *notes, *environment.threats(machine.facts, here)])


def transport(used: dict[str, Any]) -> list[str]:
    """How the library really went, in a sentence; where that is not known its notes say so."""
    ways = sorted({way for pairs in used.get("transports", {}).values() for found in pairs.values() for way in found})
    return [f"{used['library']}, through {used['binding']}, goes by {', '.join(ways)}."] if ways else []


def preflight(world: World) -> str:
    """What became of the peers' memory, in a sentence."""
    peers = world.peers
    if isinstance(peers, Unsupported):
        return f"Peer memory is not mapped: {peers.reason}."
    how = {"mapped": "mapped", "host_staged": "host_staged, through the host",
           "same_device": "same_device: ranks share a GPU, and no time here is that of a wire"}[peers.kind]
    why = f" Better was refused: {'; '.join(peers.refusals)}." if peers.refusals else ""
    return f"Peer memory is {how} ({peers.types['data']}) and was probed byte by byte in every direction.{why}"
