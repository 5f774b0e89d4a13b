"""A command from its first line to its exit status: parse, start MPI, agree, run, end together."""

import contextlib
import os
import secrets
import signal
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from bench.harness import options as cli
from bench.harness.options import CANNOT, USAGE, WRONG
from bench.harness.plan import Prepared, prepare_collective
from bench.harness.run import Manner, run
from bench.harness.timing import Bench
from bench.harness.verify import WrongResult
from bench.harness.watchdog import Flight, start_witness
from bench.layers import experts as routed
from bench.soak import soak
from collectives.collective import COLLECTIVES
from collectives.communicator import Communicator, Disagreement, launched_rank, launched_ranks, scant_memory
from collectives.operation import DeviceError
from reports.result import ResultError, followed, is_stream

START_S = 20.0  # for MPI to start all ranks
HEARD_S = 0.3  # for the launcher to pass a warning on: where MPI then dies at once, it was lost in one run of six
LEAST_FREE_BYTES = 1 << 20  # the head, the flight records, and blocks enough to say something


def main(command: str, collective: str, about: str, argv: Sequence[str] | None = None) -> NoReturn:
    """`python -m bench.<command>` of a collective."""
    started_s = time.monotonic()
    options = cli.parse(command, COLLECTIVES[collective], about, argv)
    prepare = routed.prepare if options.experts else prepare_collective
    start(command, options, prepare, started_s, instead=soak if options.soak else None)


def start(command: str, options: Namespace, prepare: Callable[[Namespace, Bench], Prepared], started_s: float,
          manner: Manner | None = None,
          instead: Callable[[Namespace, Communicator, Flight], int] | None = None) -> NoReturn:
    """Runs on all ranks, a run or `instead` of one, and exits with the status that they have agreed on."""
    # Until there is a record, a signal just ends the process, and so does a clock where MPI waits for a rank that never
    # comes: it starts all or none, and lets no thread of Python run meanwhile.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(options.timeout, START_S))
    if warning := scant_memory():
        if not launched_rank():
            print(f"bench.{command}: {warning}", file=sys.stderr, flush=True)
        time.sleep(HEARD_S)
    communicator = Communicator(options.mpi_thread_level)
    status = USAGE
    if mistake := mislaunched(communicator, command, alone=options.list):
        say(communicator, f"bench.{command}: {mistake}")
    elif flight := open_flight(communicator, command, options):
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            try:
                status = (instead(options, communicator, flight) if instead else
                          run(command, options, prepare, communicator, flight, started_s, manner))
            except Disagreement as refusal:
                say(communicator, f"bench.{command}: {refusal}")
                status = WRONG if isinstance(refusal, WrongResult) else CANNOT
            # The normal end: the watchdogs see all ranks to it, then the records go.
            flight.note("finished", case=None, block=None, text="")
            communicator.barrier()
        except Exception as error:  # noqa: BLE001 - a fault of ours on one rank must end the others, whatever it is
            if isinstance(error, communicator.mpi.Exception):  # as when a peer was killed: the witness says so
                flight.give_way()
            # A full disk or a lost GPU is no bug of ours, and its sentence says all.
            details = "" if isinstance(error, (OSError, ResultError, DeviceError)) else traceback.format_exc()
            sentence = f"rank {flight.rank} failed at {flight.where()}: {type(error).__name__}: {error}"
            flight.end(sentence, flight.rank, "failed", WRONG, details)
        communicator.finish()
        flight.close()
    sys.stdout.flush()
    sys.exit(status)


def say(communicator: Communicator, sentence: str) -> None:
    """Once for all ranks, on standard error; also where MPI took each for a world of its own."""
    if communicator.rank == 0 and (communicator.size > 1 or not launched_rank()):
        print(sentence, file=sys.stderr, flush=True)


def mislaunched(communicator: Communicator, command: str, alone: bool) -> str | None:
    """Why these ranks are not those of one run; None where they are. `alone`: a rank needs no others."""
    if not alone and communicator.size == 1 and (launched := launched_ranks() or 1) > 1:
        return (f"{launched} ranks are announced, and {communicator.library} sees this one alone: start them with the "
                "mpirun that came with it, or in a job of Slurm with srun --mpi=pmi2 (for Open MPI --mpi=pmix)")
    lines = communicator.all_gather([command, *sys.argv[1:]])
    other = next((rank for rank, line in enumerate(lines) if line != lines[0]), None)
    return f"rank {other} was started with other options than rank 0, and a run has one command line" if other else None


def open_flight(communicator: Communicator, command: str, options: Namespace) -> Flight | None:
    """Names the run, opens each rank's flight record, and starts the host's witness; None where the results cannot be
    kept where the command line wants them, and says so."""
    if options.list:
        return Flight("", None, communicator.rank, options.timeout)
    asked, run_id, complaint, flight = Path(options.out), "", None, None
    try:
        if communicator.rank == 0:
            asked.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=asked) as room:
                room.write(bytes(LEAST_FREE_BYTES))
            for name in filter(None, (options.output_file, vars(options).get("table"))):
                asked = Path(name)
                folder = followed(asked).parent
                with asked.open("ab") if is_stream(asked) or asked.exists() else tempfile.TemporaryFile(dir=folder):
                    pass
            asked = Path(options.out)
            run_id = name_run(command, asked)
    except OSError as error:
        complaint = f"bench.{command}: cannot write {asked}: {error.strerror}"
    complaint = communicator.first_word(complaint)
    if not complaint:
        folder = asked / f"{communicator.broadcast(run_id)}.flight"
        pids = dict(communicator.node_gather((communicator.rank, os.getpid())))
        what = "start what watches over the ranks"
        try:
            if communicator.local_rank == 0:
                start_witness(folder, pids)
            what = f"write {folder}"
            flight = Flight(folder.stem, folder, communicator.rank, options.timeout)
            what = "start what watches over this rank"
            flight.start_watchdog(pids)
        except (OSError, RuntimeError) as error:  # that no thread can be started is a RuntimeError
            complaint = f"bench.{command}: cannot {what}: {getattr(error, 'strerror', error)}"
        complaint = communicator.first_word(complaint)
        if complaint and flight:
            flight.close()
        elif complaint:
            with contextlib.suppress(OSError):  # the witness clears up, or whoever is last
                folder.rmdir()
    if complaint:
        say(communicator, complaint)
        return None
    return flight


def name_run(command: str, folder: Path) -> str:
    """A name that no other run in `folder` has, not one that starts in the same second either: whoever makes the folder
    of its flight records has it. Raises OSError."""
    while True:
        run_id = f"{datetime.now(timezone.utc):%Y-%m-%dT%H-%M-%SZ}-{command}-{secrets.token_hex(3)}"
        with contextlib.suppress(FileExistsError):
            (folder / f"{run_id}.flight").mkdir(mode=0o755)
            if not (folder / f"{run_id}.jsonl").exists():
                return run_id
            (folder / f"{run_id}.flight").rmdir()
