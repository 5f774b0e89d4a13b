"""The head of a run: the machine, the ranks, the cases, and notes made before measuring."""

import hashlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.harness.session import PACKAGES, Session, imported_from, source_digest
from bench.harness.suite import Suite
from bench.machine import environment, node
from bench.machine.diagnosis import summary
from bench.machine.gpu_watch import look
from bench.machine.gpus import examine_peers
from bench.machine.pci import describe_rate
from collectives.auto_table import case_of
from collectives.operation import Unsupported
from wiretax import __version__
from wiretax.record.schema import Run


class Machine(NamedTuple):
    """The facts of rank 0's host, the ranks, their GPUs (None on CPUs), and ids of hardware and
    software."""

    facts: environment.Environment
    ranks: list[dict[str, Any]]
    gpus: dict[str, Any] | None
    machine_id: str
    software_id: str


def examine(session: Session) -> Machine:
    """This machine, alike on all ranks."""
    world, cpus = session.world, session.place.cpus
    communicator, device = world.communicator, world.device
    rank: dict[str, Any] = {
        "rank": communicator.rank,
        "host": communicator.host,
        "node": node.label(communicator),
        "device": device.name,
        "arch": device.arch,
        "cpus": cpus,
        "numa": environment.numa_node(cpus[0]),
        **device.facts,
    }
    bus_id = device.facts.get("pci_bus_id")
    if bus_id:
        rank["throttle"] = look(bus_id).throttle
    ranks = communicator.all_gather(rank)
    values = {"mpi.thread_level": communicator.thread_level, **environment.of_gpus(ranks)}
    gpus = examine_peers(communicator, device, world.peers) if bus_id else None
    if gpus:
        links = {pair["path"] for pair in gpus["pairs"]}
        links |= {describe_rate(gpu["card"]) for gpu in gpus["gpus"]}
        values["gpu.links"] = sorted(links)
    facts = environment.describe(device.compiler, values)
    ids = environment.identities(facts, world.library.name, device.compiler)
    all_ids = communicator.all_gather(ids)
    if others := [str(rank) for rank, own in enumerate(all_ids) if own != all_ids[0]]:
        session.notes.append(
            f"The hosts differ: ranks {' '.join(others)} have other hardware or software than "
            "rank 0, and this run stores the facts of its host."
        )
    machine: Machine = communicator.broadcast(Machine(facts, ranks, gpus, *ids))
    return machine


def describe(session: Session, machine: Machine, suite: Suite) -> Run:
    """The head of the run. All ranks call it."""
    world, options = session.world, session.options
    communicator, peers = world.communicator, world.shared
    ranks_here = communicator.node_gather((communicator.rank, session.place.cpus))
    notes = [*session.notes]
    if session.place.oversubscribed:
        notes.append("Ranks share cores: they take turns, and the scheduler decides the times.")
    # How ranks reach each other's memory.
    if isinstance(peers, Unsupported):
        memory = {"behaved": f"none: {peers.reason}"}
        notes.append(f"Peer memory is not mapped: {peers.reason}.")
    else:
        memory = peers.types
        notes.append(
            f"Peer memory is {'mapped' if world.device.is_cpu else peers.sharing} "
            f"({memory['data']}) and was probed in every direction within one launch."
        )
        if peers.kind == "same_device":
            notes.append("Ranks share a GPU, so no time here measures a wire.")
        if any(peers.hdp_flush):
            notes.append("A writer flushes its peer's HDP before a flag.")
        if peers.refusals:
            notes.append(
                "Preferred ways to use the peers' memory do not work here: "
                f"{'; '.join(peers.refusals)}."
            )
        if isinstance(world.peers, Unsupported):
            notes.append(
                f"Between hosts {world.library.name} moves the data: {world.peers.reason}."
            )
    world_facts: dict[str, Any] = {
        "size": communicator.size,
        "hosts": communicator.hosts,
        "ranks": machine.ranks,
        "mpi_library": communicator.library,
    }
    if machine.gpus:
        library = world.library.describe(world)
        from_file = library.get("set_by_file", {})  # only what is no name and no path
        library["set_by_file"] = {
            name: environment.scrub_value(value)
            for name, value in from_file.items()
            if name in environment.SETTINGS
        }
        world_facts |= {"gpus": machine.gpus, "library": library}
        notes += [*summary(machine.gpus), *library["notes"]]
    return Run(
        run_id=session.flight.folder.stem,
        benchmark=options.command,
        version=__version__,
        program=source_digest(*map(imported_from, PACKAGES))[:12],
        argv=environment.scrub_argv(sys.argv[1:]),
        seed=options.seed,
        machine_id=machine.machine_id,
        software_id=machine.software_id,
        environment=machine.facts,
        memory=memory,
        link={"overhead_us": session.overhead_us, "auto_rtt_ns": world.round_trip_ns},
        clock_shared=world.shares_clock(),
        cases=suite.headers,
        world=world_facts,
        method=method_of(session, suite),
        notes=[*notes, *environment.threats(machine.facts, ranks_here)],
    )


def method_of(session: Session, suite: Suite) -> dict[str, Any]:
    """How the cases are measured, where not by default: what the options of METHOD say. For a graph
    and a table, whose defaults depend on the machine, it says what the run used: the table as a
    digest of its choices for these ranks, fastest first."""
    world, asked = session.world, session.options.method
    method = {name: value for name, value in asked.items() if name not in ("graph", "tuned")}
    if world.graph:
        method["graph"] = 1

    rows = sorted(world.rows, key=lambda row: (case_of(row), row.where.get("round_trip_ns", [0.0])))
    choices = [(case_of(row), row.algorithm) for row in rows]
    if choices and any(header.chosen and not header.library for header in suite.headers):
        method["tuned"] = hashlib.sha256(repr(choices).encode()).hexdigest()[:7]
    return method


def names_of_hosts(machine: Machine, host_names: Sequence[str]) -> str:
    """A line that tells the user which host has which label, from their names by rank, which a run
    does not store; "" for one host."""
    names = {
        rank["node"] or f"host {rank['host'] + 1}": name
        for rank, name in zip(machine.ranks, host_names, strict=True)
    }
    texts = ", ".join(f"{label} is {name}" for label, name in names.items())
    return f"hosts: {texts}\n" if len(names) > 1 else ""
