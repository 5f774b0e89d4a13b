"""What a run of `bench.tune` has found: for each size and variant, in each state of the link, what is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from reports.store.case import LinkStates, find_states
from reports.store.schema import Block, Result
from reports.tables.sentences import number, opening, size_text

FINALISTS = 4
LEAST_BLOCKS = 3  # of a finalist in a state of the link
ENOUGH_BLOCKS = 12  # of one who is no early loser, however long another has been measured


@dataclass(frozen=True)
class Winner:
    """The best, of so many that were tried, for a size and variant in the state of the link whose flag takes
    `link_rtt_ns`, with its cost; and the next best with its own."""

    size_bytes: int
    variant: str
    mode: str
    link_rtt_ns: float
    name: str
    cost_us: float
    tried: int
    runner_up: tuple[str, float] | None


def costs_by_state(blocks: Sequence[Block], states: LinkStates) -> dict[int, dict[int, list[float]]]:
    """The costs in microseconds of each case's blocks in each state of the link. Of a link that never settled all
    blocks count, as one state."""
    found: dict[int, dict[int, list[float]]] = {}
    for block, its in zip(blocks, states.of_block, strict=True):
        state = 0 if states.longest is None else its
        if state is not None:
            found.setdefault(state, {}).setdefault(block.case, []).append(block.total_us or block.time_us)
    return found


def winners(result: Result) -> list[Winner]:
    """By size, variant and state; none for a state in which nothing has enough blocks. What is lossy is judged apart,
    and named beside the other where it is faster."""
    states = find_states(result.blocks)
    found = []
    for state, costs in sorted(costs_by_state(result.blocks, states).items()):
        seen = {case: len(of_case) for case, of_case in costs.items()}
        costs_us = {case: median(of_case) for case, of_case in costs.items() if seen[case] >= LEAST_BLOCKS}
        heats: dict[tuple[int, str, bool], list[int]] = {}
        for case in result.cases:
            if case.status == "ok" and case.case in seen:
                heats.setdefault((case.size_bytes, case.variant, case.snr_db is not None), []).append(case.case)
        lossless_us: dict[tuple[int, str], float] = {}
        for (size, variant, lossy), heat in sorted(heats.items()):
            # Who fell out early has few blocks, of which the best would be luck.
            least = min(max(seen[case] for case in heat) / 2, ENOUGH_BLOCKS)
            ranked = sorted((case for case in heat if case in costs_us and seen[case] >= least),
                            key=costs_us.__getitem__)
            if lossy:  # worth its noise only where it is faster
                ranked = [case for case in ranked if costs_us[case] < lossless_us.get((size, variant), 0.0)]
            elif ranked:
                lossless_us[size, variant] = costs_us[ranked[0]]
            if ranked:
                best, *others = ranked
                names = [(result.cases[case].algorithm, costs_us[case]) for case in others[:1]]
                rtt_ns = states.rtt_ns[state] if states.rtt_ns else 1.0
                found.append(Winner(size, variant, result.cases[best].mode, rtt_ns, result.cases[best].algorithm,
                                    costs_us[best], len(heat), names[0] if names else None))
    return sorted(found, key=lambda w: (w.variant, w.size_bytes, w.link_rtt_ns))


def render(result: Result) -> str:
    """One line a size, variant and state of the link; ends with a newline."""
    lines = [*opening(result), "the best in each state of the link (a flag's round trip), of so many tried; us of",
             "a call: up to 512 KiB one of 160 dependent ones, beyond alone with the reading", "of its result", ""]
    form = "{:>8} {:<10} {:>7} {:>8}  {:<22} {:>5}  {}"
    lines.append(form.format("size", "variant", "link ns", "us", "best", "tried", "next"))
    for w in winners(result):
        after = f"{w.runner_up[0]} {w.runner_up[1] / w.cost_us:.2f}x" if w.runner_up else "-"
        lines.append(form.format(size_text(w.size_bytes), w.variant, f"{w.link_rtt_ns:.0f}", number(w.cost_us), w.name,
                                 w.tried, after).rstrip())
    return "\n".join(lines) + "\n"
