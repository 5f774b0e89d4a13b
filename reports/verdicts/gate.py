"""The gate: is the current slower than the baseline? What is found, as an outcome and in words.

Exit status: 5 the current is wrong, incomplete, or lacks a case of the baseline; else 4 the two cannot be compared;
else 1 a regression; else 3 not enough data to tell; else 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.store.result import ResultError
from reports.tables.sentences import size_text
from reports.verdicts.accept import UNUSABLE
from reports.verdicts.comparison import Cell, Comparison
from reports.verdicts.sides import key_of
from reports.verdicts.verdict import Verdict
from reports.verdicts.verdict_table import case_names, figures, named, some

REGRESSION, INCONCLUSIVE = 1, 3
MOST_LISTED = 5

Named = list[tuple[str, Cell]]


@dataclass
class Outcome:
    """What the gate found. `least` is the slowdown that counts, a share; `faults` are (name, sentence) of what makes
    the current unusable. Cells stand with their names, worst first: `slower` by that much, `hidden` where that much
    could hide, and `faster`."""

    comparison: Comparison
    least: float
    faults: list[tuple[str, str]]
    cells: Named
    slower: Named
    hidden: Named
    faster: Named
    passes_hidden: bool
    status: int


def judge(comparison: Comparison, faults: Sequence[tuple[str, str]] = (), least: float | None = None,
          passes_hidden: bool = False) -> Outcome:
    """The outcome. `least` is a share, the margin where None. Raises ResultError for an effect below the margin, where
    nothing is called."""
    least = comparison.margin if least is None else least
    if least < comparison.margin:
        raise ResultError(f"--min-effect {least:.2%} is within the margin, {comparison.margin:.2%}: nothing is called")
    measured = {key_of(case) for launch in comparison.variant.launches for case in launch.result.cases
                if case.status != "not measured"}
    lacking = comparison.lacking + [cell.case for cell in comparison.cells if key_of(cell.case) not in measured]
    cells = sorted(named(comparison), key=lambda one: one[1].ratio or 0, reverse=True)
    absent = [f"{size_text(case.size_bytes)} {name}" for case, name in zip(lacking, case_names(lacking), strict=True)]
    faults = [*faults, *((name, f"{name} of the baseline was not measured") for name in absent)]
    slower = [one for one in cells if one[1].verdict is Verdict.SLOWER and (one[1].ratio or 0) >= 1 + least]
    hidden = [one for one in cells if one not in slower and one[1].verdict not in (Verdict.SAME, Verdict.FASTER)
              and (one[1].high is None or one[1].high >= 1 + least)]
    faster = [one for one in reversed(cells) if one[1].verdict is Verdict.FASTER]
    # Where pairs are too few for any cell to be called there is no verdict to pass.
    passes_hidden &= any(cell.detectable is not None and np.isfinite(cell.detectable) for cell in comparison.cells)
    status = UNUSABLE if faults else REGRESSION if slower else INCONCLUSIVE if hidden and not passes_hidden else 0
    return Outcome(comparison, least, faults, cells, slower, hidden, faster, passes_hidden, status)


def headline(outcome: Outcome) -> str:
    """The outcome and the exit status in words."""
    of = f"of {len(outcome.cells)} cells"
    said = {UNUSABLE: f"UNUSABLE: {some([sentence for _, sentence in outcome.faults], 1)}",
            REGRESSION: f"REGRESSION: {len(outcome.slower)} {of} slower by {outcome.least:.1%} or more",
            INCONCLUSIVE: f"INCONCLUSIVE: in {len(outcome.hidden)} {of} a slowdown of {outcome.least:.1%} could hide",
            0: f"PASS: 0 {of} slower by {outcome.least:.1%} or more"}
    return f"{said[outcome.status]} (exit status {outcome.status})"


def findings(outcome: Outcome) -> list[str]:
    """What the cells say, in sentences; the worst by name."""
    lines = [sentence for _, sentence in outcome.faults[1:MOST_LISTED]]
    lines += [f"{name}: {' '.join(figures(cell)[3:5])}" for name, cell in outcome.slower[:MOST_LISTED]]
    if (more := len(outcome.slower) - MOST_LISTED) > 0:
        lines.append(f"and {more} more slower")
    if outcome.hidden:
        ends = [(cell.high, name) for name, cell in outcome.hidden if cell.high]
        most = f"; the most is {max(ends)[0] - 1:.1%}, in {max(ends)[1]}" if ends else ""
        bare = f"; {len(outcome.hidden) - len(ends)} have no interval (unreplicated, or too few pairs)"
        lines.append(f"inconclusive: {len(outcome.hidden)} of {len(outcome.cells)} cells leave a slowdown open{most}"
                     + bare * (len(ends) < len(outcome.hidden)))
    if outcome.faster:
        lines.append(f"baseline is stale: FASTER in {len(outcome.faster)} of {len(outcome.cells)} cells: "
                     f"{some([name for name, _ in outcome.faster])}; `python -m reports accept` moves it")
    return lines
