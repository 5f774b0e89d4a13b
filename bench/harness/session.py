"""A command from its first line to its exit status: start MPI, agree, work, end together."""

import contextlib
import os
import secrets
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from bench.harness.options import CANNOT, USAGE, WRONG, RunOptions, print_out
from bench.harness.verify import WrongResult
from bench.harness.watchdog import FlightRecord, start_witness
from bench.machine.placement import Place, pin
from collectives.communicator import (
    Communicator,
    Disagreement,
    launched_rank,
    launched_ranks,
    scant_memory,
)
from collectives.operation import Unsupported, World
from collectives.peer_buffer import WaitPolicy, probe_kernels
from collectives.world import open_device, open_world
from kernels.devices.device import DeviceError, Memory, Step
from reports.result import ResultError, followed, is_stream

START_S = 20.0  # for MPI to start all ranks
WARNING_S = 0.3  # for mpirun to forward a warning before MPI can crash (1 in 6 runs lost it)
LEAST_FREE_BYTES = 1 << 20  # for the head, the flight records and some blocks
PING_PONGS = 100
SHARED_PING_PONGS = 4  # ranks that share a GPU take turns of milliseconds


@dataclass
class Session:
    """A rank's view of one command: its options, world, flight record and core.

    `notes` are sentences for the head of the run. `overhead_us` is the time of an empty collective,
    `measuring_s` the seconds spent in timed loops; rank 0 fills both.
    """

    options: RunOptions
    world: World
    flight: FlightRecord
    place: Place
    started_s: float
    notes: list[str] = field(default_factory=list)
    overhead_us: float = 0.0
    measuring_s: float = 0.0

    @property
    def communicator(self) -> Communicator:
        return self.world.communicator

    @cached_property
    def meet(self) -> Step:
        """The meeting before each timed stretch: over mapped memory, or the library's barrier. All
        ranks make it together. Raises Disagreement."""
        world = self.world
        with self.communicator.together(DeviceError):
            if isinstance(world.peers, Unsupported):
                return world.library.barrier(world)
            kernels = probe_kernels(world.device, self.communicator.size)
            return Step(kernels.kernel("meet"), world.peers.arguments(0, 0, 0, 0))

    def bind_meeting(self) -> None:
        """Makes `meet` and `link_probe` now: a machine without them is refused before the run has a
        file. All ranks call it together. Raises Disagreement."""
        _ = self.meet, self.link_probe

    @cached_property
    def link_probe(self) -> "LinkProbe | None":
        """The flag's ping-pong; None where no memory is mapped. All ranks make it together. Raises
        Disagreement."""
        world = self.world
        if isinstance(world.peers, Unsupported):
            return None
        with self.communicator.together(DeviceError):
            trip_ns = world.device.private(8)
            kernels = probe_kernels(world.device, self.communicator.size)
            trips = SHARED_PING_PONGS if world.peers.kind == "same_device" else PING_PONGS
            arguments = world.peers.arguments(0, trip_ns.address, trips, 0)
        return LinkProbe(Step(kernels.kernel("flag_ping_pong"), arguments), trip_ns)


@dataclass(frozen=True)
class LinkProbe:
    """Bounces a flag between pairs of ranks, and stores the mean round trip in ns."""

    step: Step
    trip_ns: Memory


def start(options: RunOptions, started_s: float, work: Callable[[Session], int]) -> NoReturn:
    """Does `work` on all ranks, and exits with the status that they agreed on."""
    # Until the flight record exists, a signal or a timer simply kills the process. MPI starts all
    # ranks or none, and no Python thread runs while it waits for a rank that never comes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(options.timeout_s, START_S))
    if warning := scant_memory():
        if not launched_rank():
            print(f"bench.{options.command}: {warning}", file=sys.stderr, flush=True)
        time.sleep(WARNING_S)
    communicator = Communicator(options.mpi_thread_level)
    status = USAGE
    if mistake := launch_mistake(communicator, options):
        say(communicator, f"bench.{options.command}: {mistake}")
    elif flight := open_flight(communicator, options):
        signal.setitimer(signal.ITIMER_REAL, 0)
        status = guarded(options, communicator, flight, started_s, work)
        communicator.finish()
        flight.close()
    print_out("")
    sys.exit(status)


def guarded(options: RunOptions, communicator: Communicator, flight: FlightRecord,
            started_s: float, work: Callable[[Session], int]) -> int:
    """Does `work` in a new session; an exception on one rank ends all ranks."""
    try:
        try:
            status = work(open_session(options, communicator, flight, started_s))
        except Disagreement as refusal:
            say(communicator, f"bench.{options.command}: {refusal}")
            status = WRONG if isinstance(refusal, WrongResult) else CANNOT
        # The normal end: the watchdogs see all ranks reach it, then the records go.
        flight.note("finished", case=None, block=None, text="")
        communicator.barrier()
        return status
    except Exception as error:  # noqa: BLE001 - any fault of one rank must end the others
        if isinstance(error, communicator.mpi.Exception):  # a peer was killed: the witness says so
            flight.give_way()
        # A full disk or a lost GPU is not a bug, and its sentence is enough.
        expected = isinstance(error, OSError | ResultError | DeviceError)
        details = "" if expected else traceback.format_exc()
        place = f"rank {flight.rank} failed at {flight.where()}"
        flight.end(f"{place}: {type(error).__name__}: {error}", flight.rank, "failed", WRONG,
                   details)
        return WRONG


def open_session(options: RunOptions, communicator: Communicator, flight: FlightRecord,
                 started_s: float) -> Session:
    """Opens the device, pins this rank and maps the peers. Raises Disagreement."""
    flight.note("open the device")
    device, notes = open_device(communicator, options.device, options.ranks_share_gpus)
    # Only CPU ranks are pinned: a GPU's rank only enqueues, and the library's threads would inherit
    # its single core.
    unpinned = Place(False, sorted(os.sched_getaffinity(0)), None)
    place = pin(communicator) if device.clock_shared else unpinned
    flight.note("map the peers")
    with communicator.together(DeviceError):
        flight.watch_on(device.watch(flight.watch))
        graph = options.graph
        refusal = device.reason_against_graphs() if graph is not False else None
        if graph and refusal:
            raise DeviceError(f"-G: {refusal}")
        graph = graph is not False and refusal is None
    waits = WaitPolicy(flight.watch, place.crowded, options.timeout_s)
    world = open_world(communicator, device, waits, options.memory, graph)
    return Session(options, world, flight, place, started_s, notes)


def say(communicator: Communicator, sentence: str) -> None:
    """Prints once for all ranks, on standard error, even if MPI took each rank for a world."""
    if communicator.rank == 0 and (communicator.size > 1 or not launched_rank()):
        print(sentence, file=sys.stderr, flush=True)


def launch_mistake(communicator: Communicator, options: RunOptions) -> str | None:
    """Why these ranks cannot form one run; None if they can."""
    launched = launched_ranks() or 1
    if options.keeps_run and communicator.size == 1 and launched > 1:
        return (f"{launched} ranks are announced, and {communicator.library} sees this one alone: "
                "start them with the mpirun that came with it, or in a job of Slurm with srun "
                "--mpi=pmi2 (for Open MPI --mpi=pmix)")
    lines = communicator.all_gather([options.command, *sys.argv[1:]])
    for rank, line in enumerate(lines):
        if line != lines[0]:
            return (f"rank {rank} was started with other options than rank 0, and a run has one "
                    "command line")
    return None


def open_flight(communicator: Communicator, options: RunOptions) -> FlightRecord | None:
    """Names the run, opens each rank's flight record and starts the host's witness. Where the
    results cannot be written it prints why, and returns None."""
    if not options.keeps_run:
        return FlightRecord("", None, communicator.rank, options.timeout_s)
    run_id, complaint = "", None
    if communicator.rank == 0:
        try:
            run_id = reserve_run(options)
        except OSError as error:
            complaint = f"cannot write {error.filename or options.out}: {error.strerror}"
    complaint = communicator.first_word(complaint)
    flight = None
    if not complaint:
        folder = Path(options.out) / f"{communicator.broadcast(run_id)}.flight"
        flight, complaint = start_flight(communicator, folder, options.timeout_s)
        complaint = communicator.first_word(complaint)
    if not complaint:
        return flight
    if flight:
        flight.close()
    say(communicator, f"bench.{options.command}: {complaint}")
    return None


def start_flight(communicator: Communicator, folder: Path,
                 timeout_s: float) -> tuple[FlightRecord | None, str | None]:
    """This rank's flight record with its watchdog, or a sentence that says why neither exists."""
    pids = dict(communicator.node_gather((communicator.rank, os.getpid())))
    flight, task = None, "start the process that watches over the ranks"
    try:
        if communicator.local_rank == 0:
            start_witness(folder, pids)
        task = f"write {folder}"
        flight = FlightRecord(folder.stem, folder, communicator.rank, timeout_s)
        task = "start the thread that watches over this rank"
        flight.start_watchdog(pids)
    except (OSError, RuntimeError) as error:  # threading raises RuntimeError
        if not flight:
            with contextlib.suppress(OSError):  # the last rank, or the witness, removes it
                folder.rmdir()
        return flight, f"cannot {task}: {getattr(error, 'strerror', error)}"
    return flight, None


@contextlib.contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """An OSError names this path, not a temporary file beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def reserve_run(options: RunOptions) -> str:
    """Checks that the run and its other files can be written, and makes the folder of its flight
    records, which reserves the run's name. Raises OSError."""
    folder = Path(options.out)
    with errors_naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(LEAST_FREE_BYTES))
    for path in map(Path, filter(None, (options.json_file, *options.output_files))):
        with errors_naming(path):
            if is_stream(path) or path.exists():
                path.open("ab").close()
            else:
                tempfile.TemporaryFile(dir=followed(path).parent).close()
    while True:
        now = f"{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%SZ}"
        run_id = f"{now}-{options.command}-{secrets.token_hex(3)}"
        with contextlib.suppress(FileExistsError):
            (folder / f"{run_id}.flight").mkdir(mode=0o755)
            if not (folder / f"{run_id}.jsonl").exists():
                return run_id
            (folder / f"{run_id}.flight").rmdir()
