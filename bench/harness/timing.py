"""How a case is timed: the pilot, the blocks, and the records made from their time stamps.

Before and after a block a flag bounces between the ranks, which shows the state of the link. The
first iteration of a block, and one after its last, are checked bit by bit on the timed path; after
the first block of isolated calls the last result once more, when all ranks have left.
Iterations of a block are not independent, so intervals and the stop use block medians alone."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from bench.harness.iteration import BEGUN, LEFT, Iteration, nothing
from bench.harness.session import Session
from bench.harness.stamped_times import Times, times_us
from bench.harness.stored_slow_steps import slow_steps
from bench.harness.verify import first_wrong
from collectives.collective import Array, Datatype
from collectives.operation import Operation, World
from kernels.devices.device import WRONG_BYTES, Counts, DeviceError, Stamps, Step
from wiretax.record.histogram import steps_of
from wiretax.record.schema import Block, LinkBlock
from wiretax.record.stats import warmup_length

PILOT_S = 0.02
# After another case the cache lines of the slabs are in the caches of other cores: the next three
# all-reduces of two ranks took up to five times as long. So warm-up lasts at least until each line
# of both halves has moved between its ranks twice, but only for this long.
CACHE_WARMUP_S = 0.005
MOST_WARMUP = 50


def perform(session: Session, iteration: Iteration, counts: Counts) -> Stamps:
    """Runs iterations; this rank's stamps in ns, [timed, 4]. A wait that timed out ends the run.
    Raises DeviceError, on this rank alone, with the sentence of a library that failed."""
    world, watch = session.world, session.flight.watch
    start_s = time.perf_counter()
    if iteration.from_host:
        stamps = submitted(world, iteration.operation.step, counts)
    else:
        actions = iteration.actions(session.meet)
        stamps = world.device.run(actions, iteration.check, counts, watch, world.graph)
    elapsed_s = (time.perf_counter() - start_s) / counts.total
    iteration.least_s = min(iteration.least_s, elapsed_s)
    if failure := iteration.operation.failure():  # other ranks may wait for this one
        raise DeviceError(failure)
    if watch.timed_out:
        session.watchdog.wait_for_end()
    if not iteration.chain_calls:
        stamps[:, BEGUN] = stamps[:, LEFT]
    return stamps


def submitted(world: World, step: Step, counts: Counts) -> Stamps:
    """This rank's stamps, by the clock of the host, before it submits a step and after it has
    waited for its end, as an engine in Python does."""
    submit_and_wait, rows = world.device.caller(step), list[list[int]]()
    for number in range(counts.total):
        if world.watch.stop:
            break
        begun_ns = time.monotonic_ns()
        submit_and_wait()
        ended_ns = time.monotonic_ns()
        if counts.is_timed(number):
            rows.append([begun_ns, ended_ns, ended_ns, ended_ns])
    return np.array(rows, np.int64).reshape(-1, 4)


def pilot(session: Session, iteration: Iteration) -> None:
    """Measures how long an iteration takes and how many warm up, as rank 0 sees it."""
    session.flight.note("pilot", case=iteration.number, block=None, text=iteration.text)
    count, warmup = 1, 0
    while count:
        start_s = time.perf_counter()
        stamps = perform(session, iteration, Counts(1, count))
        elapsed_s = (time.perf_counter() - start_s) / (1 + count)
        verdict = None
        gathered = session.communicator.gather(stamps)
        if gathered is not None:
            times = times_us(iteration, gathered, session.world)
            more = int(min(100, PILOT_S / elapsed_s)) if count == 1 else 0
            typical_s = min(elapsed_s, 2 * iteration.least_s)  # else a hiccup
            verdict = typical_s, warmup_length(times.time), more if more >= 3 else 0
        iteration.duration_s, warmup, count = session.communicator.broadcast(verdict)
    calls = 4 * session.communicator.size // max(1, iteration.chain_calls)
    least = min(calls, int(CACHE_WARMUP_S / iteration.duration_s))
    fixed = session.options.warmup
    iteration.warmup = min(MOST_WARMUP, max(1 + warmup, least)) if fixed is None else fixed


def measure_block(
    session: Session, iteration: Iteration, block: int, datatype: Datatype
) -> Block | None:
    """Measures a block. Rank 0 gets its record. Raises DeviceError as `perform` does."""
    flight, communicator, checks = session.flight, session.communicator, session.options.checks
    flight.note("timed loop", case=iteration.number, block=block, text=iteration.text)
    if iteration.wrong:
        iteration.wrong.write(np.zeros(WRONG_BYTES, np.uint8))
    if iteration.fill_margins:
        session.world.device.caller(iteration.fill_margins)()
    before_ns = session.round_trip_ns()
    stamps = perform(session, iteration, Counts(iteration.warmup + checks, iteration.count, checks))
    trips_ns = before_ns, session.round_trip_ns()
    if checks and iteration.wrong and block == 0 and not iteration.chain_calls:
        check_when_all_have_left(session, iteration)
    wrong = iteration.read_wrong() if checks and iteration.wrong else None
    flight.note("gather")
    gathered = communicator.gather((stamps, wrong, checks * iteration.n_checked, trips_ns))
    flight.note("store")
    if gathered is None:
        return None
    all_stamps, wrongs, n_checked, all_trips_ns = zip(*gathered, strict=True)
    times = times_us(iteration, all_stamps, session.world)
    if session.options.samples:
        iteration.samples.append(samples_of(iteration, block, times))
    session.began_ns = session.began_ns or int(times.at_ns[0])
    record = block_record(iteration, block, times, session.began_ns)
    record.link_rtt_ns = link_rtt_ns(all_trips_ns)
    if wrong is not None:
        record.n_wrong = sum(of_rank.elements for of_rank in wrongs)
        record.n_checked = sum(n_checked)
        record.first_wrong = first_wrong(wrongs, datatype)
    return record


def check_when_all_have_left(session: Session, iteration: Iteration) -> None:
    """Checks a result once more that was right as soon as this rank had it: a peer that was still
    in its call may have stored there since. A chain's check launches, and so cannot come twice."""
    session.world.device.caller(session.meet)()
    if session.flight.watch.timed_out:
        session.watchdog.wait_for_end()
    if not iteration.read_wrong().elements:
        session.world.device.caller(iteration.check)()


def link_rtt_ns(trips_ns: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The longest round trips before and after, over all ranks; None if no rank measured one."""
    before, after = np.max(trips_ns, axis=0).tolist()
    return (before, after) if before or after else None


def block_record(iteration: Iteration, block: int, times: Times, began_ns: int = 0) -> Block:
    """The record of a block, without what was checked and the link's round trips, in a run whose
    first block began then."""
    chained = iteration.chain_calls > 0
    after_us, skew_us = float(np.median(times.after)), float(np.median(times.skew))
    total_us = times.time if chained else times.time + times.after
    iteration.usual_us.append(float(np.median(total_us)))
    return Block(
        case=iteration.number,
        block=block,
        round=block,
        n=len(times.time),
        warmup=iteration.warmup,
        time_us=float(np.median(times.time)),
        mean_us=round(float(times.time.mean()), 6),  # a picosecond: the rest is noise of rounding
        total_us=round(iteration.usual_us[-1], 6),
        steps=steps_of(total_us * max(1, iteration.chain_calls)),
        slow=slow_steps(iteration, times, total_us, began_ns) or msgspec.UNSET,
        consume_us=None if chained else after_us,
        chain_only_us=after_us if chained else None,
        arrival_skew_us=None if np.isnan(skew_us) else skew_us,
    )


def samples_of(iteration: Iteration, block: int, times: Times) -> Array:
    """The iterations of all ranks: block, rank, time, consume, arrival skew."""
    ranks, consume = np.array(times.ranks)[:, None], times.after_by_rank
    if iteration.chain_calls:
        consume = np.full_like(consume, np.nan)
    columns = np.broadcast_arrays(block, ranks, times.time_by_rank, consume, times.skew)
    return np.stack(columns, axis=-1).reshape(-1, len(columns)).astype(np.float32)


def measure_link(
    session: Session, parts: dict[str, Iteration], size_bytes: int, round_: int
) -> LinkBlock | None:
    """One block of the link's parts at a size; on rank 0."""
    flight = session.flight
    flight.note("link probe", case=None, block=round_, text=f"{size_bytes} B")
    before_ns = session.round_trip_ns()
    stamps = [perform(session, part, Counts(part.warmup, part.count)) for part in parts.values()]
    trips_ns = before_ns, session.round_trip_ns()
    flight.note("gather")
    gathered = session.communicator.gather((stamps, trips_ns))
    if gathered is None:
        return None
    all_stamps, all_trips_ns = zip(*gathered, strict=True)
    medians_us: dict[str, Any] = {}
    for (name, part), of_ranks in zip(parts.items(), zip(*all_stamps, strict=True), strict=True):
        times = times_us(part, of_ranks, session.world)
        median_us = float(np.median(times.time)) - session.overhead_us * part.scale
        medians_us[name] = max(median_us, 0.0)
    return LinkBlock(
        size_bytes=size_bytes,
        round=round_,
        link_rtt_ns=link_rtt_ns(all_trips_ns),
        **medians_us,
    )


def measure_empty_launch(session: Session) -> None:
    """Measures what each time contains of an empty collective, where ranks share no clock; the
    session of rank 0 keeps it."""
    world = session.world
    session.flight.note("empty launches", text="")
    idle = nothing(world)
    empty = Iteration("nothing", idle, Operation(idle), idle, idle)
    gathered = session.communicator.gather(perform(session, empty, Counts(20, 100)))
    if gathered is not None:
        session.overhead_us = float(np.median(times_us(empty, gathered, world).time))
