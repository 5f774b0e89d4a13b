"""The results of `bench.tune`: the best variant for each size, in each state of the link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from reports.store.case import LinkStates, find_states
from reports.store.schema import Block, Result
from reports.tables.sentences import lay_out, number, plain_table, size_text

FINALISTS = 4
LEAST_BLOCKS = 3  # of a finalist in a state of the link
ENOUGH_BLOCKS = 12  # enough for a finalist, however many another one has


@dataclass(frozen=True)
class Winner:
    """The best of `tried` candidates for a size and variant, in the state of the link with a flag
    round trip of `link_rtt_ns`; the runner-up is a name and a cost in microseconds."""

    size_bytes: int
    variant: str
    mode: str
    link_rtt_ns: float
    name: str
    cost_us: float
    tried: int
    runner_up: tuple[str, float] | None


def costs_by_state(blocks: Sequence[Block],
                   states: LinkStates) -> dict[int, dict[int, list[float]]]:
    """The costs in microseconds of each case's blocks in each state of the link. If the link never
    settled, all blocks count as one state."""
    costs: dict[int, dict[int, list[float]]] = {}
    for block, state in zip(blocks, states.of_block, strict=True):
        state = 0 if states.longest is None else state
        if state is not None:
            costs.setdefault(state, {}).setdefault(block.case, []).append(block.cost_us)
    return costs


def winners(result: Result) -> list[Winner]:
    """The winners by variant, size and state. Quantised candidates have their own winner, if it is
    faster than the exact one."""
    states = find_states(result.blocks)
    best = []
    for state, costs in sorted(costs_by_state(result.blocks, states).items()):
        rtt_ns = states.rtt_ns[state] if states.rtt_ns else 1.0
        best += _winners_in_state(result, costs, rtt_ns)
    return sorted(best, key=lambda w: (w.variant, w.size_bytes, w.link_rtt_ns))


def _winners_in_state(result: Result, costs: Mapping[int, list[float]],
                      rtt_ns: float) -> list[Winner]:
    heats: dict[tuple[int, str, bool], list[int]] = {}
    for case in result.cases:
        if case.status == "ok" and case.case in costs:
            heat = case.size_bytes, case.variant, case.snr_db is not None
            heats.setdefault(heat, []).append(case.case)
    best, exact_us = [], dict[tuple[int, str], float]()
    for (size, variant, is_lossy), cases in sorted(heats.items()):  # exact candidates come first
        ranked = _rank({case: costs[case] for case in cases})
        if is_lossy:
            limit_us = exact_us.get((size, variant), 0.0)
            ranked = [(cost_us, case) for cost_us, case in ranked if cost_us < limit_us]
        if not ranked:
            continue
        cost_us, winner = ranked[0]
        exact_us.setdefault((size, variant), cost_us)
        second = [(result.cases[case].algorithm, cost) for cost, case in ranked[1:2]]
        case = result.cases[winner]
        best.append(Winner(size, variant, case.mode, rtt_ns, case.algorithm, cost_us, len(cases),
                           second[0] if second else None))
    return best


def _rank(costs: Mapping[int, list[float]]) -> list[tuple[float, int]]:
    """The median cost and the number of each case with enough blocks, the fastest first. Early
    losers have few blocks: the best of them would be luck."""
    least = min(max(map(len, costs.values())) / 2, ENOUGH_BLOCKS)
    return sorted((median(of_case), case) for case, of_case in costs.items()
                  if len(of_case) >= max(least, LEAST_BLOCKS))


def render(result: Result) -> str:
    """One line for each size, variant and state of the link; ends with a newline."""
    head = ["the best in each state of the link (a flag's round trip); us of a call: up to",
            "512 KiB one of 160 dependent ones, beyond alone with the reading of its result"]
    rows = []
    for w in winners(result):
        after = f"{w.runner_up[0]} {w.runner_up[1] / w.cost_us:.2f}x" if w.runner_up else "-"
        rows.append([size_text(w.size_bytes), w.variant, f"{w.link_rtt_ns:.0f}", number(w.cost_us),
                     w.name, str(w.tried), after])
    table = plain_table({"size": 8, "variant": 10, "link ns": 7, "us": 8, "best": 22, "tried": 5,
                         "next": 0}, rows)
    return lay_out(result, head, [("", table)], [])
