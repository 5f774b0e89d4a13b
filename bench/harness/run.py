"""A run: the cases, rounds of blocks until each case is precise, the file, the table."""

import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import head, tuned
from bench.harness.feature import Feature
from bench.harness.link_parts import link_ceilings
from bench.harness.options import CANNOT, FINE, INTERRUPTED, WRONG, RunOptions, print_out
from bench.harness.schedule import set_block_lengths, shorten, take_turns, visits
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.harness.timing import measure_block, measure_link, pilot
from bench.machine.environment import cpu_ticks, steal_share
from collectives.collective import DATATYPES
from reports.order import latest
from reports.result import Block, Result, ResultError, RunFile, write_named, write_whole
from reports.stats import autocorrelation, is_precise

ROUNDS = 12  # at least: a best of many is chosen on odd rounds, and six even ones give an interval
FITTING_ROUNDS = 16  # into the time, because the link changes during some blocks
CLOSING_S, LEAN_CLOSING_S = 3.0, 1.0  # for cases, table and picture; without the picture


@dataclass
class Run:
    """A run in progress on this rank. Rank 0 has `file`, and the blocks and samples so far."""

    session: Session
    suite: Suite
    deadline_s: float
    file: RunFile | None = None
    timed: Counter[int] = field(default_factory=Counter)  # iterations by case
    blocks: list[Block] = field(default_factory=list)
    samples: dict[int, list[np.ndarray[Any, Any]]] = field(default_factory=dict)


def unfinished(run: Run, active: list[int], rounds: int) -> list[int]:
    """The cases that need another round: with `-n` by the requested iterations, otherwise
    by the precision of rank 0's block medians."""
    if requested := run.session.options.iterations:
        return [number for number in active if run.timed[number] < requested]
    if rounds < ROUNDS:
        return active
    medians_us: dict[int, list[float]] = {}
    for block in run.blocks:
        medians_us.setdefault(block.case, []).append(block.total_us or block.time_us)
    rho = autocorrelation([medians for medians in medians_us.values() if min(medians) > 0])
    imprecise = [number for number in active if not is_precise(medians_us.get(number, []), rho)]
    return list(run.session.communicator.broadcast(imprecise))


def no_last_words(result: Result, machine: head.Machine, options: RunOptions) -> str:
    return ""


@dataclass(frozen=True)
class RunPolicy:
    """How a command spends its time. `rounds` should fit it, and `least_rounds` must. After each
    round `go_on(run, active, rounds)` returns, on all ranks, the cases that have another;
    `conclude(result, machine, options)` uses the result on rank 0 and returns the last lines of the
    output."""

    rounds: int = FITTING_ROUNDS
    least_rounds: int = ROUNDS
    go_on: Callable[[Run, list[int], int], list[int]] = unfinished
    conclude: Callable[[Result, head.Machine, RunOptions], str] = no_last_words


def measure(session: Session, prepare: Callable[[Session], Suite],
            policy: RunPolicy | None = None, features: Sequence[Feature] = ()) -> int:
    """Measures the suite that `prepare` builds, and reports. Returns the exit status, the same on
    every rank. Raises Disagreement if this machine cannot."""
    policy = policy or RunPolicy()
    communicator, flight, options = session.communicator, session.flight, session.options
    flight.note("describe the machine", text="")
    machine = head.examine(session)
    session.bind_meeting()
    tuned.use_table(session, machine)
    flight.note("plan the cases")
    suite = prepare(session)
    flight.note("agree on the cases", text="")
    communicator.barrier()
    ceilings = link_ceilings(session, suite)
    note_crowding(session)
    run_head = head.describe(session, machine, suite, ceilings, features)
    closing_s = LEAN_CLOSING_S if options.lean else CLOSING_S
    run = Run(session, suite, session.started_s + options.max_time_s - closing_s)
    if communicator.rank == 0:
        run_head.after = latest(Path(options.out))
        run.file = RunFile.create(Path(options.out), run_head)
    cpus_here = {cpu for cpus in communicator.node_gather(session.place.cpus) for cpu in cpus}
    ticks_before = cpu_ticks(cpus_here)
    stop = measure_all(run, policy)
    flight.note("results", case=None, block=None, text="")
    if run.file is None:
        flight.note("wait for the results")
        return int(communicator.broadcast(None))
    stolen = steal_share(ticks_before, cpu_ticks(cpus_here))
    result = finish(run, run.file, stop, stolen)
    status = exit_status(run, result, stop)
    last_words = policy.conclude(result, machine, options)
    communicator.broadcast(status)
    print_result(result, options)
    print_out(last_words)
    return status


def note_crowding(session: Session) -> None:
    """Notes if ranks outnumber the cores. All ranks call it."""
    cpus_by_rank = session.communicator.all_gather(session.place.cpus)
    cores = {cpu for cpus in cpus_by_rank for cpu in cpus}
    if session.place.crowded:
        session.notes.append(f"{len(cpus_by_rank)} ranks share {len(cores)} cores: they take "
                             "turns, and the scheduler decides the times.")


def finish(run: Run, file: RunFile, stop: str | None, stolen: float | None) -> Result:
    """Builds the cases and ends the file, on rank 0."""
    session = run.session
    missing = len(run.suite.iterations) - len(run.samples)
    reason = None
    if stop == "interrupted":
        reason = "interrupted"
    elif missing:
        reason = (f"time ran out before {missing} of {len(run.suite.iterations)} cases were "
                  "measured")
    samples = {number: np.concatenate(rows) for number, rows in run.samples.items()}
    status = "incomplete" if reason else "complete"
    elapsed_s = time.monotonic() - session.started_s
    return file.finish(samples, status, reason, session.measuring_s, elapsed_s, stolen,
                       keep_samples=not session.options.lean)


def exit_status(run: Run, result: Result, stop: str | None) -> int:
    """The exit status, on rank 0; names the first wrong element on standard error."""
    if stop == "interrupted":
        return INTERRUPTED
    if any(case.status == "wrong" for case in result.cases):
        from reports.case import where_wrong

        if place := where_wrong(run.blocks):
            number, sentence = place
            name = run.suite.iterations[number].text
            print(f"wiretax: case {number} ({name}), {sentence}", file=sys.stderr, flush=True)
        return WRONG
    return CANNOT if run.suite.iterations and not run.samples else FINE


def measure_all(run: Run, policy: RunPolicy) -> str | None:
    """Pilots, then rounds of blocks in seeded random order until every case is precise. Returns
    `time` or `interrupted` if that ended the run early."""
    session, options, suite = run.session, run.session.options, run.suite
    for iteration in suite.all_iterations:
        pilot(session, iteration)
        if stop := agreed_stop(run):
            return stop
    left_s = 0.85 * (run.deadline_s - time.monotonic())
    budget_s = session.communicator.broadcast(left_s)
    iterations, rounds = suite.all_iterations, ROUNDS
    if not options.iterations:
        rounds = take_turns(iterations, options.checks, budget_s, policy.rounds)
    set_block_lengths(iterations, options.checks, budget_s, rounds, options.iterations)
    active, round_ = list(suite.iterations), 0
    while active:
        started_s = time.monotonic()
        for size, number in visits(suite, active, round_, options.seed):
            show_progress(run, round_)
            if number is not None:
                store_block(run, number, round_)
            else:
                record = measure_link(session, suite.link_parts[size], size, round_)
                if record and run.file:
                    run.file.append(record)
            if stop := agreed_stop(run):
                return stop
        round_ += 1
        if round_ < policy.least_rounds and not options.iterations:
            keep_pace(run, time.monotonic() - started_s, policy.least_rounds - round_)
        active = policy.go_on(run, active, round_)
    return None


def keep_pace(run: Run, round_s: float, rounds_left: int) -> None:
    """Shortens the blocks if a round took too long for the remaining rounds to fit."""
    share = (run.deadline_s - time.monotonic()) / (rounds_left * round_s)
    share = run.session.communicator.broadcast(share)
    if share < 1:
        shorten(run.suite.all_iterations, share)


def store_block(run: Run, number: int, round_: int) -> None:
    """Measures one block of a case; rank 0 puts it on disk."""
    iteration, requested = run.suite.iterations[number], run.session.options.iterations
    if requested:
        iteration.count = min(iteration.count, requested - run.timed[number])
    run.timed[number] += iteration.count
    datatype = DATATYPES[run.suite.headers[number].datatype]
    measured = measure_block(run.session, iteration, round_, datatype)
    if measured is not None and run.file:
        block, rows = measured
        run.file.append(block)
        run.samples.setdefault(number, []).append(rows)
        run.blocks.append(block)


def show_progress(run: Run, round_: int) -> None:
    """On rank 0, if standard error is a terminal; most launchers give ranks a pipe."""
    if run.file and sys.stderr.isatty():
        left_s = max(0.0, run.deadline_s - time.monotonic())
        print(f"\rround {round_ + 1}, at most {left_s:.0f} s left ", end="", file=sys.stderr,
              flush=True)


def agreed_stop(run: Run) -> str | None:
    """Whether all ranks stop: one was interrupted, or rank 0's time is up."""
    flight = run.session.flight
    flight.note("between blocks")
    interrupted = flight.interrupted_s is not None
    votes = run.session.communicator.all_gather((interrupted, time.monotonic() > run.deadline_s))
    if any(vote[0] for vote in votes):
        return "interrupted"
    return "time" if votes[0][1] else None


def print_result(result: Result, options: RunOptions) -> None:
    """The table, the paths of the run and its picture, and the requested JSON; on rank 0."""
    from reports.formats import as_json  # not at the top: other ranks never print
    from reports.show import text

    picture = draw(result, options)
    print_out(text(result, options.format, options.long))
    # Output that other programs parse stays pure.
    stream = sys.stdout if options.format == "table" else sys.stderr
    if result.run.world.get("slowed_percent") and options.format != "table":
        print_out(f"{result.run.notes[0]}\n", stream)
    print_out(f"run: {result.path}\npicture: {picture}\n", stream)
    if options.json_file:
        write_named(Path(options.json_file), json.dumps(as_json(result), indent=1).encode())


def draw(result: Result, options: RunOptions) -> str:
    """Draws the picture beside the run; its path, or the reason for its absence."""
    if result.end and result.end.reason == "interrupted":  # the user waits for the prompt
        return "none: the run was interrupted"
    if options.lean:
        return "none: --lean"
    from reports.plot import plot

    path, drawn = result.path.with_suffix(".png"), io.BytesIO()
    try:
        plot(result, drawn)
        write_whole(path, drawn.getvalue())
    except ResultError as error:
        return f"none: {error}"
    return str(path)
