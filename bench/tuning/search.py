"""The search of bench.tune: its candidates, which of them go on, and the rows that it finds."""

from collections.abc import Sequence
from typing import Any

from bench.harness import tuned
from bench.harness.options import SweepOptions
from bench.harness.run import RunInProgress
from bench.harness.session import Session
from bench.harness.suite import Suite
from bench.harness.suite import prepare as prepare_sweep
from bench.tuning.winners import FINALISTS, Candidate, Heat, find_winners, heats_of
from collectives import choice
from collectives.algorithms import listed
from collectives.build import BuildName
from collectives.collective import COLLECTIVES
from collectives.operation import MOST_CHAINED_BYTES, Algorithm, ChoiceRow, World
from collectives.registry import ALGORITHMS
from wiretax.record.blocks import STATE_RATIO, count_blocks
from wiretax.record.schema import Result, Winner

ROUNDS_A_HEAT = 3  # before the worse half leaves
LAST_ROUNDS = 24  # for the finalists
KNOWN = ALGORITHMS["all_reduce"]
OURS = [*listed()["all_reduce"].values()]


def candidates(world: World, size_bytes: int) -> list[Algorithm]:
    """The builds to try at a size; of several hosts the algorithms between hosts."""
    ours = [each for each in OURS if each.spans_hosts == bool(world.node)]
    if world.node:
        return ours
    builds = [
        build
        for over in (world, *world.other_memory)
        for algorithm in ours
        for build in algorithm.candidates(over, size_bytes)
    ]
    return [*{build.name: build for build in builds}.values()]


def prepare(sizes: tuple[int, ...], stable: bool, session: Session) -> Suite:
    """`auto` and every candidate at every size, or if `stable` `auto_stable` and those that sum in
    rank order; without the parts of a bound. Raises Refusal."""

    def tried(size_bytes: int) -> list[Algorithm]:
        every = candidates(session.world, size_bytes)
        ordered = [each for each in every if each.sums_in_rank_order or not stable]
        return [KNOWN[choice.STABLE if stable else choice.AUTO], *ordered]

    sweep = SweepOptions(COLLECTIVES["all_reduce"], sizes)
    return prepare_sweep(sweep, session, tried)


def go_on(run: RunInProgress, active: list[int], rounds: int) -> list[int]:
    """The cases that have another round. Cases of one size, variant and mode compete. A candidate
    that `auto` also runs does not go on."""
    assert run.file
    counted = count_blocks(run.file.run, run.file.blocks)
    heats = heats_of(run.suite.headers, counted.costs_us)
    return sorted(set[int]().union(*map(survivors, heats.values())))


def survivors(heat: list[Candidate]) -> set[int]:
    """The cases of a heat that have another round: those with fewer than three blocks, and the
    best, fewer the longer the heat has lasted. The finalists stay until the end, and so does the
    untuned choice."""
    halvings = max(len(each.rounds) for each in heat) // ROUNDS_A_HEAT
    places = max(FINALISTS, len(heat) >> halvings)
    ranked = sorted((each for each in heat if each.rounds), key=lambda each: each.cost_us)
    newcomers = {each.number for each in heat if len(each.rounds) < ROUNDS_A_HEAT}
    finalists = [each for place, each in enumerate(ranked) if place < places or each.is_untuned]
    unsettled = {each.number for each in finalists if len(each.rounds) < LAST_ROUNDS}
    return newcomers | (unsettled or {each.number for each in ranked[:1]})


def row_of(result: Result, winner: Winner) -> ChoiceRow:
    """The row of a search for this winner."""
    case, size = result.cases[0], winner.size_bytes
    where: dict[str, Any] = {
        "memory": case.memory,  # of `auto`: all kinds
        "ranks": result.run.world_size,
        "hosts": result.run.hosts,
        "variant": winner.variant,
    }
    if any(case.algorithm == choice.STABLE for case in result.cases):
        where["stable"] = True
    if result.run.clock_shared:  # between CPU cores
        where["round_trip_ns"] = state_range(result.counted.rtt_ns)
    is_registered = winner.variant == "registered"
    if is_registered:
        where["in_place"] = False
    # A size that was measured in one mode serves both; but a chain over registered buffers is
    # another case than one call.
    if is_registered or size <= MOST_CHAINED_BYTES:
        where["mode"] = winner.mode
    name = BuildName.parse(winner.name)
    algorithm = str(name._replace(memory=None))
    candidate = (winner.candidate, winner.gain[0]) if winner.candidate and winner.gain else None
    runs = [result.run.run_id]
    return ChoiceRow("all_reduce", algorithm, (size, size), where, runs, name.memory, candidate)


def found_before(result: Result, rows: Sequence[ChoiceRow]) -> dict[Heat, tuple[str, float]]:
    """The candidates of these rows for the heats of this search."""
    found = dict[Heat, tuple[str, float]]()
    for winner in find_winners(result):
        here = row_of(result, winner)
        for row in rows:
            if row.candidate and tuned.is_for_same_cases(row, here):
                found[Heat(winner.variant, winner.size_bytes, winner.mode)] = row.candidate
    return found


def state_range(round_trip_ns: float) -> Sequence[float]:
    """The round trips that count as one state of the link with this one."""
    half = STATE_RATIO**0.5
    return [round(round_trip_ns / half, 1), round(round_trip_ns * half, 1)]
