"""The rule of the gate: is the current slower than the baseline?"""

from collections.abc import Sequence

import msgspec
import numpy as np
import pandas as pd

from reports.store.program import BENCH, REPORTS, RUN, typed
from reports.store.result import ResultError
from reports.tables.sentences import some
from reports.verdicts.compare import rows_of, summary, what_ran
from reports.verdicts.judge import MOST_RESOLVABLE, OPEN_CELL, SLOWER_CELL, Comparison
from reports.verdicts.verdict import FASTER, MOST_PAIRS, SLOWER

# The exit status, and what it means.
PASS, REGRESSION, UNREADABLE, INCONCLUSIVE, INCOMPARABLE, UNUSABLE = range(6)
STATUSES = [
    "no regression",
    "regression",
    "the command line or a file",
    "not enough data to tell",
    "not comparable",
    "a side is wrong, died, is incomplete or lacks a case",
]
INTERRUPTED = 130
WORDS = {
    PASS: "PASS",
    REGRESSION: "REGRESSION",
    INCONCLUSIVE: "INCONCLUSIVE",
    UNUSABLE: "UNUSABLE",
    INTERRUPTED: "INTERRUPTED",
}
MOST_LISTED = 5  # cells and faults


class Outcome(msgspec.Struct):
    """The gate's result: the exit status, one sentence, further sentences, and the cells of the
    comparison, worst first. A cell has the word `outcome` and its figures as `text`. Without a
    comparison the sentence says why the gate could not judge."""

    status: int
    sentence: str
    findings: list[str] = []
    cells: pd.DataFrame = msgspec.field(default_factory=pd.DataFrame)
    comparison: Comparison | None = None
    min_effect: float | None = None

    @property
    def faults(self) -> Sequence[str]:
        """A sentence on each reason why the sides cannot be judged."""
        return self.comparison.faults if self.comparison else [self.sentence]

    @property
    def headline(self) -> str:
        return f"{self.word}: {self.sentence} (exit status {self.status})"

    @property
    def word(self) -> str:
        return WORDS.get(self.status, "NOT JUDGED")


def decide(comparison: Comparison, min_effect: float | None = None) -> Outcome:
    """The outcome. `min_effect`, the smallest slowdown that counts, is a share. By default every
    certain slowdown beyond the margin counts, and the resolvable one must be ruled out. Raises
    ResultError if it is below the margin."""
    # The slowdown that counts, and the one that must be ruled out.
    fails_from = comparison.margin
    must_rule_out = comparison.resolved_slowdown
    source = f"which these launches decide, at most {MOST_RESOLVABLE:.0%}"
    if comparison.cells.high.isna().all():
        source = "the margin, but so few pairs exclude nothing"
    if min_effect:
        fails_from, must_rule_out, source = min_effect, min_effect, "of --min-effect"
    if fails_from < comparison.margin:
        raise ResultError(
            f"--min-effect {fails_from:.2%} is within the margin, {comparison.margin:.2%}"
        )

    texts = [f"{row['ratio [95 %]']} {row['verdict']}" for row in rows_of(comparison)]
    outcomes = comparison.outcomes(fails_from, must_rule_out)
    cells = comparison.cells.assign(text=texts, outcome=outcomes)
    judged = cells[comparison.is_judged]
    faster = judged[judged.verdict == FASTER].sort_values("ratio")
    cells = cells.sort_values("ratio", ascending=False, kind="stable")
    slower, undecided = cells[cells.outcome == SLOWER_CELL], cells[cells.outcome == OPEN_CELL]
    of_cells = f"of {len(judged)} cells"
    faults = comparison.faults

    # The first that applies.
    found = summary(comparison, must_rule_out)
    if SLOWER in {*judged.verdict}:
        beyond = f"different from 0 and estimated at {fails_from:.1%} or more"
        found += f"; {len(slower)} {of_cells} {beyond}"
    if faults:
        status, sentence = UNUSABLE, some(faults, 1)
    elif len(slower):
        status, sentence = REGRESSION, found
    elif len(undecided):
        can_hide = f"in {len(undecided)} {of_cells} a slowdown of {must_rule_out:.1%} could hide"
        status, sentence = INCONCLUSIVE, f"{can_hide}; {found}"
    else:
        status, sentence = PASS, found

    # What else a reader needs.
    findings = [*dict.fromkeys([*comparison.caveats, *faults[1:MOST_LISTED]])]
    listed = pd.concat([slower, undecided])[:MOST_LISTED]
    findings.extend(listed.title + ": " + listed.text)
    if status == INCONCLUSIVE:
        findings.append(_remedy(comparison, undecided, must_rule_out))
    if len(faster) and not comparison.is_interleaved:  # which keeps no baseline
        findings.append(
            f"baseline is stale: FASTER in {len(faster)} {of_cells}: {some([*faster.title])};"
            f" `{RUN}{REPORTS} accept` moves it"
        )

    findings += [
        f"the slowdown to exclude: {must_rule_out:.1%}, {source}",
        what_ran(comparison),
    ]
    return Outcome(status, sentence, findings, cells, comparison, min_effect)


def _remedy(comparison: Comparison, cells: pd.DataFrame, slowdown: float) -> str:
    """What would decide these cells, in which this slowdown can hide: the end of an interval comes
    nearer with the root of the number of pairs."""
    if not comparison.is_interleaved:
        return f"launches in turn decide more: {RUN}{BENCH}campaign"

    reach = (cells.log_high - cells.log_ratio) / (np.log1p(slowdown) - cells.log_ratio)
    needed = np.ceil(cells.pairs * reach.where(reach > 0, np.inf) ** 2)
    pairs = max(needed.max(), cells.pairs.max() + 1)  # those that there are did not decide

    if not np.isfinite(pairs):
        return f"more pairs decide more: {typed('--pairs', 'N')}, or {typed('--budget', 'TIME')}"
    if pairs > MOST_PAIRS:
        larger = typed("--min-effect", "PERCENT")
        return f"no affordable number of pairs decides; a larger slowdown to exclude does: {larger}"

    return f"about {pairs:.0f} pairs would decide: {typed('--pairs', f'{pairs:.0f}')}"
