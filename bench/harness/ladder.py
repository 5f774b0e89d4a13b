"""Climbs from host memory to collectives over peers' memory, for `bench.doctor --ladder`. Where
peers hang the host, or copies work and collectives do not, the ranks' flight records tell after a
reset how far the climb came: each rung's name is on disk before the rung starts.

All rungs are first climbed in host memory, the control: if they fail there, the peers are not to
blame."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bench.harness.console import CANNOT, FINE, WRONG, print_out
from bench.harness.iteration import Buffers, case_iteration, come_late, nothing
from bench.harness.sampler import SoakLaunch, SoakSequence, captured
from bench.harness.session import Session
from collectives.algorithms import general
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Refusal
from collectives.connect import connect
from collectives.operation import CollectiveCase, Unsupported, World
from collectives.probe import show
from collectives.world import modes_of
from kernels.devices.device import Counts, DeviceError
from wiretax.record.flight_records import read_flight
from wiretax.record.writing import sync_names

if TYPE_CHECKING:
    from collectives.library.gpu_library import NcclLibrary

SIZES_BYTES = 16, 4 << 20, 16
ROUNDS = 10
STALL_NS = 50_000_000
CONTROL = "host memory: "
OUTCOMES = {FINE: "works", WRONG: "wrong", CANNOT: "refused"}


def stores(session: Session, entry: str = "show_stores", **how: Any) -> str | None:
    return show(session.world.mapped, entry, **how)


def all_reduces(session: Session, is_graph: bool = False, stall_ns: int = 0) -> str | None:
    """All-reduces small, large and small, ten times; rank 0 stalls before each."""
    world = session.world
    send, receive = (memories[world.rank] for memories in world.mapped.registered)
    buffers = Buffers(send, receive, 0)
    launches = []
    with world.communicator.all_or_none(DeviceError):
        algorithm = general("all_reduce", pushes=True, variant="copied")
        if isinstance(algorithm, Unsupported):
            raise DeviceError(algorithm.reason)
        late = come_late(world, 0 if world.rank else stall_ns)
        for size_bytes in SIZES_BYTES:
            count, collective = size_bytes // 4, COLLECTIVES["all_reduce"]
            case = CollectiveCase(collective, count, DATATYPES["float32"], "sum", 0, 0)
            case = buffers.place(world, case)
            operation = algorithm.bind(world, case)
            if isinstance(operation, Unsupported):
                raise DeviceError(operation.reason)
            launches.append(SoakLaunch(case, case_iteration(world, buffers, case, operation)))
        sequence = captured(world, launches) if is_graph else SoakSequence(launches)
        idle = nothing(world)

    world.device.run(sequence.actions(late), idle, Counts(ROUNDS, 0), world.watch)
    for launch in launches:
        if wrong := launch.iteration.read_wrong().elements:
            return f"{wrong} wrong elements in all-reduces of {launch.case.size_bytes} B"
    return None


def map_peer_memory(session: Session) -> None:
    """From here on the session's world has the peers' memory, unprobed. Raises Refusal."""
    world, modes = session.world, modes_of(session.world.device, "mapped")
    own = world.communicator, world.device, world.mapped.waits
    session.world = replace(world, peers=connect(*own, modes, probes=False))
    register(session.world)
    peers = session.world.mapped
    if peers.refusals and world.rank == 0:
        print_out(f"peer memory is {peers.sharing} ({'; '.join(peers.refusals)})\n")


def register(world: World) -> None:
    for _ in range(2):
        world.mapped.register(max(SIZES_BYTES))


def call_library(session: Session) -> str | None:
    library = cast("NcclLibrary", session.world.library)
    if not library.opened:
        raise Refusal(library.missing)
    try:
        library.smallest()
    except DeviceError as error:
        return str(error)
    return None


# What is tried, in this order, in both memories; it says what is wrong. Even ranks have odd peers.
STEPS: dict[str, Callable[[Session], str | None]] = {
    "stores of even ranks": partial(stores, rounds=1, writers=0x55),
    "stores of odd ranks": partial(stores, rounds=1, writers=0xAA),
    "stores of all ranks": partial(stores, rounds=1),
    "flags there and back": partial(stores, size_bytes=0),
    "reads": partial(stores, entry="show_reads"),
    "one kernel, many rounds": stores,
    "packets": partial(stores, entry="show_packets"),
    "all-reduces, small, large, small": all_reduces,
    "the same in a graph": partial(all_reduces, is_graph=True),
    "the same with a stalled rank": partial(all_reduces, stall_ns=STALL_NS),
}
RUNGS = {
    **{CONTROL + name: work for name, work in STEPS.items()},
    "peer memory: mapped": map_peer_memory,
    **{f"peer memory: {name}": work for name, work in STEPS.items()},
    "the GPUs' library": call_library,
}


def rung(session: Session, name: str, work: Callable[[Session], str | None]) -> int:
    """Does the work on all ranks, and returns the status, the same on every rank. Raises
    DeviceError if it hangs."""
    flight, communicator = session.flight, session.communicator
    flight.note(name)
    flight.page.flush()  # onto the disk
    communicator.barrier()

    try:
        sentence = work(session)
        if flight.watch.timed_out:
            raise DeviceError(f"rank {flight.watch.peer} never answered")
        sentence = communicator.first_reason(sentence)
        status = WRONG if sentence else FINE
    except Refusal as refusal:
        status, sentence = CANNOT, str(refusal)
    if communicator.rank == 0:
        why = f" ({sentence})" if sentence else ""
        print_out(f"{name}: {OUTCOMES[status]}{why}\n")
    return status


def unfinished(own: Path) -> list[str]:
    """A line for each rank of the other climbs that have not ended. `own`: this one's records."""
    return [
        f"The climb {path} has not ended: {record.get('name')} was in its step "
        f"{record.get('step')}.\n"
        for path in sorted(own.parent.glob("*-doctor-*.flight"))
        if path != own
        for record in read_flight(path).ranks.values()
    ]


def climb(session: Session) -> int:
    """Climbs; returns the exit status, the same on every rank. Raises Refusal, DeviceError."""
    register(session.world)
    own, is_first = session.flight.folder, session.communicator.rank == 0
    run = own.with_suffix(".jsonl")  # without an end, it keeps the records
    if is_first:
        print_out("".join(unfinished(own)))
        run.touch()
    for folder in own, own.parent:
        sync_names(folder)

    statuses = set[int]()
    for name, work in RUNGS.items():
        statuses.add(status := rung(session, name, work))
        if status == CANNOT or (status and name.startswith(CONTROL)):
            break
    if is_first:
        run.unlink()
    return WRONG if WRONG in statuses else max(statuses)
