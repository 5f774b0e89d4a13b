"""How a case is measured: the pilot, the blocks, and what becomes of their time stamps.

A block is a stretch of iterations of one case. Before and after it a flag bounces between the ranks, which tells the
state of the link; its first iteration and one after its last are checked bit by bit on the very path that is timed.
Iterations of a block are not independent, so intervals and the stop are decided on block medians alone.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bench.harness.iteration import Subject
from bench.harness.verify import first_wrong
from bench.harness.watchdog import Flight
from bench.machine.gpu_state import link_facts
from collectives.collective import Datatype
from collectives.library import mpi as library
from collectives.operation import WRONG_BYTES, Beside, DeviceError, Memory, Plan, Step, Unsupported, World, Wrong
from reports.result import Block, LinkBlock
from reports.stats import warmup_length

PING_PONGS = 100
SHARED_PING_PONGS = 4  # ranks that share a GPU take turns on it, milliseconds each
PILOT_S = 0.02
LONGEST_BLOCK_S = 0.1  # a stop is looked for between blocks
MOST_WARMUP = 50
LEAST_TURNS = 16  # of a group that takes long: six even rounds give an interval, in the state of the link that held
Stamps = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Bench:
    """A rank's means to measure: its world, its flight record, and how it dispatches and checks."""

    world: World
    flight: Flight
    checks: int
    warmup: int | None  # None: a changepoint test says
    dispatch: str
    clock_shared: bool
    meet: Step
    ping_pong: Step | None = None
    trip_ns: Memory | None = None
    beside: Beside | None = None  # what goes on beside the cases that have something beside them
    free_core: int | None = None  # of a CPU, which no rank has
    notes: list[str] = field(default_factory=list)  # on how cases are measured, for the head of the run
    overhead_us: float = 0.0  # of what is stamped: an empty collective's; on rank 0
    measuring_s: float = 0.0


def make_bench(world: World, flight: Flight, checks: int, warmup: int | None, dispatch: str) -> Bench:
    """Binds the meeting and the flag probe: over mapped memory, or MPI's barrier where there is none."""
    if isinstance(world.peers, Unsupported):
        with world.communicator.together(DeviceError):  # which it raises on all ranks or on none
            barrier = library.barrier(world)
        return Bench(world, flight, checks, warmup, dispatch, world.clock_shared, barrier)
    with world.communicator.together(DeviceError):
        trip_ns = world.device.private(8)
        kernels = world.device.compile("link_probe", {"WORLD": str(world.communicator.size)})
        meet = Step(kernels.kernel("meet"), world.peers.arguments(0, 0, 0, 0))
        trips = SHARED_PING_PONGS if world.peers.kind == "same_device" else PING_PONGS
        ping_pong = Step(kernels.kernel("flag_ping_pong"), world.peers.arguments(0, trip_ns.address, trips, 0))
    return Bench(world, flight, checks, warmup, dispatch, world.clock_shared, meet, ping_pong, trip_ns)


def run(bench: Bench, subject: Subject, warmup: int, iterations: int, checks: int) -> Stamps:
    """Runs iterations and returns their stamps, as `Device.run` does."""
    plan = Plan(subject.prepare, bench.meet, subject.operation.step, subject.consume, subject.check, warmup + checks,
                iterations, checks, subject.calls, bench.world.graph, subject.late,
                bench.beside if subject.waiting else None)
    start = time.perf_counter()
    if subject.from_python or bench.dispatch == "python":
        stamps = run_from_python(bench, subject, plan)
    else:
        stamps = bench.world.device.run(plan, bench.flight.watch)
    bench.measuring_s += time.perf_counter() - start
    if bench.flight.watch.timed_out:
        bench.flight.timed_out()
    return stamps


def run_from_python(bench: Bench, subject: Subject, plan: Plan) -> Stamps:
    """The timed loop as a Python caller pays for it: mpi4py's call for the library, a ctypes call for ours."""
    call = bench.world.device.caller
    prepare, meet, consume, check = map(call, (plan.prepare, plan.meet, plan.consume, plan.check))
    come_late = call(plan.late) if plan.late else lambda: None
    stamps = np.zeros((plan.iterations, 4), np.int64)
    for i in range(plan.warmup + plan.iterations + plan.checks):
        if bench.flight.watch.stop:
            break
        bench.flight.watch.iteration += 1
        prepare()
        meet()
        t = [0, 0, 0, 0]
        if plan.calls:
            t[2] = time.monotonic_ns()
            for _ in range(plan.calls):
                consume()
            t[3] = time.monotonic_ns()
            prepare()
            meet()
            t[0] = time.monotonic_ns()
            for _ in range(plan.calls):
                subject.operation.call()
                consume()
            t[1] = time.monotonic_ns()
        else:
            come_late()
            t[0] = time.monotonic_ns()
            subject.operation.call()
            t[1] = t[2] = time.monotonic_ns()
            consume()
            t[3] = time.monotonic_ns()
        if plan.warmup <= i < plan.warmup + plan.iterations:
            stamps[i - plan.warmup] = t
        if i < plan.checks or i >= plan.warmup + plan.iterations:
            check()
    return stamps


def round_trip_ns(bench: Bench) -> float | None:
    """The flag's mean round trip between pairs of ranks, as this rank saw it; 0 for a rank without a partner."""
    if bench.ping_pong is None or bench.trip_ns is None:
        return None
    bench.world.device.caller(bench.ping_pong)()
    if bench.flight.watch.timed_out:
        bench.flight.timed_out()
    return float(bench.trip_ns.read().view(np.uint64)[0])


def follow_link(bench: Bench, subject: Subject, trip_ns: float | None) -> None:
    """Where a subject has something for each state of the link, takes, on all ranks, what rank 0's probe asks for."""
    if subject.by_link and (seen_ns := bench.world.communicator.broadcast(trip_ns)):
        subject.follow_link(seen_ns)


def times_us(stamps: list[np.ndarray[Any, Any]], clock_shared: bool,
             subject: Subject | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """From all ranks' stamps: the time of each iteration (last exit minus last arrival where the ranks share a clock,
    else the slowest rank's own), of what follows, the arrival skew, and each rank's time, [rank, iteration]. Of the
    ranks of `subject` alone, and from the arrival of its movers on: one that has no part may come when all is done."""
    ranks = subject.ranks if subject and subject.ranks else tuple(range(len(stamps)))
    movers = subject.movers if subject and subject.movers else ranks
    all_ns = np.stack([stamps[rank][:, :4] for rank in ranks]).astype(np.float64)
    arrived, left, begun, done = np.moveaxis(all_ns, 2, 0)
    start = arrived[[ranks.index(rank) for rank in movers]].max(axis=0) if clock_shared else arrived
    each = left - start
    skew = arrived.max(axis=0) - arrived.min(axis=0) if clock_shared else np.full(arrived.shape[1], np.nan)
    return {"time": each.max(axis=0) / 1e3, "after": (done - begun).max(axis=0) / 1e3, "skew": skew / 1e3,
            "each": each / 1e3, "after_each": (done - begun) / 1e3}


def pilot(bench: Bench, subject: Subject) -> None:
    """Finds how long an iteration takes and how many of them warm up; all ranks take rank 0's word."""
    mpi = bench.world.communicator
    bench.flight.note("pilot", case=subject.number, block=None, text=subject.text)
    if subject.by_link:
        follow_link(bench, subject, round_trip_ns(bench))
    count, warmup = 1, 0
    while count:
        start = time.perf_counter()
        stamps = run(bench, subject, 1, count, 0)
        elapsed_s = (time.perf_counter() - start) / (1 + count)
        found = None
        if (everyone := mpi.gather(stamps)) is not None:
            warmup = warmup_length(times_us(everyone, bench.clock_shared, subject)["time"])
            more = int(min(100, PILOT_S / elapsed_s)) if count == 1 else 0
            found = (elapsed_s, warmup, more if more >= 3 else 0)
        subject.iteration_s, warmup, count = mpi.broadcast(found)
    subject.warmup = bench.warmup if bench.warmup is not None else min(MOST_WARMUP, 1 + warmup)


def fewest_iterations(subject: Subject) -> int:
    """Of a block: a median wants three; a chain is 160 calls by itself, and some sizes take as long as a block may."""
    return 1 if subject.calls or subject.iteration_s > LONGEST_BLOCK_S else 3


def block_cost_s(bench: Bench, subject: Subject, block_s: float) -> float:
    """What a block of about `block_s` timed seconds takes in all."""
    timed = max(fewest_iterations(subject), block_s / subject.iteration_s)
    return 0.001 + subject.iteration_s * (timed + subject.warmup + 2 * bench.checks) * (2 if subject.waiting else 1)


def take_turns(bench: Bench, subjects: list[Subject], budget_s: float, rounds: int) -> int:
    """Where the shortest blocks of all groups do not fit into the budget so often, has groups that take long in each
    third, fifth ... round alone, so that they keep LEAST_TURNS and the others have more. Gives the rounds that fit."""
    cost_s: dict[str, float] = {}
    for subject in subjects:
        if subject.group:
            cost_s[subject.group] = cost_s.get(subject.group, 0.0) + block_cost_s(bench, subject, 0.0)
    every = dict.fromkeys(cost_s, 1)
    while sum(cost_s[group] / every[group] for group in every) * rounds > budget_s:
        # By an odd number, so that a group has odd and even rounds.
        longer = [group for group in every if rounds / (every[group] + 2) >= LEAST_TURNS]
        if longer:
            every[max(longer, key=lambda group: cost_s[group] / every[group])] += 2
        elif rounds > LEAST_TURNS:
            rounds, every = max(LEAST_TURNS, rounds * 3 // 4), dict.fromkeys(cost_s, 1)
        else:
            break
    for subject in subjects:
        subject.every = every.get(subject.group, subject.every)
    return rounds


def plan_blocks(bench: Bench, subjects: list[Subject], budget_s: float, rounds: int, asked: int) -> None:
    """Makes blocks as long as so many rounds over all subjects allow within the budget, or, where so many iterations
    were asked for, as it takes to make them."""
    lengths = np.geomspace(LONGEST_BLOCK_S, 2e-4, 40)

    def costs_s(length_s: float) -> float:
        return rounds * sum(block_cost_s(bench, subject, length_s) / subject.every for subject in subjects)

    fitting = [s for s in lengths if costs_s(s) <= budget_s]
    for subject in subjects:
        fit, most = (int(s / subject.iteration_s) for s in ((fitting or [lengths[-1]])[0], LONGEST_BLOCK_S))
        subject.iterations = min(-(-asked // rounds), max(1, most)) if asked else max(fewest_iterations(subject), fit)


def measure_block(bench: Bench, subject: Subject, block: int,
                  datatype: Datatype) -> tuple[Block, np.ndarray[Any, Any]] | None:
    """One block of a case of this type, the `block`-th, in the round of that number. Rank 0 gets the block and its
    samples (block, rank, time, consume, arrival skew), the others None.

    Raises DeviceError, on all ranks, with the sentence of a library that failed.
    """
    bench.flight.note("timed loop", case=subject.number, block=block, text=subject.text)
    measured_before_s = bench.measuring_s
    if subject.wrong is not None:
        subject.wrong.write(np.zeros(WRONG_BYTES, np.uint8))
    before = round_trip_ns(bench)
    follow_link(bench, subject, before)
    stamps = run(bench, subject, subject.warmup, subject.iterations, bench.checks)
    after = round_trip_ns(bench)
    wrong = Wrong.from_buffer_copy(bytes(subject.wrong.read())) if bench.checks and subject.wrong is not None else None
    failures = bench.world.communicator.all_gather(subject.operation.failure())
    for rank, failure in enumerate(failures):
        if failure:
            raise DeviceError(f"rank {rank}: {failure}")
    matmul = matmul_gflop_s(bench, subject, stamps) if subject.waiting else None
    bus_id = bench.world.device.facts.get("pci_bus_id")
    gpu = {"pci_bus_id": bus_id, **link_facts(bus_id)} if bus_id else None
    bench.flight.note("gather")
    gathered = bench.world.communicator.gather((stamps, wrong, before, after, gpu, matmul))
    bench.flight.note("store")
    if gathered is None:
        return None
    return summary(subject, block, gathered, bench.clock_shared, bench.measuring_s - measured_before_s, datatype)


def matmul_gflop_s(bench: Bench, subject: Subject, stamps: Stamps) -> tuple[float, float] | None:
    """How fast the matmul beside a block went, and goes beside one in which this rank only waits as long, all else
    being the same; None where one of them did not last."""
    assert subject.waiting
    assert bench.beside
    if not len(stamps):
        return None  # stopped
    arrived, left, begun, done = stamps[:, :4].T
    calls = max(1, subject.calls)
    chain_only_ns = done - begun if subject.calls else 0
    subject.waiting.step.argument.timeout_ns = max(0, int(np.median(left - arrived - chain_only_ns) / calls))
    alone = run(bench, replace(subject, operation=subject.waiting), subject.warmup, subject.iterations, 0)
    found = []
    for each in (stamps, alone):
        known = each[each[:, 4] >= 0]
        if not (span_ns := int((known[:, 1] - known[:, 0]).sum())):
            return None
        found.append(bench.beside.flops * known[:, 4].sum() / 1e3 / span_ns)
    return found[0], found[1]


# What a rank has to say of a block: its stamps, what it found wrong, the flag's round trip before and after, the state
# of its GPU, and how fast the matmul beside it was, and is alone.
RankBlock = tuple[np.ndarray[Any, Any], Wrong | None, float | None, float | None, dict[str, Any] | None,
                  tuple[float, float] | None]


def summary(subject: Subject, block: int, ranks: Sequence[RankBlock], clock_shared: bool,
            measure_s: float, datatype: Datatype) -> tuple[Block, np.ndarray[Any, Any]]:
    """A block's record and samples from what all ranks say of it."""
    stamps, wrong, befores, afters, gpus, matmuls = zip(*ranks, strict=True)
    with_it, alone = np.mean(matmuls, axis=0).tolist() if None not in matmuls else (None, None)
    t = times_us(list(stamps), clock_shared, subject)
    chained = subject.calls > 0
    per = max(1, subject.calls) / subject.scale
    time_us, after_us = t["time"] / per, t["after"] / per
    total_us = time_us if chained else time_us + after_us
    trips = [trip for trip in (*befores, *afters) if trip]  # 0: a rank without a partner
    record = Block(
        case=subject.number, block=block, round=block, n=len(time_us), time_us=float(np.median(time_us)),
        mean_us=float(time_us.mean()), total_us=float(np.median(total_us)),
        consume_us=None if chained else float(np.median(after_us)),
        chain_only_us=float(np.median(after_us)) if chained else None,
        arrival_skew_us=float(np.median(t["skew"])) if clock_shared else None,
        link_rtt_ns=(max(befores), max(afters)) if trips else None,
        n_wrong=None if None in wrong else sum(its.elements for its in wrong),
        first_wrong=None if None in wrong else first_wrong(wrong, datatype), measure_s=measure_s,
        gpus=[gpu for gpu in gpus if gpu] or None,
        chosen=subject.operation.chosen if subject.by_link else None,
        matmul_gflop_s=with_it, matmul_alone_gflop_s=alone)
    n_ranks, n = t["each"].shape
    consume = np.full((n_ranks, n), np.nan) if chained else t["after_each"]
    ranks_of_rows = np.repeat(subject.ranks or np.arange(n_ranks), n)
    columns = [np.full(n_ranks * n, block), ranks_of_rows, t["each"].ravel() / per, consume.ravel(),
               np.tile(t["skew"], n_ranks)]
    return record, np.stack(columns, axis=1).astype(np.float32)


def measure_link(bench: Bench, parts: dict[str, Subject], size_bytes: int, round_: int) -> LinkBlock | None:
    """One block of the link's parts at a size; on rank 0."""
    bench.flight.note("link probe", case=None, block=round_, text=f"{size_bytes} B")
    before = round_trip_ns(bench)
    stamps = {name: run(bench, part, part.warmup, part.iterations, 0) for name, part in parts.items()}
    after = round_trip_ns(bench)
    bench.flight.note("gather")
    gathered = bench.world.communicator.gather((stamps, before, after))
    if gathered is None:
        return None
    all_stamps, befores, afters = zip(*gathered, strict=True)
    medians: dict[str, Any] = {}
    for name, part in parts.items():
        time_us = float(np.median(times_us([s[name] for s in all_stamps], bench.clock_shared)["time"]))
        medians[name] = max(time_us - bench.overhead_us, 0.0) * part.scale
    return LinkBlock(size_bytes=size_bytes, round=round_, link_rtt_ns=(max(befores), max(afters)), **medians)
