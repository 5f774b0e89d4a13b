"""A run: the device, the cases, rounds of blocks until each is precise, the file, the table."""

import json
import os
import sys
import time
from argparse import Namespace
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench import sweep
from bench.cli import CANNOT, FINE, INTERRUPTED, WRONG
from bench.flight import Flight
from bench.head import crowding, describe, link_ceilings
from bench.measure import (
    LONGEST_BLOCK_S,
    Bench,
    fewest_iterations,
    make_bench,
    measure_block,
    measure_link,
    pilot,
    plan_blocks,
)
from bench.placement import pin
from bench.subject import Buffers, Subject, link_subjects, subject_of
from collectives import library
from collectives.algorithm import ALGORITHMS
from collectives.collective import DATATYPES
from collectives.communicator import Communicator
from collectives.operation import Algorithm, Case, DeviceError, Unsupported, World
from collectives.world import open_device, open_world
from reports.formats import as_json
from reports.plot import plot
from reports.result import Planned, Result, ResultError, RunFile
from reports.show import text
from reports.stats import is_precise

ROUNDS = 12  # at least; a best of many is chosen on the odd ones, and six even ones give an interval
CLOSING_S = 3.0  # for the cases, the table and the picture


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
    medians_us: dict[int, list[float]] = field(default_factory=dict)
    samples: dict[int, list[np.ndarray[Any, Any]]] = field(default_factory=dict)

    @property
    def everything(self) -> list[Subject]:
        """The subjects of all cases, then those of the link's parts."""
        return [*self.subjects.values(), *(part for parts in self.links.values() for part in parts.values())]


def bound_parts(world: World, algorithm: Algorithm, size_bytes: int, in_place: bool) -> dict[str, Any] | None:
    """What the bound counts; in place nothing has to get from one buffer to another. None for what stores across a wire
    between GPUs: the link's parts store at home and read across it, which is slower."""
    if algorithm.pushes and world.device.name != "cpu":
        return None
    traffic = asdict(algorithm.traffic(world.communicator.size, size_bytes))
    return traffic | ({"memory_bytes": 0} if in_place else {})


def plan_cases(options: Namespace, bench: Bench, buffers: Buffers) -> tuple[list[Planned], dict[int, Subject]]:
    """Every case of the run, and the steps of those that can be measured here."""
    communicator, datatype = bench.world.communicator, DATATYPES[options.datatype]
    kind = "mapped" if isinstance(bench.world.peers, Unsupported) else bench.world.peers.kind
    name = library.library_name(bench.world)
    planned: list[Planned] = []
    subjects: dict[int, Subject] = {}
    for size in sweep.sizes(options.minbytes, options.maxbytes, options.stepfactor, datatype.size_bytes):
        for algorithm in ALGORITHMS.values():
            if options.algorithm and algorithm.name not in options.algorithm:
                continue
            bench.flight.note("compile", text=f"{algorithm.name} {size} B")
            variants = algorithm.variants(bench.world)
            for variant, mode in product(variants, sweep.modes(options.mode, size)):
                case = buffers.case(size, datatype, options.op, options.in_place, variant)
                is_library = algorithm.name == "library"
                if is_library:  # whose ranks talk to each other
                    operation = algorithm.bind(bench.world, case)
                else:
                    with communicator.together(DeviceError):
                        operation = algorithm.bind(bench.world, case)
                reason = (
                    operation.reason if isinstance(operation, Unsupported) else sweep.reason_against(mode, options.op)
                )
                planned.append(
                    Planned(
                        collective="all_reduce",
                        size_bytes=size,
                        count=case.count,
                        datatype=datatype.name,
                        redop=options.op,
                        algorithm=algorithm.name,
                        mode=mode,
                        in_place=options.in_place,
                        variant=variant,
                        memory="private" if is_library else kind,
                        library=name if is_library else None,
                        chosen=None if isinstance(operation, Unsupported) else operation.chosen,
                        calls=sweep.CHAIN_CALLS if mode == "chained" else 1,
                        status="unsupported" if reason else "ok",
                        reason=reason,
                        bound_parts=bound_parts(bench.world, algorithm, size, options.in_place),
                    )
                )
                if not isinstance(operation, Unsupported) and not reason:
                    number = len(planned) - 1
                    with communicator.together(DeviceError, MemoryError):
                        subjects[number] = subject_of(
                            bench.world, bench.flight.watch, buffers, number, planned[number], case, operation
                        )
    return planned, subjects


def run(command: str, options: Namespace, communicator: Communicator, flight: Flight, started_s: float) -> int:
    """Measures and reports; returns the exit status, the same on every rank. Raises Disagreement where this machine
    cannot."""
    flight.note("open the device")
    device, notes = open_device(communicator, options.device, options.ranks_share_gpus)
    # A rank with a GPU only enqueues, and the library's threads would inherit its one core.
    crowded, cpus = pin(communicator) if device.name == "cpu" else (False, sorted(os.sched_getaffinity(0)))
    flight.note("map the peers")
    with communicator.together(DeviceError):
        flight.watch_on(device.watch(flight.watch))
        if options.cudagraph and (reason := device.reason_against_graphs()):
            raise DeviceError(f"-G: {reason}")
    graph = options.cudagraph > 0
    world = open_world(communicator, device, flight.watch, crowded, options.timeout, options.memory, graph)
    if options.list:
        list_algorithms(world, options)
        return FINE
    library.library_name(world)  # opens it, on all ranks at once
    with communicator.together(DeviceError, MemoryError):
        send, receive = (library.allocate(world, options.maxbytes) for _ in range(2))
    buffers = Buffers(send, receive, options.seed)
    bench = make_bench(world, flight, options.check, options.warmup_iters, options.dispatch)
    planned, subjects = plan_cases(options, bench, buffers)
    sizes = sorted({planned[number].size_bytes for number in subjects if planned[number].size_bytes})
    mapped = not isinstance(world.peers, Unsupported)
    with communicator.together(DeviceError):
        links = {size: link_subjects(world, flight.watch, buffers, size) for size in sizes if mapped}
        flight.note("agree on the cases", text="")
    session = Session(options, bench, planned, subjects, links, started_s + options.max_time - CLOSING_S)
    ceilings = link_ceilings(bench, links)
    flight.note("describe the machine", text="")
    head = describe(command, options, bench, planned, ceilings, cpus, [*notes, *crowding(communicator, crowded, cpus)])
    if communicator.rank == 0:
        session.file = RunFile.create(Path(options.out), head)
    stop = measure_all(session)
    flight.note("results", case=None, block=None, text="")
    if session.file is None:
        flight.note("wait for the results")
        return int(communicator.broadcast(None))
    missing = len(subjects) - len(session.medians_us)
    late = f"time ran out before {missing} of {len(subjects)} cases were measured" if missing else None
    reason = "interrupted" if stop == "interrupted" else late
    samples = {number: np.concatenate(rows) for number, rows in session.samples.items()}
    elapsed_s = time.monotonic() - started_s
    result = session.file.finish(samples, "incomplete" if reason else "complete", reason, bench.measuring_s, elapsed_s)
    status = FINE
    if stop == "interrupted":
        status = INTERRUPTED
    elif any(case.status == "wrong" for case in result.cases):
        status = WRONG
    elif subjects and not samples:
        status = CANNOT
    communicator.broadcast(status)
    print_result(result, options)
    return status


def measure_all(session: Session) -> str | None:
    """Pilots, then rounds of blocks in seeded random order until every case is precise, or until something stops them:
    returns `time` or `interrupted`, None where nothing did."""
    options, bench = session.options, session.bench
    for subject in session.everything:
        pilot(bench, subject)
        if stop := agreed_stop(session):
            return stop
    if options.iters:
        for subject in session.everything:
            longest = max(1, int(LONGEST_BLOCK_S / subject.iteration_s))
            subject.iterations = min(-(-options.iters // ROUNDS), longest)
    else:
        budget_s = bench.world.communicator.broadcast(0.85 * (session.deadline_s - time.monotonic()))
        plan_blocks(bench, session.everything, budget_s, ROUNDS)
    active = list(session.subjects)
    for round_ in range(1 << 30):
        started_s = time.monotonic()
        for size, number in visits(session, active, round_):
            show_progress(session, round_)
            if number is None:
                store_link_block(session, size, round_)
            else:
                store_block(session, number, round_)
            if stop := agreed_stop(session):
                return stop
        if round_ + 1 < ROUNDS and not options.iters:
            shorten(session, time.monotonic() - started_s, ROUNDS - round_ - 1)
        active = unfinished(session, active, round_ + 1)
        if not active:
            break
    return None


def visits(session: Session, active: list[int], round_: int) -> list[tuple[int, int | None]]:
    """A round's order: sizes as drawn, and within a size its cases and its probe of the link (None) as drawn, so that
    what is compared stands close in time."""
    seed = session.options.seed
    found: list[tuple[int, int | None]] = []
    by_size: dict[int, list[int | None]] = {}
    for number in active:
        by_size.setdefault(session.planned[number].size_bytes, []).append(number)
    for size in sweep.shuffled(list(by_size), f"{seed} {round_}"):
        probe: list[int | None] = [None] if size in session.links else []
        found += [(size, number) for number in sweep.shuffled(by_size[size] + probe, f"{seed} {round_} {size}")]
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
    found = measure_block(session.bench, subject, round_)
    if found is not None and session.file:
        block, rows = found
        session.file.append(block)
        session.samples.setdefault(number, []).append(rows)
        session.medians_us.setdefault(number, []).append(block.total_us or block.time_us)


def store_link_block(session: Session, size_bytes: int, round_: int) -> None:
    """Measures the link's parts at a size; rank 0 puts them on disk."""
    record = measure_link(session.bench, session.links[size_bytes], size_bytes, round_)
    if record is not None and session.file:
        session.file.append(record)


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
    imprecise = [number for number in active if not is_precise(session.medians_us.get(number, []))]
    return list(session.bench.world.communicator.broadcast(imprecise))


def agreed_stop(session: Session) -> str | None:
    """Whether all ranks stop here: one was interrupted, or rank 0's clock has run out."""
    session.bench.flight.note("between blocks")
    interrupted = session.bench.flight.interrupted_s is not None
    said = session.bench.world.communicator.all_gather((interrupted, time.monotonic() > session.deadline_s))
    return "interrupted" if any(word[0] for word in said) else "time" if said[0][1] else None


def list_algorithms(world: World, options: Namespace) -> None:
    """Every algorithm, and why one is not available here; on rank 0."""
    datatype = DATATYPES[options.datatype]
    buffer = world.device.private(64).address
    lines = []
    for algorithm in ALGORITHMS.values():
        bound = algorithm.bind(world, Case(datatype.size_bytes, datatype, options.op, buffer, buffer + 32))
        lines.append(
            f"{algorithm.name:14} {algorithm.about}"
            + (f" -- not here: {bound.reason}" if isinstance(bound, Unsupported) else "")
        )
    if world.communicator.rank == 0:
        print("\n".join(lines))


def print_result(result: Result, options: Namespace) -> None:
    """The table, and where the run and its picture are; on rank 0."""
    picture = result.path.with_suffix(".png")
    try:
        if result.end and result.end.reason == "interrupted":
            raise ResultError("the run was interrupted")  # and whoever did that waits for the prompt
        plot(result, picture)
        drawn = str(picture)
    except ResultError as nothing_to_draw:
        drawn = f"none: {nothing_to_draw}"
    if options.output_file:
        Path(options.output_file).write_text(json.dumps(as_json(result), indent=1))
    try:
        print(text(result, options.format, options.long), end="", flush=True)
        # What other programs parse stays theirs alone.
        out = sys.stdout if options.format == "table" else sys.stderr
        print(f"run: {result.path}\npicture: {drawn}", file=out, flush=True)
    except BrokenPipeError:  # whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
