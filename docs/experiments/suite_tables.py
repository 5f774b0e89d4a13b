"""Prints rows for the suite's own tables, collectives/tables, from stored runs of any command, of
several machines: `python -m docs.experiments.suite_tables RUN ...` in the project's folder. A row
enters only if it raises no regret in the runs of another machine."""

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.tuning.winners import heats_of
from collectives.auto_table import best_row, check_algorithm, parsed, written
from collectives.build import cpu_builds
from collectives.operation import ChoiceRow, KernelAlgorithm
from collectives.registry import ALGORITHMS
from wiretax.record.blocks import STATE_RATIO, same_state
from wiretax.record.result import read
from wiretax.record.schema import Result

NEAR_BEST = 1.04  # builds up to this ratio to the best are as good: rows then share one
LEAST_ROUNDS = 6  # of a build, for it to count
LEAST_SHARE = 0.4  # of the rounds of the build with most, in the runs that tried it
Group = tuple[str, frozenset[tuple[str, Any]]]  # a collective, and facts
Measured = Mapping[str, tuple[float, int]]  # by build: us, and rounds


@dataclass(frozen=True)
class Cell:
    """What the runs of one machine measured at a size under some facts: by build the ratio to the
    best, 1 or more; a flag's round trip between CPU cores, 0 on GPUs."""

    collective: str
    facts: Mapping[str, Any]
    round_trip_ns: float
    size_bytes: int
    ratios: Mapping[str, float]
    runs: tuple[str, ...]


def cells_of(results: Iterable[Result]) -> list[Cell]:
    """All cells; the runs of one machine under the same facts and state of the link share one."""
    found: dict[tuple[Any, ...], list[tuple[float, Measured, str]]] = defaultdict(list)
    for result in results:
        run, collective, of_run = result.run, result.cases[0].collective, facts_of(result)
        trip_ns = result.counted.rtt_ns if run.clock_shared else 0.0
        state = round(math.log(trip_ns or 1.0, STATE_RATIO))
        for heat, candidates in heats_of(result.cases, result.counted.costs_us).items():
            facts = {**of_run, "variant": heat.variant, "mode": heat.mode}
            measured = {
                each.name: (each.cost_us, len(each.rounds))
                for each in candidates
                if each.rounds and is_choice(each.name, collective, facts, heat.size_bytes)
            }
            if len(measured) > 1 and facts["ranks"] > 1:
                key = run.machine_id, collective, frozenset(facts.items()), heat.size_bytes, state
                found[key].append((trip_ns, measured, run.run_id))
    cells = []
    for (_, collective, facts_of_cell, size_bytes, _), parts in found.items():
        trips_ns, measured_by_run, runs = zip(*parts, strict=True)
        if ratios := ratios_of(measured_by_run):
            facts = dict(facts_of_cell)
            cells.append(
                Cell(collective, facts, median(trips_ns), size_bytes, ratios, tuple(sorted(runs)))
            )
    return cells


def ratios_of(runs: Sequence[Measured]) -> dict[str, float]:
    """The cost of each build over the best one's, by way of the build that most runs have measured:
    the median over the rounds of all runs, since a loaded run has ratios of any size. A build with
    few rounds would be best by luck."""
    rounds = Counter[str]()
    for measured in runs:
        rounds.update({name: n for name, (_, n) in measured.items()})
    shared = max(rounds, key=lambda name: (sum(name in each for each in runs), rounds[name]))
    ratios: dict[str, float] = {}
    for name, total in rounds.items():
        both = [each for each in runs if name in each and shared in each]
        most = sum(max(n for _, n in each.values()) for each in runs if name in each)
        if both and total >= max(LEAST_ROUNDS, LEAST_SHARE * most):
            of_runs = [each[name][0] / each[shared][0] for each in both]
            ratios[name] = float(np.median(np.repeat(of_runs, [each[name][1] for each in both])))
    best = min(ratios.values(), default=1.0)
    return {name: ratio / best for name, ratio in ratios.items()}


def is_choice(name: str, collective: str, facts: Mapping[str, Any], size_bytes: int) -> bool:
    """Whether `auto` may choose it: on CPUs a build of `cpu_builds` of what its model knows, which
    sums in rank order; the best of many others would be best by luck. On GPUs all: whether packets
    arrive is for the probe of memory to say. Where a run has several kinds of memory the name says
    over which: tables for all machines take none of these."""
    try:
        algorithm = parsed(name, ALGORITHMS[collective])
        check_algorithm(algorithm)
    except ValueError:
        return False
    if facts["device"] == "gpu":
        return True
    if not isinstance(algorithm, KernelAlgorithm) or not algorithm.is_modelled:
        return False
    return algorithm.build in cpu_builds(algorithm.varies, size_bytes)


def facts_of(result: Result) -> dict[str, Any]:
    """Of the ranks of a run: their number and memory, and of CPUs the caches and cores."""
    world = result.run.world
    memory = next((case.memory for case in result.cases if not case.library), "mapped")
    device = "cpu" if result.run.clock_shared else "gpu"
    facts = {"device": device, "ranks": world["size"], "memory": memory}
    if result.run.clock_shared:
        caches = str(result.run.environment.get("cpu.caches", {}).get("value"))
        for name, found in (("l1_bytes", r"L1d (\d+)K"), ("l2_bytes", r"L2 (\d+)K")):
            if cache := re.search(found, caches):
                facts[name] = int(cache[1]) << 10
        cores = {cpu for rank in world["ranks"] for cpu in rank["cpus"]}
        facts["oversubscribed"] = len(cores) < world["size"]
    return facts


def rows_from(results: Sequence[Result]) -> list[ChoiceRow]:
    """The rows of a table."""
    cells = cells_of(results)
    groups: dict[Group, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.collective, frozenset(cell.facts.items())].append(cell)
    rows = [row for group in groups.values() for row in rows_of_group(group)]
    return [row for row in rows if not raises_regret(row, rows, cells)]


def rows_of_group(cells: Sequence[Cell]) -> Iterable[ChoiceRow]:
    """Rows of one machine under the same facts. The states of the link divide all round trips."""
    facts = dict(cells[0].facts)
    states = sorted({cell.round_trip_ns for cell in cells} - {0.0})
    levels = [
        ns for ns, before in zip(states, [0.0, *states], strict=False) if not same_state(ns, before)
    ]
    ends = [0.0, *(math.sqrt(a * b) for a, b in pairwise(levels)), 1e9]
    for least_ns, most_ns in pairwise(ends) if levels else [(0.0, 1e9)]:
        where = {name: facts[name] for name in sorted(facts)}
        if facts["variant"] == "registered":
            where["in_place"] = False
        if levels:
            where["round_trip_ns"] = [round(least_ns, 1), round(most_ns, 1)]
        of_state = [cell for cell in cells if least_ns <= cell.round_trip_ns < most_ns]
        yield from merged(sorted(of_state, key=lambda cell: cell.size_bytes), where)


def merged(cells: Sequence[Cell], where: dict[str, Any]) -> Iterable[ChoiceRow]:
    """A row for each stretch of sizes with one choice, which is among the best at each of them."""
    good = [[name for name, ratio in cell.ratios.items() if ratio <= NEAR_BEST] for cell in cells]
    votes = Counter(chain(*good))
    chosen = [
        max(names, key=lambda name: (votes[name], -cell.ratios[name]))
        for cell, names in zip(cells, good, strict=True)
    ]
    for name, stretch in groupby(zip(chosen, cells, strict=True), key=itemgetter(0)):
        alike = [cell for _, cell in stretch]
        sizes = alike[0].size_bytes, alike[-1].size_bytes
        runs = sorted({run for cell in alike for run in cell.runs})
        yield ChoiceRow(alike[0].collective, name, sizes, where, runs)


def raises_regret(row: ChoiceRow, rows: Sequence[ChoiceRow], cells: Sequence[Cell]) -> bool:
    """Whether the runs of other machines would be slower with this row than without."""
    others, pairs = [each for each in rows if each is not row], []
    for cell in cells:
        if not {*cell.runs} & {*row.runs}:
            facts = {**cell.facts, "round_trip_ns": cell.round_trip_ns, "in_place": False}
            chosen, instead = (
                best_row(table, cell.collective, cell.size_bytes, facts) for table in (rows, others)
            )
            if chosen is row and instead:
                pairs.append([cell.ratios.get(each.algorithm) for each in (row, instead)])
    ratios = np.array([pair for pair in pairs if all(pair)])
    with_row, without = ratios.mean(axis=0) if len(ratios) else (1.0, 1.0)
    return bool(with_row > without)


if __name__ == "__main__":
    print(written(rows_from([read(Path(name)) for name in sys.argv[1:]])))
