"""A run: the cases, rounds of blocks until each case is precise, the file, the table."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from bench import STARTED_S
from bench.harness import head, tuned
from bench.harness.console import CANNOT, FINE, INTERRUPTED, WRONG, print_out, say
from bench.harness.iteration import Iteration
from bench.harness.schedule import (
    block_cost_s,
    fit_rounds,
    set_block_lengths,
    visits,
    warm_up_alike,
)
from bench.harness.session import Session, say_once
from bench.harness.suite import Suite, say_absent
from bench.harness.timing import measure_block, measure_empty_launch, measure_link, pilot
from bench.machine import gpu_watch, pci
from bench.machine.environment import cpu_ticks, steal_share
from collectives.collective import DATATYPES
from collectives.communicator import Refusal
from wiretax.record.blocks import count_blocks
from wiretax.record.schema import Block, End, LinkBlock, Result, WatchedGpu, Winner
from wiretax.record.stats import MIN_PRECISE_BLOCKS, autocorrelation, is_precise
from wiretax.record.traced import TracedSteps
from wiretax.record.writing import RunFile
from wiretax.record.wrong import where_wrong

REQUESTED_ROUNDS = 12  # of -n
# A best of many is chosen on odd rounds, and six even ones in one state of the link, which changes
# during some blocks, give an interval.
LEAST_ROUNDS = 16
CLOSING_S = 1.0  # for cases and table
BLOCKS_SHARE = 0.85  # of the time that is left
# Of --max-time, for the parts of steps, where there are some: the least, and the most, which a slow
# machine needs for TRACED_TURNS, a step with and one without notes of each.
TRACED_SHARE, MOST_TRACED_SHARE = 0.1, 0.2
TRACED_TURNS = 8


@dataclass
class RunInProgress:
    """A run in progress on this rank. Rank 0 has `file`."""

    session: Session
    suite: Suite
    deadline_s: float
    file: RunFile | None = None
    interrupted: bool = False
    looks: list[gpu_watch.Look] = field(default_factory=list)  # at this rank's GPU, if it has one
    timed: Counter[int] = field(default_factory=Counter)  # iterations that count, by case

    @property
    def bus_id(self) -> str:
        """The GPU of this rank; "" on CPUs."""
        return str(self.session.world.device.facts.get("pci_bus_id", ""))

    def look_at_gpu(self) -> None:
        """Between blocks only: the driver's answer takes time, and could delay a launch."""
        if self.bus_id:
            self.looks.append(gpu_watch.look(self.bus_id))

    def watched(self) -> list[WatchedGpu]:
        """What the looks at this rank's GPU say."""
        rank = self.session.communicator.rank
        return [gpu_watch.watched(rank, self.bus_id, self.looks)] if self.looks else []


def unfinished(run: RunInProgress, cases: list[int], rounds: int) -> list[int]:
    """The cases that need another round: those with fewer iterations than -n or, without it, those
    whose interval is too wide."""
    requested = run.session.options.iterations
    if rounds < LEAST_ROUNDS and not requested:
        return cases
    assert run.file
    counted = count_blocks(run.file.run, run.file.blocks)
    if requested:
        run.timed = Counter(
            {number: sum(block.n for block in own) for number, own in counted.by_case.items()}
        )
        return [number for number in cases if run.timed[number] < requested]
    medians_us = {number: [*rounds.values()] for number, rounds in counted.costs_us.items()}
    rho = autocorrelation([medians for medians in medians_us.values() if min(medians) > 0])
    return [number for number in cases if not is_precise(medians_us.get(number, []), rho)]


@dataclass(frozen=True)
class RunPolicy:
    """How a command spends its time, and what it makes of the result. The functions run on rank 0
    alone."""

    rounds: int = LEAST_ROUNDS  # blocks are made so short that this many rounds fit
    # Called after each round with the run, all its cases and the number of rounds so far; returns
    # the cases of the next round. A case that had enough blocks can return: if most blocks turn out
    # to be in another state of the link, fewer of its blocks count.
    go_on: Callable[[RunInProgress, list[int], int], list[int]] = unfinished
    # The last lines of the output, and the exit status of a run that was measured.
    conclude: Callable[[Result], tuple[str, int]] = lambda result: ("", FINE)
    # What the run stores beside its cases.
    find_winners: Callable[[Result], Sequence[Winner]] = lambda result: ()
    # Measures after the rounds the parts of the suite's `traced`; on all ranks.
    trace: Callable[[RunInProgress], Sequence[TracedSteps]] = lambda run: ()


UNTIL_PRECISE = RunPolicy()


def measure(
    session: Session, prepare: Callable[[Session], Suite], policy: RunPolicy = UNTIL_PRECISE
) -> int:
    """Measures the suite that `prepare` builds, and reports. Returns the exit status, the same on
    every rank. Raises Refusal if this machine cannot."""
    communicator, flight, options = session.communicator, session.flight, session.options
    flight.note("describe the machine", text="")
    machine = head.examine(session)
    _ = session.meet, session.round_trip_ns  # without them a machine is refused before any file
    tuned.use_table(session, machine)
    flight.note("plan the cases")
    suite = prepare(session)
    flight.note("agree on the cases", text="")
    communicator.barrier()
    if not suite.iterations:
        raise Refusal(f"no case can be measured: {suite.headers[0].reason}")
    say_absent(session, suite)
    if suite.left_out:
        say_once(communicator, options, left_out(suite))
    if not session.world.shares_clock():
        measure_empty_launch(session)
    run_head = head.describe(session, machine, suite)
    compile_s, uncounted_s = session.compile_s(), session.uncounted_s()
    if compile_s >= 1.0:
        sentence = f"compilers took {compile_s:.0f} s; --max-time leaves out {uncounted_s:.0f}"
        flight.progress.show("compiled", sentence)
    deadline_s = STARTED_S + options.max_time_s + uncounted_s - CLOSING_S
    run = RunInProgress(session, suite, deadline_s)
    if communicator.rank == 0:
        run.file = RunFile.create(Path(options.out), run_head)
    cpus_here = {*chain(*communicator.node_gather(session.place.cpus))}
    ticks_before = cpu_ticks(cpus_here)
    errors_before = pci.errors([run.bus_id])
    run.look_at_gpu()
    measure_all(run, policy)
    run.look_at_gpu()
    run.deadline_s = deadline_s
    traced = () if run.interrupted else policy.trace(run)
    flight.note("results", case=None, block=None, text="")
    new_errors = communicator.all_gather(pci.new_errors(errors_before, pci.errors([run.bus_id])))
    gpus = communicator.all_gather(run.watched())
    if run.file is None:
        flight.note("wait for the results")
        return int(communicator.broadcast(None))
    from reports.tables.show import text  # not at the top: other ranks never print

    errors = sorted({*chain(*new_errors)})
    notes = [f"PCIe errors during the run (AER): {', '.join(errors)}"] if errors else []
    left = suite.iterations.keys() - {block.case for block in run.file.blocks}
    reason = None
    if run.interrupted:
        reason = "interrupted"
    elif left:
        reason = f"time ran out before {len(left)} of {len(suite.iterations)} cases were measured"
    elif suite.is_cut_short:
        reason = "time ran out before all cases were compiled"
    if suite.left_out and not run.interrupted:
        reason = f"{reason}; {left_out(suite)}"
    lost = {*suite.named} - {case.algorithm for case in suite.headers}
    if lost and reason and not run.interrupted:
        notes.append(f"not measured: {', '.join(sorted(lost))} (time ran out)")
    samples = {
        str(number): np.concatenate(iteration.samples)
        for number, iteration in suite.iterations.items()
        if iteration.samples
    }
    end = End(
        status="incomplete" if reason else "complete",
        reason=reason,
        elapsed_s=time.monotonic() - STARTED_S,
        compile_s=compile_s,
        steal_share=steal_share(ticks_before, cpu_ticks(cpus_here)),
        note="; ".join(notes) or None,
        gpus=[*chain(*gpus)],
    )
    result = run.file.finish(samples, end, policy.find_winners, traced)
    last_words, concluded = policy.conclude(result)
    status = exit_status(run, result) or concluded
    communicator.broadcast(status)
    print_out(text(result, brief=True))
    hosts = head.names_of_hosts(machine, communicator.host_names)
    print_out(f"{hosts}run: {result.path}\n{last_words}")
    return status


def left_out(suite: Suite) -> str:
    """Which works the time does not allow."""
    types = dict.fromkeys(f"{case.datatype.name} {case.redop}" for case in suite.left_out)
    sizes = sorted({case.size_bytes for case in suite.left_out})
    n_types = len(types)
    names = ", ".join([*types][:4]) + (f" and {n_types - 4} more types" if n_types > 4 else "")
    return (
        f"--max-time allows {suite.asked - len(suite.left_out)} of {suite.asked} comparisons (a "
        f"size of a type): left out are those of {names}, {sizes[0]} to {sizes[-1]} B"
    )


def measure_all(run: RunInProgress, policy: RunPolicy) -> None:
    """Pilots, then rounds of blocks in seeded random order until no case is left or time is up.
    Cases whose pilot would not leave half of the time are not measured."""
    session, options, suite = run.session, run.session.options, run.suite
    parts = [part for parts in suite.link_parts.values() for part in parts.values()]
    iterations = list[Iteration]()
    half_s = (time.monotonic() + run.deadline_s) / 2
    for iteration in (*parts, *suite.iterations.values()):
        pilot(session, iteration)
        iterations.append(iteration)
        if agreed_stop(run, half_s):
            break
    if run.interrupted:
        return
    run.deadline_s -= traced_s(run)
    iterations = affordable(run, iterations)
    cases = [each.number for each in iterations if each.number >= 0]
    rounds = REQUESTED_ROUNDS if options.iterations else policy.rounds * suite.others_every
    plan_blocks(run, iterations, rounds)
    round_ = 0
    active = cases
    while active:
        for size, visited in visits(suite, active, round_, options.seed):
            if visited is not None:
                iteration = suite.iterations[visited]
                where = iteration.text
                if options.iterations:
                    left = options.iterations - run.timed[visited]
                    iteration.count = min(iteration.count, left)
                datatype = DATATYPES[suite.headers[visited].datatype]
                record: Block | LinkBlock | None = measure_block(
                    session, iteration, round_, datatype
                )
            else:
                where = "the link"
                record = measure_link(session, suite.link_parts[size], size, round_)
            if record and run.file:
                run.file.append(record)
            left_s = run.deadline_s - time.monotonic()
            session.flight.progress.show(
                "measure", f"round {round_ + 1}, {where}, at most {left_s:.0f} s left"
            )
            if agreed_stop(run, run.deadline_s):
                return
        round_ += 1
        run.look_at_gpu()
        if run.file:
            active = policy.go_on(run, cases, round_)
        active, run.timed = session.communicator.broadcast((active, run.timed))
        if round_ == 1 and pilot_again(session, iterations):
            plan_blocks(run, iterations, rounds - 1)


def affordable(run: RunInProgress, iterations: list[Iteration]) -> list[Iteration]:
    """The parts of the link, and the cases of the first works of which all were piloted; in a run
    of several types only as many as MIN_PRECISE_BLOCKS short blocks of each fit. At least one work
    stays. All ranks call it."""
    suite, checks = run.suite, run.session.options.checks
    left_s = time_for_blocks_s(run) / MIN_PRECISE_BLOCKS
    several = len({(header.datatype, header.redop) for header in suite.headers}) > 1
    spent_s = np.cumsum([block_cost_s(each, checks, 0.0) for each in iterations])
    ends = {each.work for each in suite.iterations.values() if not each.duration_s}
    if several and not run.session.options.iterations:
        pairs = zip(iterations, spent_s, strict=True)
        ends |= {each.work for each, end_s in pairs if each.number >= 0 and end_s > left_s}
    first = run.session.communicator.broadcast(min(ends, default=None))
    if first is None:
        return iterations
    first = max(first, 1 + min((each.work for each in iterations if each.number >= 0), default=0))
    return [each for each in iterations if each.number < 0 or each.work < first]


def time_for_blocks_s(run: RunInProgress) -> float:
    """The time that is left for blocks, without a reserve for what takes longer than planned."""
    return BLOCKS_SHARE * (run.deadline_s - time.monotonic())


def plan_blocks(run: RunInProgress, iterations: Sequence[Iteration], rounds: int) -> None:
    """Makes the blocks of these iterations so long that `rounds` rounds, or as many as fit, take
    the time that is left. All ranks call it."""
    options = run.session.options
    budget_s = run.session.communicator.broadcast(time_for_blocks_s(run))
    warm_up_alike(iterations)
    if not options.iterations:
        rounds = fit_rounds(iterations, options.checks, budget_s, rounds)
    set_block_lengths(iterations, options.checks, budget_s, rounds, options.iterations)


def pilot_again(session: Session, iterations: Sequence[Iteration]) -> bool:
    """Repeats the pilots that took, an iteration, more than twice the shortest time so far, and
    says whether there were some: a hiccup, or a slow first call, would shorten the blocks of the
    whole run. All ranks call it."""
    slow = [place for place, each in enumerate(iterations) if each.duration_s > 2 * each.least_s]
    slow = session.communicator.broadcast(slow)
    for place in slow:
        pilot(session, iterations[place])
    return bool(slow)


def traced_s(run: RunInProgress) -> float:
    """The seconds that are kept for traced steps."""
    if not run.suite.traced:
        return 0.0
    numbers = [each.number for each in run.suite.traced]
    turn_s = 2 * sum(run.suite.iterations[number].duration_s for number in numbers)
    shares = TRACED_SHARE, TRACED_TURNS * turn_s / run.session.options.max_time_s
    return min(MOST_TRACED_SHARE, max(shares)) * run.session.options.max_time_s


def agreed_stop(run: RunInProgress, deadline_s: float) -> bool:
    """Whether all ranks stop: one was interrupted, or rank 0 is past the deadline."""
    flight = run.session.flight
    flight.note("between blocks")
    vote = run.session.watchdog.interrupted_s is not None, time.monotonic() > deadline_s
    votes = run.session.communicator.all_gather(vote)
    run.interrupted = any(interrupted for interrupted, _ in votes)
    return run.interrupted or bool(votes[0][1])


def exit_status(run: RunInProgress, result: Result) -> int:
    """The exit status, on rank 0; names the first wrong element on standard error."""
    if run.interrupted:
        return INTERRUPTED
    if any(case.status == "wrong" for case in result.cases):
        if place := where_wrong(result.blocks, result.cases):
            number, sentence = place
            say("wiretax", f"{run.suite.iterations[number].text}, {sentence}")
        return WRONG
    if not any(case.time_us for case in result.cases):
        sentence = "no block can be used, so nothing was measured: run it again"
        if result.end and result.end.reason:
            sentence = (
                "time ran out before a case was measured: what was compiled is kept, so run it "
                "again, or give it more --max-time"
            )
        say("wiretax", sentence)
        return CANNOT
    return FINE
