"""The rule of the gate: is the current slower than the baseline?"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pandas as pd

from reports.tables.sentences import some
from reports.verdicts.compare import all_within, rows_of, summary, what_ran
from reports.verdicts.judge import (
    DEFAULT_EFFECT,
    FINE_CELL,
    OPEN_CELL,
    SLOWER_CELL,
    Comparison,
    is_judged,
    most_resolvable,
)
from reports.verdicts.quantile import of_quantile
from reports.verdicts.verdict import FASTER, MIN_PAIRS, MOST_PAIRS, SLOWER
from wiretax.common.program import BENCH, REPORTS, RUN, typed
from wiretax.record.manifest import VariantRecord
from wiretax.record.result import ResultError

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


class Outcome(msgspec.Struct, frozen=True):
    """The gate's result: the exit status, the sentence that is its reason, further sentences, and
    the cells of the comparison, worst first. A cell has what it means as `outcome`, and its figures
    as `text`. Without a comparison the sentence says why the gate could not judge, and `launched`
    what it was to launch."""

    status: int
    sentence: str
    findings: list[str] = []
    cells: pd.DataFrame = msgspec.field(default_factory=pd.DataFrame)
    comparison: Comparison | None = None
    min_effect: float | None = None
    must_exclude: float | None = None
    launched: list[VariantRecord] = []

    @property
    def faults(self) -> Sequence[str]:
        """A sentence on each reason why the sides cannot be judged."""
        return self.comparison.faults if self.comparison else [self.sentence]

    @property
    def sides(self) -> list[VariantRecord]:
        """The commands of both sides, where a campaign launched them."""
        if not self.comparison:
            return self.launched
        both = self.comparison.baseline, self.comparison.variant
        return [side.command for side in both if side.command.argv]

    @property
    def elapsed_s(self) -> float:
        """The time that the launches of both sides took."""
        both = (self.comparison.baseline, self.comparison.variant) if self.comparison else ()
        return sum(launch.elapsed_s for side in both for launch in side.attempts)

    @property
    def headline(self) -> str:
        return f"{self.word}: {self.sentence} (exit status {self.status})"

    @property
    def word(self) -> str:
        return WORDS.get(self.status, "NOT JUDGED")


class Rule(NamedTuple):
    """What a gate fails, as shares: a certain slowdown estimated at `fails_from` or more; and what
    it must rule out to pass, of which `source` says where that comes from. `is_given`: the user set
    it before."""

    fails_from: float
    must_rule_out: float
    source: str
    is_given: bool = False


def decide(comparison: Comparison, min_effect: float | None = None) -> Outcome:
    """The outcome. `min_effect`, the smallest slowdown that counts, is a share. By default every
    certain slowdown beyond the margin counts, and `slowdown_to_exclude` must be ruled out. Raises
    ResultError if it is below the margin."""
    rule = rule_of(comparison, min_effect)
    if sentence := within_margin(rule.fails_from, comparison.margin):
        raise ResultError(sentence)

    judged = of_quantile(comparison.quantile)
    texts = [f"{judged}{row['ratio [95 %]']} {row['verdict']}" for row in rows_of(comparison)]
    outcomes = comparison.outcomes(rule.fails_from, rule.must_rule_out)
    cells = comparison.cells.assign(text=texts, outcome=outcomes)
    cells = cells.sort_values("ratio", ascending=False, kind="stable")
    status = status_of(outcomes, comparison.faults)
    return Outcome(
        status,
        sentence_of(status, comparison, rule, cells),
        findings_of(status, comparison, rule, cells),
        cells,
        comparison,
        min_effect,
        rule.must_rule_out,
    )


def rule_of(comparison: Comparison, min_effect: float | None) -> Rule:
    """What fails: the user's `min_effect`, or what the launches can decide."""
    if min_effect:
        return Rule(min_effect, min_effect, "of --min-effect", is_given=True)
    most = most_resolvable(comparison.quantile)
    source = f"which these launches decide, at most {most:.0%}"
    if not comparison.is_interleaved:
        source = "the default beside a kept baseline"
    elif comparison.cells.high.isna().all():
        source = "the margin, but so few pairs exclude nothing"
    return Rule(comparison.margin, comparison.slowdown_to_exclude, source)


def status_of(outcomes: "pd.Series[str]", faults: Sequence[str] = ()) -> int:
    """The exit status for cells with these outcomes: the first that applies."""
    if faults:
        return UNUSABLE
    if (outcomes == SLOWER_CELL).any():
        return REGRESSION
    if (outcomes == OPEN_CELL).any():
        return INCONCLUSIVE
    return PASS


def sentence_of(status: int, comparison: Comparison, rule: Rule, cells: pd.DataFrame) -> str:
    """The reason of the status."""
    if status == UNUSABLE:
        return some(comparison.faults, 1)

    judged = cells[is_judged(cells)]
    of_cells = f"of {len(judged)} cells"
    slower, undecided = (int((cells.outcome == each).sum()) for each in (SLOWER_CELL, OPEN_CELL))
    found = summary(comparison, rule.must_rule_out, exclusion_in(comparison, cells))
    if (judged.verdict == SLOWER).any():
        beyond = f"beyond chance and estimated at {rule.fails_from:.1%} or more"
        found += f"; {slower} {of_cells} {beyond}"
    if status == INCONCLUSIVE:
        can_hide = f"a {comparison.slowdown} of {rule.must_rule_out:.1%} could hide"
        return f"in {undecided} {of_cells} {can_hide}; {found}{_blindness(comparison)}"
    if status == PASS and comparison.is_interleaved:
        can_hide = "; smaller ones could hide" if comparison.excluded > 0 else ""
        return f"{found}{can_hide}{_blindness(comparison)}"
    return found


def exclusion_in(comparison: Comparison, cells: pd.DataFrame) -> str | None:
    """Text that replaces `summary`'s sentence on exclusion; None keeps it. An answer names one
    slowdown: the one that could hide, or the one that could not."""
    status = status_of(cells.outcome)
    judged = cells[is_judged(cells)]
    if status == INCONCLUSIVE:
        excludes = (judged.outcome == FINE_CELL) & judged.high.notna()
        return "the other cells exclude it" if excludes.any() else ""
    is_within = (judged.verdict == SLOWER).any()  # a slowdown that is too small to count
    if status == PASS and is_within and np.isfinite(comparison.excluded):
        return f"no {comparison.slowdown} of {comparison.excluded:.1%} or more in any cell"
    return None


def findings_of(status: int, comparison: Comparison, rule: Rule, cells: pd.DataFrame) -> list[str]:
    """What a reader needs beside the reason."""
    caveats = [*comparison.caveats, *comparison.faults[1:MOST_LISTED]]
    findings = [*dict.fromkeys(caveats)]
    slower, undecided = (cells[cells.outcome == each] for each in (SLOWER_CELL, OPEN_CELL))
    listed = pd.concat([slower, undecided])[:MOST_LISTED]
    findings.extend(listed.title + ": " + listed.text)
    if status == INCONCLUSIVE:
        findings.append(_remedy(comparison, undecided, rule.must_rule_out))

    judged = cells[is_judged(cells)]
    faster = judged[judged.verdict == FASTER].sort_values("ratio")
    if len(faster) and not comparison.is_interleaved:  # which keeps no baseline
        findings.append(
            f"baseline is stale: {of_quantile(comparison.quantile)}FASTER in {len(faster)} of "
            f"{len(judged)} cells: {some([*faster.title])}; `{RUN}{REPORTS} accept` moves it"
        )
    if status in (INCONCLUSIVE, UNUSABLE):
        findings.append(
            f"the {comparison.slowdown} to exclude: {rule.must_rule_out:.1%}, {rule.source}"
        )
    findings += all_within(comparison, rule.must_rule_out if rule.is_given else None)
    findings.append(what_ran(comparison))
    return findings


def within_margin(min_effect: float, margin: float) -> str:
    """A sentence if no gate can exclude a slowdown as small as this; otherwise ""."""
    if min_effect >= margin:
        return ""
    return (
        f"--min-effect {min_effect:.2%} is within the margin, {margin:.2%}: "
        "differences up to it count as none"
    )


def exclusion_of(outcome: Outcome) -> dict[str, float | int | None]:
    """What a gate excludes, for JSON: the slowdown that it had to, as a share; the smallest that
    every judged cell does; and how many pairs would exclude DEFAULT_EFFECT, unless the launches did
    not run in turn. Null if unknown."""
    comparison, excluded, pairs = outcome.comparison, None, None
    if comparison:
        excluded = comparison.excluded
        if comparison.is_interleaved:
            pairs = pairs_excluding(comparison, DEFAULT_EFFECT)
    return {
        "must_exclude": outcome.must_exclude,
        "excluded": excluded,
        f"pairs_excluding_{100 * DEFAULT_EFFECT:.0f}_percent": pairs,
    }


def _blindness(comparison: Comparison) -> str:
    """Beside launches in turn that do not exclude DEFAULT_EFFECT: how many pairs would."""
    if not comparison.is_interleaved or comparison.excluded < DEFAULT_EFFECT:
        return ""
    pairs = pairs_excluding(comparison, DEFAULT_EFFECT)
    number = f"about {pairs} pairs" if pairs else "no affordable number of pairs"
    if not np.isfinite(comparison.excluded):
        number = "more pairs than some cells have"
    return f", and {number} would exclude {DEFAULT_EFFECT:.0%}"


def pairs_excluding(comparison: Comparison, slowdown: float) -> int | None:
    """The pairs with which all judged cells would exclude this slowdown; None if not even
    MOST_PAIRS would, or if a cell has too few for an interval."""
    pairs = _pairs_needed(comparison.cells[comparison.is_judged], slowdown)
    return max(int(pairs), MIN_PAIRS) if pairs <= MOST_PAIRS else None


def _pairs_needed(cells: pd.DataFrame, slowdown: float) -> float:
    """The pairs with which the intervals of these cells would end below this slowdown: the end of
    an interval comes nearer with the root of the number of pairs. Infinite if a cell's estimate is
    beyond it, or has no interval."""
    reach = (cells.log_high - cells.log_ratio) / (np.log1p(slowdown) - cells.log_ratio)
    return float(np.ceil(cells.pairs * reach.where(reach > 0, np.inf) ** 2).max())


def _remedy(comparison: Comparison, cells: pd.DataFrame, slowdown: float) -> str:
    """What would decide these cells, in which this slowdown can hide."""
    larger = typed("--min-effect", "PERCENT")
    # It is at most 100 %, and no interval of any length ends where there is none.
    can_be_larger = slowdown < 1 and np.isfinite(cells.log_high).any()
    if not comparison.is_interleaved:
        in_turn = f"launches in turn decide more: {RUN}{BENCH}gate"
        return f"{in_turn}; so does a larger {larger}" if can_be_larger else in_turn

    needed = _pairs_needed(cells, slowdown)
    pairs = max(needed, cells.pairs.max() + 1)  # those that there are did not decide
    if not np.isfinite(pairs):
        return f"more pairs decide more: {typed('--pairs', 'N')}, or {typed('--budget', 'TIME')}"
    if pairs > MOST_PAIRS:
        other = f"; a larger slowdown to exclude does: {larger}" if can_be_larger else ""
        return f"no affordable number of pairs decides{other}"

    return f"about {pairs:.0f} pairs would decide: {typed('--pairs', f'{pairs:.0f}')}"
