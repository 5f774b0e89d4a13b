"""Writes the suite's own tables: rows for `auto` from stored runs of any command, of several
machines. A row enters only if it raises no regret in the runs of another machine."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean, median
from typing import Any

from collectives.choice import SAME_STATE_RATIO, same_state
from collectives.operation import Row
from collectives.registry import ALGORITHMS
from collectives.table import best_row, check_algorithm, parsed
from reports.store.schema import Result
from reports.tables.tune import heats_of

NEAR_BEST = 1.03  # builds up to this ratio to the best are as good: rows then share one
LEAST_ROUNDS = 3
OWN_FACTS = "l2_bytes", "shares_l3", "oversubscribed"  # of the ranks of a run
Costs = Mapping[str, float]  # us, by the name of a build
Group = tuple[str, frozenset[tuple[str, Any]]]  # a collective, and facts


@dataclass(frozen=True)
class Cell:
    """What the runs of one machine measured at a size under some facts: the ratio of each build to
    the best, 1 or more; a flag's round trip between CPU cores, 0 on GPUs."""

    machine: str
    collective: str
    facts: Mapping[str, Any]
    round_trip_ns: float
    size_bytes: int
    ratios: Costs
    runs: tuple[str, ...]


def cells_of(results: Iterable[Result]) -> list[Cell]:
    """All cells; runs of one machine share a cell, whose ratios are then the means of the builds
    that all have measured."""
    found: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for result in results:
        for cell in cells_in(result):
            state = round(math.log(cell.round_trip_ns or 1.0, SAME_STATE_RATIO))
            facts = frozenset(cell.facts.items())
            found[cell.machine, cell.collective, facts, cell.size_bytes, state].append(cell)
    return [joined(cells) for cells in found.values()]


def cells_in(result: Result) -> Iterable[Cell]:
    run, collective = result.run, result.cases[0].collective
    known = ALGORITHMS.get(collective, {})
    device = "cpu" if run.clock_shared else "gpu"
    own = {name: run.world[name] for name in OWN_FACTS if name in run.world}
    for heat, candidates in heats_of(result).items():
        variant, size_bytes, mode, rtt_ns, is_lossy = heat
        facts: dict[str, Any] = {"device": device, "memory": memory_of(result), **own}
        facts |= {"ranks": run.world["size"], "variant": variant, "mode": mode}
        costs = {
            each.name: median(each.rounds.values())
            for each in candidates
            if len(each.rounds) >= LEAST_ROUNDS and is_choice(each.name, known, variant)
        }
        if len(costs) > 1 and not is_lossy:
            ratios = {name: cost / min(costs.values()) for name, cost in costs.items()}
            trip_ns = rtt_ns if run.clock_shared else 0.0
            yield Cell(
                run.machine_id, collective, facts, trip_ns, size_bytes, ratios, (run.run_id,)
            )


def memory_of(result: Result) -> str:
    return next((case.memory for case in result.cases if not case.library), "mapped")


def is_choice(name: str, known: Mapping[str, Any], variant: str) -> bool:
    """Whether `auto` can choose it."""
    try:
        check_algorithm(parsed(name, known), {"variant": variant})
    except (KeyError, ValueError):
        return False
    return True


def joined(cells: Sequence[Cell]) -> Cell:
    names = set.intersection(*(set(cell.ratios) for cell in cells)) or set(cells[0].ratios)
    ratios = {
        name: mean(cell.ratios[name] for cell in cells if name in cell.ratios) for name in names
    }
    least = min(ratios.values())
    return replace(
        cells[0],
        round_trip_ns=median(cell.round_trip_ns for cell in cells),
        ratios={name: ratio / least for name, ratio in ratios.items()},
        runs=tuple(sorted({run for cell in cells for run in cell.runs})),
    )


def rows_from(results: Sequence[Result]) -> list[Row]:
    """The rows of a table."""
    cells = cells_of(results)
    groups: dict[Group, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.collective, frozenset(cell.facts.items())].append(cell)
    rows = [row for group in groups.values() for row in rows_of_group(group)]
    return [row for row in rows if not raises_regret(row, rows, cells)]


def rows_of_group(cells: Sequence[Cell]) -> Iterable[Row]:
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


def merged(cells: Sequence[Cell], where: dict[str, Any]) -> Iterable[Row]:
    """A row for each stretch of sizes with one choice, which is among the best at each of them."""
    votes = Counter(
        name for cell in cells for name, ratio in cell.ratios.items() if ratio <= NEAR_BEST
    )
    last: Row | None = None
    for cell in cells:
        good = [name for name, ratio in cell.ratios.items() if ratio <= NEAR_BEST]
        name = max(good, key=lambda each: (votes[each], -cell.ratios[each]))
        size, algorithm = cell.size_bytes, parsed(name, ALGORITHMS[cell.collective])
        if last and last.algorithm.name == name:
            runs = sorted({*last.runs, *cell.runs})
            last = replace(last, size_bytes=(last.size_bytes[0], size), runs=runs)
            continue
        if last:
            yield last
        last = Row(cell.collective, algorithm, (size, size), where, list(cell.runs))
    if last:
        yield last


def raises_regret(row: Row, rows: Sequence[Row], cells: Sequence[Cell]) -> bool:
    """Whether the runs of other machines would be slower with this row than without."""
    others, with_row, without = [each for each in rows if each is not row], [], []
    for cell in cells:
        if not {*cell.runs} & {*row.runs} and cell.collective == row.collective:
            facts = {**cell.facts, "round_trip_ns": cell.round_trip_ns, "in_place": False}
            chosen, instead = (
                best_row(table, cell.collective, cell.size_bytes, facts) for table in (rows, others)
            )
            if chosen is row and instead:
                names = row.algorithm.name, instead.algorithm.name
                if all(name in cell.ratios for name in names):
                    with_row.append(cell.ratios[names[0]])
                    without.append(cell.ratios[names[1]])
    return bool(with_row) and mean(with_row) > mean(without)
