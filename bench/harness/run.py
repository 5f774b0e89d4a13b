"""A run: the device, the cases, rounds of blocks until each is precise, the file, the table."""

import io
import json
import os
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import picks, sweep
from bench.harness.head import Machine, describe, examine, link_ceilings
from bench.harness.iteration import Subject
from bench.harness.options import CANNOT, FINE, INTERRUPTED, WRONG
from bench.harness.plan import Prepared
from bench.harness.timing import (
    Bench,
    fewest_iterations,
    make_bench,
    measure_block,
    measure_link,
    pilot,
    plan_blocks,
    round_trip_ns,
    take_turns,
)
from bench.harness.watchdog import Flight
from bench.machine.environment import cpu_ticks, steal_share
from bench.machine.placement import Place, pin
from collectives.algorithm import ALGORITHMS
from collectives.auto import same_state
from collectives.collective import DATATYPES
from collectives.communicator import Communicator
from collectives.layers.gemm import bind_gemm
from collectives.library import mpi as library
from collectives.operation import Case, DeviceError, Unsupported, World
from collectives.world import open_device, open_world
from reports.case import where_wrong
from reports.formats import as_json
from reports.order import latest
from reports.plot import plot
from reports.result import Block, Planned, Result, ResultError, RunFile, write_named, write_whole
from reports.show import text
from reports.stats import autocorrelation, is_precise

ROUNDS = 12  # at least; a best of many is chosen on the odd ones, and six even ones give an interval
FITTING_ROUNDS = 16  # into the time, because some blocks fall into a change of the link
CLOSING_S, LEAN_CLOSING_S = 3.0, 1.0  # for the cases, the table and the picture; without the picture


@dataclass
class Session:
    """A run under way on this rank: what is measured, and what has been found."""

    options: Namespace
    bench: Bench
    planned: list[Planned]
    subjects: dict[int, Subject]  # by case
    links: dict[int, dict[str, Subject]]  # by size
    deadline_s: float
    file: RunFile | None = None  # on rank 0
    timed: Counter[int] = field(default_factory=Counter)  # iterations, by case
    blocks: list[Block] = field(default_factory=list)  # on rank 0, as they were measured
    samples: dict[int, list[np.ndarray[Any, Any]]] = field(default_factory=dict)

    @property
    def everything(self) -> list[Subject]:
        """The subjects of all cases, then those of the link's parts."""
        return [*self.subjects.values(), *(part for parts in self.links.values() for part in parts.values())]


def run(command: str, options: Namespace, prepare: Callable[[Namespace, Bench], Prepared], communicator: Communicator,
        flight: Flight, started_s: float, manner: "Manner | None" = None) -> int:
    """Measures what `prepare` plans, and reports; returns the exit status, the same on every rank. Raises Disagreement
    where this machine cannot."""
    manner = manner or Manner()
    world, (crowded, cpus, core), notes = opened(options, communicator, flight)
    if options.list:
        list_algorithms(world, options)
        return FINE
    library.library_name(world)  # opens it, on all ranks at once
    flight.note("describe the machine", text="")
    machine = examine(options, world, cpus)
    world, tuned = with_picks(world, machine, options.tuned)
    world = replace(world, lossy=options.lossy is not None)
    bench = make_bench(world, flight, options.check, options.warmup_iters, options.dispatch)
    bench.free_core = core
    tuned += unseen_state(bench)
    if options.beside:
        with communicator.together(DeviceError, MemoryError):
            bench.beside = bind_gemm(world, core)
    flight.note("plan the cases")
    planned, subjects, links = prepare(options, bench)
    flight.note("agree on the cases", text="")
    communicator.barrier()
    closing_s = LEAN_CLOSING_S if options.lean else CLOSING_S
    session = Session(options, bench, planned, subjects, links, started_s + options.max_time - closing_s)
    ceilings = link_ceilings(bench, links)
    cores = {cpu for of_rank in communicator.all_gather(cpus) for cpu in of_rank}
    if crowded:
        notes.append(f"{communicator.size} ranks share {len(cores)} cores: they take turns, and times are the "
                     "scheduler's.")
    head = describe(command, options, bench, machine, planned, ceilings, cpus, [*notes, *tuned, *bench.notes])
    if communicator.rank == 0:
        head.after = latest(Path(options.out))
        session.file = RunFile.create(Path(options.out), head)
    ranks_cpus = {cpu for of_rank in communicator.node_gather(cpus) for cpu in of_rank}
    ticks_before = cpu_ticks(ranks_cpus)
    stop = measure_all(session, manner)
    flight.note("results", case=None, block=None, text="")
    if session.file is None:
        flight.note("wait for the results")
        return int(communicator.broadcast(None))
    missing = len(subjects) - len({block.case for block in session.blocks})
    late = f"time ran out before {missing} of {len(subjects)} cases were measured" if missing else None
    reason = "interrupted" if stop == "interrupted" else late
    samples = {number: np.concatenate(rows) for number, rows in session.samples.items()}
    elapsed_s = time.monotonic() - started_s
    stolen = steal_share(ticks_before, cpu_ticks(ranks_cpus))
    result = session.file.finish(samples, "incomplete" if reason else "complete", reason, bench.measuring_s, elapsed_s,
                                 stolen, keep_samples=not options.lean)
    status = FINE
    if stop == "interrupted":
        status = INTERRUPTED
    elif any(case.status == "wrong" for case in result.cases):
        status = WRONG
        if found := where_wrong(session.blocks):
            print(f"wiretax: case {found[0]} ({subjects[found[0]].text}), {found[1]}", file=sys.stderr, flush=True)
    elif subjects and not samples:
        status = CANNOT
    last_word = manner.conclude(result, machine, options)
    communicator.broadcast(status)
    print_result(result, options)
    print(last_word, end="", flush=True)
    return status


def opened(options: Namespace, communicator: Communicator, flight: Flight) -> tuple[World, Place, list[str]]:
    """What a run stands on: its world, where this rank is placed, and notes for readers. Raises Disagreement."""
    flight.note("open the device")
    device, notes = open_device(communicator, options.device, options.ranks_share_gpus)
    # A rank with a GPU only enqueues, and the library's threads would inherit its one core.
    own = sorted(os.sched_getaffinity(0))
    place = pin(communicator) if device.name == "cpu" else Place(False, own, None)
    flight.note("map the peers")
    with communicator.together(DeviceError):
        flight.watch_on(device.watch(flight.watch))
        if options.beside and device.name == "cpu" and place.beside is None:
            raise DeviceError(f"--beside {options.beside} takes a core of its own beside each rank, and of "
                              f"{len(own)} cores {communicator.size} ranks leave too few")
        if options.cudagraph is None:  # where the device has them
            options.cudagraph = int(device.reason_against_graphs() is None)
        if options.cudagraph and (reason := device.reason_against_graphs()):
            raise DeviceError(f"-G: {reason}")
    graph = options.cudagraph > 0
    world = open_world(communicator, device, flight.watch, place.crowded, options.timeout, options.memory, graph)
    if options.slowed_percent:
        world = replace(world, macros={"SLOWED_PERCENT": str(options.slowed_percent)})
    return world, place, notes


def with_picks(world: World, machine: Machine, tuned: str | None) -> tuple[World, list[str]]:
    """The world with what bench.tune found, in the file that was named or the one of this machine, and a sentence on
    that. Raises Disagreement for a table that cannot be used here."""
    def read() -> "picks.Table | None":
        path = Path(tuned) if tuned else picks.default_path(machine)
        return picks.load(path, machine) if tuned or path.exists() else None

    with world.communicator.together(picks.NotOurs):
        table = read() if world.communicator.rank == 0 and tuned != "none" else None
    table = world.communicator.broadcast(table)
    if table is None:
        return world, []
    return replace(world, picks=table.picks), [f"auto goes by what bench.tune found in {table.run_id}."]


def unseen_state(bench: Bench) -> list[str]:
    """A sentence where the link is in a state in which bench.tune has never seen it."""
    trip_ns = bench.world.communicator.broadcast(round_trip_ns(bench))
    known = sorted({round(pick.link_rtt_ns) for pick in bench.world.picks})
    if not trip_ns or not known or any(same_state(trip_ns, pick.link_rtt_ns) for pick in bench.world.picks):
        return []
    seen = f"{known[0]} to {known[-1]}" if known[1:] else f"{known[0]}"
    return [f"The link's flag takes {trip_ns:.0f} ns now, and bench.tune has seen {seen} ns alone: "
            "it finds better for this state if it runs in it."]


def measure_all(session: Session, manner: "Manner") -> str | None:
    """Pilots, then rounds of blocks in seeded random order until every case is precise, or until something stops them:
    returns `time` or `interrupted`, None where nothing did."""
    options, bench = session.options, session.bench
    for subject in session.everything:
        pilot(bench, subject)
        if stop := agreed_stop(session):
            return stop
    budget_s = bench.world.communicator.broadcast(0.85 * (session.deadline_s - time.monotonic()))
    rounds = ROUNDS if options.iters else take_turns(bench, session.everything, budget_s, manner.rounds)
    plan_blocks(bench, session.everything, budget_s, rounds, options.iters)
    active = list(session.subjects)
    for round_ in range(1 << 30):
        started_s = time.monotonic()
        for size, number in visits(session, active, round_):
            show_progress(session, round_)
            if number is not None:
                store_block(session, number, round_)
            elif (record := measure_link(bench, session.links[size], size, round_)) and session.file:
                session.file.append(record)
            if stop := agreed_stop(session):
                return stop
        if round_ + 1 < manner.least_rounds and not options.iters:
            shorten(session, time.monotonic() - started_s, manner.least_rounds - round_ - 1)
        active = manner.go_on(session, active, round_ + 1)
        if not active:
            break
    return None


def visits(session: Session, active: list[int], round_: int) -> list[tuple[int, int | None]]:
    """A round's order: sizes as drawn, and within a size its cases and its probe of the link (None) as drawn, so that
    what is compared stands close in time; a size has several groups where subjects say so."""
    seed = session.options.seed
    found: list[tuple[int, int | None]] = []
    groups: dict[tuple[int, str], list[int | None]] = {}

    def is_due(n: int) -> bool:  # all of a group together
        subject = session.subjects[n]
        return (round_ if subject.group else n + round_) % subject.every == 0

    due = [n for n in active if round_ == 0 or is_due(n)]
    for number in due:
        group = session.planned[number].size_bytes, session.subjects[number].group
        groups.setdefault(group, []).append(number)
    rare = {session.planned[n].size_bytes for n in due if session.subjects[n].every > 1}
    # What has its turn rarely, and takes long, comes last: if time runs out over it, all else has been measured.
    for group in sorted(sweep.shuffled(list(groups), f"{seed} {round_}"), key=lambda group: group[0] in rare):
        size, probe = group[0], list[int | None]([None] if group[0] in session.links else [])
        found += [(size, number) for number in sweep.shuffled(groups[group] + probe, f"{seed} {round_} {size}")]
    return found


def shorten(session: Session, round_s: float, rounds_left: int) -> None:
    """Cuts the blocks where a round has taken so long that the rounds to come would not fit: the link slowed down."""
    communicator = session.bench.world.communicator
    share = communicator.broadcast((session.deadline_s - time.monotonic()) / (rounds_left * round_s))
    if share < 1:
        for subject in session.everything:
            subject.iterations = max(fewest_iterations(subject), int(subject.iterations * share * 0.9))


def store_block(session: Session, number: int, round_: int) -> None:
    """Measures one block of a case; rank 0 puts it on disk."""
    subject = session.subjects[number]
    if session.options.iters:
        subject.iterations = min(subject.iterations, session.options.iters - session.timed[number])
    session.timed[number] += subject.iterations
    found = measure_block(session.bench, subject, round_, DATATYPES[session.planned[number].datatype])
    if found is not None and session.file:
        block, rows = found
        session.file.append(block)
        session.samples.setdefault(number, []).append(rows)
        session.blocks.append(block)


def show_progress(session: Session, round_: int) -> None:
    """On rank 0's terminal, where it has one: most launchers give ranks a pipe."""
    if session.file and sys.stderr.isatty():
        left_s = max(0.0, session.deadline_s - time.monotonic())
        print(f"\rround {round_ + 1}, at most {left_s:.0f} s left ", end="", file=sys.stderr, flush=True)


def unfinished(session: Session, active: list[int], rounds: int) -> list[int]:
    """The cases that need another round; with `-n` by the iterations asked for, else by rank 0's block medians."""
    if n := session.options.iters:
        return [number for number in active if session.timed[number] < n]
    if rounds < ROUNDS:
        return active
    medians_us: dict[int, list[float]] = {}
    for block in session.blocks:
        medians_us.setdefault(block.case, []).append(block.total_us or block.time_us)
    rho = autocorrelation([medians for medians in medians_us.values() if min(medians) > 0])
    imprecise = [number for number in active if not is_precise(medians_us.get(number, []), rho)]
    return list(session.bench.world.communicator.broadcast(imprecise))


@dataclass(frozen=True)
class Manner:
    """How a command goes about it: so many rounds should fit into its time, and so many at least have to; after each,
    `go_on(session, active, rounds)` says on all ranks which cases have another; `conclude(result, machine, options)`
    does on rank 0 what is to be done with the result, and gives what is said last."""

    rounds: int = FITTING_ROUNDS
    least_rounds: int = ROUNDS
    go_on: Callable[[Session, list[int], int], list[int]] = unfinished
    conclude: Callable[[Result, Machine, Namespace], str] = lambda result, machine, options: ""


def agreed_stop(session: Session) -> str | None:
    """Whether all ranks stop here: one was interrupted, or rank 0's clock has run out."""
    session.bench.flight.note("between blocks")
    interrupted = session.bench.flight.interrupted_s is not None
    said = session.bench.world.communicator.all_gather((interrupted, time.monotonic() > session.deadline_s))
    return "interrupted" if any(word[0] for word in said) else "time" if said[0][1] else None


def list_algorithms(world: World, options: Namespace) -> None:
    """Every algorithm, and why one is not available here; on rank 0."""
    datatype = DATATYPES[options.datatype]
    count = 32  # a block of what is quantised
    room = 8 * count * world.communicator.size  # a segment for each rank; a library performs it once
    buffer = world.device.private(2 * room).address
    lines = []
    for algorithm in ALGORITHMS[options.collective.name].values():
        bound = algorithm.bind(world, Case(options.collective, count, datatype, options.op, buffer, buffer + room,
                                           shape=options.collective.shapes[0]))
        why = f" -- not here: {bound.reason}" if isinstance(bound, Unsupported) else ""
        lines.append(f"{algorithm.name:14} {algorithm.about}{why}")
    if world.communicator.rank == 0:
        print("\n".join(lines))


def print_result(result: Result, options: Namespace) -> None:
    """The table, where the run and its picture are, and the JSON that was asked for; on rank 0."""
    drawn = str(picture := result.path.with_suffix(".png"))
    if result.end and result.end.reason == "interrupted":  # and whoever did that waits for the prompt
        drawn = "none: the run was interrupted"
    elif options.lean:
        drawn = "none: --lean"
    else:
        try:
            plot(result, shown := io.BytesIO())
            write_whole(picture, shown.getvalue())
        except ResultError as nothing_to_draw:
            drawn = f"none: {nothing_to_draw}"
    try:
        print(text(result, options.format, options.long), end="", flush=True)
        # What other programs parse stays theirs alone.
        out = sys.stdout if options.format == "table" else sys.stderr
        if options.slowed_percent and options.format != "table":
            print(result.run.notes[0], file=out)
        print(f"run: {result.path}\npicture: {drawn}", file=out, flush=True)
    except BrokenPipeError:  # whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if options.output_file:
        write_named(Path(options.output_file), json.dumps(as_json(result), indent=1).encode())
