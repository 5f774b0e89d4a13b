"""The gate: `judge` decides whether the current is slower than the baseline; the rest words it.

Exit status, the first that applies: 5 the current is wrong, incomplete, or lacks a case of the
baseline; 4 the two cannot be compared; 1 a regression; 3 not enough data; 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reports.store.result import ResultError
from reports.tables.sentences import size_text
from reports.verdicts.accept import UNUSABLE
from reports.verdicts.cells import Cell, case_names
from reports.verdicts.comparison import Comparison
from reports.verdicts.sides import key_of
from reports.verdicts.verdict import Verdict
from reports.verdicts.verdict_table import figures, some

REGRESSION, INCONCLUSIVE = 1, 3
MOST_LISTED = 5


@dataclass
class Outcome:
    """The gate's result. `least` is the smallest slowdown that counts, a share; `faults` are (name,
    sentence) of each reason why the current is unusable. Cells come worst first: `slower` by at
    least that much, `hidden` if that much could hide, and `faster`."""

    comparison: Comparison
    least: float
    faults: list[tuple[str, str]]
    cells: list[Cell]
    slower: list[Cell]
    hidden: list[Cell]
    faster: list[Cell]
    passes_hidden: bool
    status: int


def judge(comparison: Comparison, faults: Sequence[tuple[str, str]] = (),
          least: float | None = None, passes_hidden: bool = False) -> Outcome:
    """The outcome. `least` is by default the margin; raises ResultError if it is below, where no
    cell gets a verdict."""
    margin = comparison.margin
    least = margin if least is None else least
    if least < margin:
        raise ResultError(f"--min-effect {least:.2%} is within the margin, {margin:.2%}: no cell "
                          "would be called")
    faults = [*faults, *((name, f"{name} of the baseline was not measured")
                         for name in _missing(comparison))]
    cells = sorted(comparison.cells, key=lambda cell: cell.ratio or 0, reverse=True)
    slower = [cell for cell in cells
              if cell.verdict is Verdict.SLOWER and (cell.ratio or 0) >= 1 + least]
    faster = [cell for cell in reversed(cells) if cell.verdict is Verdict.FASTER]
    hidden = [cell for cell in cells if cell not in slower
              and cell.verdict not in (Verdict.SAME, Verdict.FASTER)
              and (cell.high is None or cell.high >= 1 + least)]
    # With too few pairs for any verdict there is nothing to pass.
    passes_hidden &= any(cell.detectable is not None and np.isfinite(cell.detectable)
                         for cell in cells)
    status = 0
    if faults:
        status = UNUSABLE
    elif slower:
        status = REGRESSION
    elif hidden and not passes_hidden:
        status = INCONCLUSIVE
    return Outcome(comparison, least, faults, cells, slower, hidden, faster, passes_hidden, status)


def _missing(comparison: Comparison) -> list[str]:
    """The baseline's cases that the current did not plan or did not measure."""
    measured = {key_of(case) for launch in comparison.variant.launches
                for case in launch.result.cases if case.status != "not measured"}
    planned = [cell.case for cell in comparison.cells]
    cases = comparison.lacking + [case for case in planned if key_of(case) not in measured]
    return [f"{size_text(case.size_bytes)} {name}"
            for case, name in zip(cases, case_names(cases), strict=True)]


def headline(outcome: Outcome) -> str:
    """The outcome and the exit status in words."""
    cells, least = f"of {len(outcome.cells)} cells", f"{outcome.least:.1%}"
    texts = {
        UNUSABLE: f"UNUSABLE: {some([sentence for _, sentence in outcome.faults], 1)}",
        REGRESSION: f"REGRESSION: {len(outcome.slower)} {cells} slower by {least} or more",
        INCONCLUSIVE: f"INCONCLUSIVE: in {len(outcome.hidden)} {cells} a slowdown of {least} could "
                      "hide",
        0: f"PASS: 0 {cells} slower by {least} or more"}
    return f"{texts[outcome.status]} (exit status {outcome.status})"


def findings(outcome: Outcome) -> list[str]:
    """Further faults, the worst cells, and summaries of hidden and faster cells."""
    lines = [sentence for _, sentence in outcome.faults[1:MOST_LISTED]]
    lines += [f"{cell.title}: {' '.join(figures(cell)[3:5])}"
              for cell in outcome.slower[:MOST_LISTED]]
    if len(outcome.slower) > MOST_LISTED:
        lines.append(f"and {len(outcome.slower) - MOST_LISTED} more slower")
    cells = f"of {len(outcome.cells)} cells"
    if outcome.hidden:
        line = f"inconclusive: {len(outcome.hidden)} {cells} leave a slowdown open"
        highs = [(cell.high, cell.title) for cell in outcome.hidden if cell.high]
        if highs:
            line += f"; the most is {max(highs)[0] - 1:.1%}, in {max(highs)[1]}"
        if len(highs) < len(outcome.hidden):
            line += (f"; {len(outcome.hidden) - len(highs)} have no interval (unreplicated, or too "
                     "few pairs)")
        lines.append(line)
    if outcome.faster:
        titles = some([cell.title for cell in outcome.faster])
        lines.append(f"baseline is stale: FASTER in {len(outcome.faster)} {cells}: {titles}; "
                     "`python -m reports accept` moves it")
    return lines
