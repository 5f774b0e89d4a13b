"""A command from its first line to its exit status: start MPI, agree, work, end together."""

import hashlib
import mmap
import os
import platform
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NoReturn

from bench.harness.console import CANNOT, USAGE, WRONG, print_out, say
from bench.harness.flight import LOOK_S, FlightRecord
from bench.harness.guard import start_rank, start_witness
from bench.harness.options import RunOptions
from bench.harness.parser import Parser
from bench.harness.progress import Progress
from bench.harness.verify import WrongResult
from bench.harness.watchdog import Watchdog
from bench.harness.witness import record_end
from bench.machine import node
from bench.machine.gpus import open_linked
from bench.machine.placement import Place, pin
from collectives.communicator import Communicator, Mistake, Refusal
from collectives.operation import Unsupported, World
from collectives.peer_buffer import WaitPolicy
from collectives.probe import ping_pong
from collectives.world import open_world
from kernels.devices import compile_cache
from kernels.devices.device import DeviceError, Step
from kernels.devices.shared_memory import available_bytes
from wiretax import __version__
from wiretax.common.launched import RANK_VARIABLES, SIZE_VARIABLES, launched_rank, launched_ranks
from wiretax.common.owners import opened
from wiretax.common.program import BENCH, speaks
from wiretax.record.result import ResultError
from wiretax.record.writing import check_named, write_errors

SOURCES = ".py", ".cu", ".cpp", ".h"
MEASURED = "collectives", "kernels"  # the packages whose code is measured
PACKAGES = "bench", *MEASURED, "reports", "wiretax.common", "wiretax.record"
START_S = 20.0  # for MPI to start all ranks
LEAST_FREE_BYTES = 1 << 20  # for the head, the flight records and some blocks
PROBES = 31  # of the link for `auto`: their median ignores a slow one


@dataclass
class Session:
    """A rank's view of one command."""

    options: RunOptions
    world: World
    watchdog: Watchdog
    place: Place
    notes: list[str] = field(default_factory=list)  # sentences for the head of the run
    overhead_us: float = 0.0  # of an empty collective in each time, on rank 0
    began_ns: int = 0  # the first block, by rank 0's stamps, on rank 0

    @property
    def flight(self) -> FlightRecord:
        return self.watchdog.flight

    @property
    def communicator(self) -> Communicator:
        return self.world.communicator

    def compile_s(self) -> float:
        """For how many seconds a rank has waited for compilers. All ranks call it."""
        return float(max(self.communicator.all_gather(sum(compile_cache.waits_s))))

    def uncounted_s(self) -> float:
        """The seconds of compilers that --max-time does not count: as long again at most. All ranks
        call it."""
        return min(self.compile_s(), self.options.max_time_s)

    @cached_property
    def meet(self) -> Step:
        """The barrier before each timed stretch. All ranks make it. Raises Refusal."""
        with self.communicator.all_or_none():
            if isinstance(self.world.peers, Unsupported):
                return self.world.library.barrier(self.world)
            arguments, ranks = self.world.mapped.arguments(), self.communicator.size
            return self.world.device.step("link_probe", "meet", arguments, WT_WORLD=ranks)

    @cached_property
    def round_trip_ns(self) -> Callable[[], float]:
        """Bounces a flag between pairs of ranks, and returns this rank's round trip; 0 without a
        partner or mapped memory. All ranks make it together. Raises Refusal."""
        if isinstance(self.world.peers, Unsupported):
            return lambda: 0.0
        with self.communicator.all_or_none():
            bounce = ping_pong(self.world.mapped)

        def measure() -> float:
            trip_ns = bounce()
            if self.flight.watch.timed_out:
                self.watchdog.wait_for_end()
            return trip_ns

        return measure


def start(options: RunOptions, work: Callable[[Session], int]) -> NoReturn:
    """Does `work` on all ranks, and exits with the status that they agreed on; an exception on one
    rank ends all ranks."""
    guard = start_rank()
    limit_s = max(options.timeout_s, START_S)
    signal.setitimer(signal.ITIMER_REAL, limit_s + 2)  # in case that no thread runs
    late = threading.Timer(limit_s, end_start, (options, limit_s))
    late.daemon = True
    late.start()
    progress = Progress(options.command, options.quiet or not options.keeps_run)
    progress.show(f"start MPI, {launched_ranks() or 1} ranks")
    compile_cache.listeners.append(progress.compiling)
    communicator = Parser(prog=f"{BENCH}{options.command}").start_mpi(options.mpi_thread_level)
    try:
        require_one_run(communicator, options)
        watchdog = start_watchdog(communicator, options, guard)
    except Refusal as refusal:
        say_once(communicator, options, str(refusal))
        print_out("")
        sys.exit(USAGE)
    late.cancel()
    signal.setitimer(signal.ITIMER_REAL, 0)
    flight = watchdog.flight
    flight.progress = progress
    try:
        try:
            status = work(open_session(options, communicator, watchdog))
        except Refusal as refusal:
            say_once(communicator, options, str(refusal))
            status = {WrongResult: WRONG, Mistake: USAGE}.get(type(refusal), CANNOT)
        # The normal end: the watchdogs see all ranks reach it, then the records go.
        flight.note("finished", case=None, block=None, text="")
        communicator.barrier()
    except Exception as error:  # noqa: BLE001 - any fault of one rank must end the others
        if isinstance(error, communicator.mpi.Exception):  # a peer was killed: the witness says so
            time.sleep(2 * LOOK_S)
        # A full disk, full memory or a lost GPU is not a bug, and its sentence is enough.
        expected = isinstance(error, OSError | ResultError | DeviceError | MemoryError)
        trace = "" if expected else f"\n{traceback.format_exc().rstrip()}"
        watchdog.end(flight.record, "failed", WRONG, f": {type(error).__name__}: {error}{trace}")
    communicator.finish()
    watchdog.close()
    print_out("")
    sys.exit(status)


def end_start(options: RunOptions, limit_s: float) -> None:
    """Ends a rank whose MPI still waits for other ranks. The first that runs says so."""
    signal.setitimer(signal.ITIMER_REAL, 0)  # this thread runs
    rank = launched_rank() or 0
    time.sleep(2 * min(rank, 2))  # where a lower rank spoke, the launcher ends this
    say(
        f"{BENCH}{options.command}",
        f"MPI has not started all {launched_ranks() or 1} ranks in {limit_s:g} s: a rank, a host "
        "or the network between hosts does not answer, or the launcher does not belong to this "
        "MPI; docs/cluster.md lists what to type",
    )
    with suppress(OSError):  # over a cut link the launcher would wait for minutes
        folder = Path(tempfile.mkdtemp(suffix=".flight"))
        record_end(folder, rank, "did not start MPI")
        start_witness(folder, {rank: os.getpid()}, platform.node())
    time.sleep(1)  # the launcher would kill rank 0 before it has spoken
    os._exit(WRONG)


def open_session(
    options: RunOptions,
    communicator: Communicator,
    watchdog: Watchdog,
) -> Session:
    """Opens the device, pins this rank and maps the peers. Raises Refusal."""
    flight = watchdog.flight
    flight.note("open the device")
    device, notes = open_linked(
        communicator, options.device, options.ranks_share_gpus, options.mixed_gpus
    )
    device.most_graph_nodes = options.graph_nodes or device.most_graph_nodes
    # Only CPU ranks are pinned: a GPU library's threads would inherit their rank's single core.
    unpinned = Place(False, sorted(os.sched_getaffinity(0)))
    place = pin(communicator) if device.is_cpu else unpinned
    flight.note("map the peers")
    with communicator.all_or_none():
        if options.hdp_flush == "off":
            if not device.may_flush_hdp:
                raise Refusal(
                    f"--hdp-flush off: the {device.name} device has no host data path to flush; "
                    "AMD GPUs have"
                )
            device.may_flush_hdp = False
        flight.watch = device.watch(flight.watch)
        refusal = device.reason_against_graphs() if options.graph != 0 else None
        if options.graph and refusal:
            raise DeviceError(f"-G: {refusal}")
    graph = options.graph != 0 and not refusal
    if graph and device.most_graph_nodes and not options.graph_nodes:
        notes.append(
            f"Graphs hold at most {device.most_graph_nodes} kernels: longer ones read stale values "
            "on gfx1201 (ROCm/hip issue 3887); --graph-nodes changes that."
        )
    if graph and device.graph_defect:
        notes.append(device.graph_defect)
    if device.without_cupy:
        notes.append(device.without_cupy)
    waits = WaitPolicy(flight.watch, place.oversubscribed, options.timeout_s)
    world = open_world(communicator, device, waits, options.memory, graph)
    world.library.measured = options.library
    session = Session(options, world, watchdog, place, notes)
    if device.is_cpu:  # `auto` chooses by it, once
        flight.note("compile", text="the link's probe")
        _ = session.round_trip_ns
        flight.note("measure the link", text="")
        trip_ns = median(session.round_trip_ns() for _ in range(PROBES))
        session.world = replace(world, round_trip_ns=communicator.broadcast(trip_ns))
    return session


def require_memory(session: Session, buffer_bytes: int) -> None:
    """Raises Refusal if the ranks of a host cannot have two buffers each in its memory: the
    system would kill a rank that touches what it granted. A GPU's driver refuses by itself."""
    communicator, device = session.communicator, session.world.device
    ranks, sentence = len(communicator.node_gather(0)), None
    needed_bytes = 2 * ranks * buffer_bytes
    if device.is_cpu and (free_bytes := available_bytes()) < needed_bytes:
        sentence = (
            f"2 buffers of {buffer_bytes / 1e9:.1f} GB for each of {ranks} ranks "
            f"are {needed_bytes / 1e9:.1f} GB, and {free_bytes / 1e9:.1f} GB are free here"
        )
    if sentence := communicator.first_reason(sentence):
        raise Refusal(sentence)


def say_once(communicator: Communicator, options: RunOptions, sentence: str) -> None:
    """Prints a sentence once for all ranks. If MPI has started each rank as a world of its own,
    each is the rank 0 of its world: then the launcher's variables tell which one prints."""
    if communicator.rank == 0 and (communicator.size > 1 or speaks()):
        say(f"{BENCH}{options.command}", sentence)


def require_one_run(communicator: Communicator, options: RunOptions) -> None:
    """Raises Refusal if these ranks cannot form one run."""
    announced = max(launched_ranks() or 1, (launched_rank() or 0) + 1)
    if options.keeps_run and communicator.size == 1 and announced > 1:
        names = [name for name in (*RANK_VARIABLES, *SIZE_VARIABLES) if os.environ.get(name)]
        raise Refusal(
            f"{announced} ranks are announced, and {communicator.library} sees this "
            "one alone: start them with the mpirun that came with it, or in a job of Slurm with "
            "srun --mpi=pmi2 (for Open MPI --mpi=pmix); if no launcher started this, unset "
            f"{' '.join(names)}"
        )
    own_program = program_digest("bench", *MEASURED) if communicator.hosts > 1 else __version__
    started = communicator.all_gather((own_program, [options.command, *sys.argv[1:]]))
    name = communicator.rank_name
    first_program, first_line = started[0]
    for rank, (program, line) in enumerate(started):
        if program != first_program:
            raise Refusal(
                f"{name(rank)} runs Wiretax {program}, and {name(0)} Wiretax "
                f"{first_program}: install one version on all hosts"
            )
        if line != first_line:
            raise Refusal(
                f"{name(rank)} was started with other options than {name(0)}, and a "
                "run has one command line"
            )
    with communicator.all_or_none(ValueError):
        node.chosen_name()


def program_digest(*packages: str) -> str:
    """The version of this program and a digest of its sources: checkouts share a version."""
    return f"{__version__} ({source_digest(*map(imported_from, packages))[:7]})"


def imported_from(package: str) -> Path:
    """The folder from which this process imported a package of ours."""
    above = __name__.partition("bench.")[0]  # `wiretax.` in a wheel
    name = package if package.startswith("wiretax.") else above + package
    return Path(sys.modules[name].__path__[0])


def source_digest(*folders: Path) -> str:
    """A digest of the names and sources in these folders of packages."""
    digest = hashlib.sha256()
    sources = {
        path.relative_to(folder.parent): path
        for folder in folders
        for path in folder.rglob("*.*")
        if path.suffix in SOURCES
    }
    for name in sorted(sources):
        digest.update(f"{name}\n".encode() + sources[name].read_bytes())
    return digest.hexdigest()


def start_watchdog(communicator: Communicator, options: RunOptions, guard: mmap.mmap) -> Watchdog:
    """Names the run, opens the flight records, tells the guard, and starts the witness and the
    watchdog. Raises Refusal."""
    rank, run_id = communicator.rank, ""
    if not options.keeps_run:
        return Watchdog(FlightRecord(None, rank), options.timeout_s, {})
    with communicator.all_or_none(ResultError):
        if rank == 0:
            run_id = reserve_run(options)
    folder = Path(options.out) / f"{communicator.broadcast(run_id)}.flight"
    pids = dict(communicator.node_gather((rank, os.getpid())))
    hosts = communicator.host_names if communicator.hosts > 1 else []
    try:
        with communicator.all_or_none(ResultError, RuntimeError), write_errors(folder):
            if not folder.is_dir():
                raise ResultError(
                    f"this host does not see the results folder {options.out} of "
                    f"{communicator.rank_name(0)}: name one that all hosts share, "
                    "with --out"
                )
            if communicator.local_rank == 0:
                start_witness(folder, pids, hosts[rank] if hosts else "")
            guard.write(os.fsencode(folder / f"rank-{rank}"))
            flight = FlightRecord(folder, rank, communicator.rank_name(rank))
            return Watchdog(flight, options.timeout_s, pids, hosts)
    except Refusal:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def reserve_run(options: RunOptions) -> str:
    """Checks that all files can be written, and reserves the run's name. Raises ResultError."""
    folder = Path(options.out)
    if not options.out:
        raise ResultError("the folder's name is empty: name a folder, which receives the run")
    with write_errors(folder), opened(folder) as inside:
        with tempfile.TemporaryFile(dir=inside) as file:
            file.write(bytes(LEAST_FREE_BYTES))
        if options.table:
            with write_errors(table := Path(options.table)):
                check_named(table)
        while True:
            now = datetime.now(timezone.utc)
            # Names in order of time, also within a second: the last one of a folder is its newest.
            token = f"{now.microsecond:05x}{secrets.randbelow(16):x}"
            run_id = f"{now:%Y-%m-%dT%H-%M-%SZ}-{options.command}-{token}"
            with suppress(FileExistsError):
                (inside / f"{run_id}.flight").mkdir(mode=0o755)
                return run_id
