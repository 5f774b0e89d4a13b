"""Judges sides: `compare` holds each against the first, cell by cell."""

import textwrap
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from reports.tables.sentences import some, type_text
from reports.verdicts import days, verdict
from reports.verdicts.implausible import implausible
from reports.verdicts.match import Match, caveats_of, faults_of_match, match, unchecked_results
from reports.verdicts.quantile import REMEDY, faults_of_steps, needs, of_quantile, uneven_steps
from reports.verdicts.sides import COMPARABLE, Pair, Side, case_names, tell_apart, titles_of
from reports.verdicts.tail_warning import warning_on_tails
from reports.verdicts.verdict import (
    AMBIGUOUS,
    DEFAULT_MARGIN,
    FAMILY_P,
    FASTER,
    INTERVAL_P,
    MIN_PAIRS,
    POWER,
    SAME,
    SLOWER,
    UNREPLICATED,
)
from wiretax.common.grouped import grouped
from wiretax.common.program import BENCH, RUN
from wiretax.record.case import CASE_KEY, is_contender
from wiretax.record.result import ResultError
from wiretax.record.tails import SLOW_RATIO

# What a cell means for a gate.
WRONG_CELL, CONTROL_CELL = "wrong", "control"
SLOWER_CELL, OPEN_CELL, FINE_CELL = "regression", "inconclusive", ""
MOST_LETTERS = 60  # of a fact that differs, such as a run's many types
MOST_RESOLVABLE = 0.25  # a gate with a wider margin would pass what nobody accepts
MOST_RESOLVABLE_TAIL = SLOW_RATIO - 1  # of a quantile: a step twice as long is a slow one
# What a gate beside a kept baseline must exclude: a margin that follows the spread between days
# passed +5 %.
DEFAULT_EFFECT = 0.05


class Incomparable(ResultError):
    """Sides that measured different things; the message names the key."""

    exit_status = 4


class Comparison(msgspec.Struct, frozen=True):
    """A side against the baseline. `allowed` names the facts that `--allow` let differ; `faults`
    say why no gate can judge; `unchecked` has sentences on results that one side did not check,
    `caveats` those of `caveats_of`, and one on differences that are probably overestimated. `flags`
    tells that the state of the link goes with the side.

    `cells` has a row for each case, by name and size: its fields and `chosen`; its size and `name`
    as `title`, and as `case` for JSON; `ratio`, variant over baseline, with its 95 % interval from
    `low` to `high`; the columns of `decide`; `is_library`: the case times a library, which the
    compared code cannot change; `is_wrong`: some launch had it wrong; `baseline_us` and
    `variant_us`, medians over its pairs. A missing figure is NaN.
    """

    baseline: Side
    variant: Side
    margin: float
    pairs: list[Pair]
    is_interleaved: bool  # of one campaign, whose launches ran in turn
    allowed: list[str]
    faults: list[str]
    caveats: list[str] = []
    unchecked: list[str] = []
    flags: str = ""
    quantile: float | None = None  # of each launch's steps, which is judged; None: its median
    cells: pd.DataFrame = msgspec.field(default_factory=pd.DataFrame)

    @property
    def is_finished(self) -> bool:
        """Whether they are of a campaign that has ended."""
        return bool(self.baseline.campaign and self.baseline.campaign.end)

    @property
    def is_judged(self) -> "pd.Series[bool]":
        """The cells that the headline is about, and that a gate can fail."""
        return is_judged(self.cells)

    @property
    def resolved_slowdown(self) -> float:
        """The slowdown (0.03: 3 %) that all judged cells together exclude."""
        return resolved_slowdown(self.cells, self.margin, self.quantile)

    @property
    def slowdown(self) -> str:
        """The word for what is judged: `slowdown`, or `P99 slowdown`."""
        return f"{of_quantile(self.quantile)}slowdown"

    @property
    def slowdown_to_exclude(self) -> float:
        """What a gate must exclude unless the user says it: what the launches resolve, or beside a
        kept baseline DEFAULT_EFFECT, of a quantile MOST_RESOLVABLE_TAIL."""
        if self.is_interleaved:
            return self.resolved_slowdown
        if self.quantile:
            return MOST_RESOLVABLE_TAIL
        return max(DEFAULT_EFFECT, self.margin)

    @property
    def excluded(self) -> float:
        """The slowdown that every judged cell excludes; NaN if one has no interval."""
        highest: Any = self.cells.high[self.is_judged].max(skipna=False)
        return max(float(highest) - 1, 0.0)

    def outcomes(self, fails_from: float, must_rule_out: float) -> "pd.Series[str]":
        """What each cell means: `wrong` if it was so in a launch, `control` if it is a library's,
        which decides nothing, `regression` if it is SLOWER and estimated at `fails_from` or more,
        `inconclusive` if a slowdown of `must_rule_out` could hide."""
        cells = self.cells
        is_settled = cells.verdict.isin([SAME, FASTER]) | (cells.high < 1 + must_rule_out)
        rules = {
            WRONG_CELL: cells.is_wrong,
            CONTROL_CELL: ~self.is_judged,
            SLOWER_CELL: (cells.verdict == SLOWER) & (cells.ratio >= 1 + fails_from),
            OPEN_CELL: ~is_settled,
        }
        return pd.Series(np.select([*rules.values()], [*rules], FINE_CELL), cells.index)


def differing(sides: Sequence[Side], allowed: Sequence[str]) -> dict[str, str]:
    """Sentences on allowed differences, by the names of the facts. Raises Incomparable for a
    difference not allowed."""
    sentences = dict[str, str]()
    types = [{type_text(case) for case in side.cases} for side in sides]
    have_common_type = bool(set.intersection(*types))
    for name, read_fact in COMPARABLE.items():
        if name == "type" and have_common_type:
            continue  # other types are of new cases, or of cases that a side lacks
        places: dict[str, str] = {}
        for side in sides:
            for launch in side.launches:
                place = launch.run.imported_from or side.label
                places.setdefault(str(read_fact(launch)), place)
        if len(places) > 1:
            first, second, *_ = (
                f"{textwrap.shorten(text, MOST_LETTERS, placeholder=' ...')} ({place})"
                for text, place in places.items()
            )
            sentences[name] = f"{name} differs: {first} and {second}"

    if refused := [name for name in sentences if name not in allowed]:
        also = f", as do {', '.join(refused[1:])}" if refused[1:] else ""
        options = " ".join(f"--allow {name}" for name in refused)
        raise Incomparable(
            f"not comparable: {sentences[refused[0]]}{also}; {options} compares anyway"
        )

    return {name: f"allowed to differ: {sentence}" for name, sentence in sentences.items()}


def compare(
    sides: Sequence[Side],
    allowed: Sequence[str] = (),
    margin: float | None = None,
    quantile: float | None = None,
) -> list[Comparison]:
    """Every side against the first, cell by cell. `margin` is a share, by default the campaign's.
    With a `quantile`, a share such as 0.99, that of each launch's steps is judged and not its
    median.
    The cells of all sides are one family: more sides are not more chances of a false verdict.
    Raises Incomparable for sides that measured different things, NothingInCommon for sides without
    a common case, ResultError for a run that is on both sides."""
    baseline, *variants = tell_apart(sides)
    differences = differing([baseline, *variants], allowed)
    if margin is None:
        margin = baseline.campaign.campaign.margin if baseline.campaign else DEFAULT_MARGIN

    matches = [match(baseline, variant, quantile) for variant in variants]
    decided = dict[Match, pd.DataFrame]()
    for in_turn, family in grouped(matches, attrgetter("is_interleaved")).items():
        tested = [tested_cells(each, margin) for each in family]
        family_p = FAMILY_P if in_turn else days.FAMILY_P
        decided |= zip(family, decide_together(tested, margin, family_p), strict=True)

    return [conclude(each, decided[each], margin, differences) for each in matches]


def tested_cells(found: Match, margin: float) -> pd.DataFrame:
    """The cells of Comparison, by name and size, without verdicts: what the pairs show of each
    case."""
    if found.day_spread:
        evidence = found.day_spread.evidence(found.log_ratios, margin)
    else:
        evidence = verdict.evidence(found.log_ratios, margin)

    has_both = np.isfinite(found.log_ratios)
    baseline_us, variant_us = (
        pd.DataFrame(costs_us).where(has_both).median(axis=1)
        for costs_us in np.moveaxis(found.costs_us, -1, 0)
    )
    cells = with_ratios(evidence).assign(baseline_us=baseline_us, variant_us=variant_us)
    cells["note"] = notes_on(cells.pairs, found)
    cells = cells.join(described_cases(found))
    return cells.sort_values(["place", "size_bytes"], ignore_index=True)


def with_ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with `ratio`, `low` and `high` of their logs; NaN for an infinite interval."""
    has_interval = np.isfinite(cells.log_high)
    return cells.assign(
        ratio=np.exp(cells.log_ratio),
        low=np.exp(cells.log_low).where(has_interval),
        high=np.exp(cells.log_high).where(has_interval),
    )


def notes_on(pairs: "pd.Series[int]", found: Match) -> list[str]:
    """Why a cell with so many pairs proves less than others; "" if nothing is wrong with it."""
    every, notes = len(found.judged.pairs), list[str]()
    for key, n_pairs in zip(found.cases, pairs, strict=True):
        note = found.wrong.get(key, "")
        if not note and n_pairs < every:
            note = (
                f"{every - n_pairs} of {every} pairs lack it, or a common state of the link with "
                "enough blocks"
            )
            if found.quantile:
                note = f"not all launches have {needs(found.quantile)}: {REMEDY}"
        elif not note and n_pairs < MIN_PAIRS:
            note = f"an interval takes {MIN_PAIRS} pairs, which {RUN}{BENCH}campaign launches"
        notes.append(note)
    return notes


def described_cases(found: Match) -> pd.DataFrame:
    """The columns of the cells that say what each case is. `place` orders the names."""
    cases = [*found.cases.values()]
    names = [*CASE_KEY, "chosen"]
    described = pd.DataFrame(map(attrgetter(*names), cases), columns=names)
    described["name"] = case_names(cases)
    # Another harness times the code that is compared, although its maker is a library.
    is_imported = any(launch.run.imported_from for side in found.sides for launch in side.launches)
    described["is_library"] = [
        bool(case.library) and not is_imported and not is_contender(case) for case in cases
    ]
    described["title"] = described["case"] = titles_of(cases)
    described["place"] = pd.factorize(described.name)[0]
    described["is_wrong"] = [key in found.wrong for key in found.cases]
    if found.quantile:
        described["n_steps"] = [found.n_steps.get(key) for key in found.cases]
    return described


def decide_together(
    tables: Sequence[pd.DataFrame], margin: float, family_p: float
) -> list[pd.DataFrame]:
    """These tested cells, a table for each side, with the columns of `decide` over all of them. A
    cell without an interval has no `detectable`."""
    every = verdict.decide(pd.concat(tables, keys=range(len(tables))), margin, family_p)
    every["detectable"] = every.detectable.where(every.high.notna())
    return [pd.DataFrame(every.loc[place]) for place in range(len(tables))]


def conclude(
    found: Match, cells: pd.DataFrame, margin: float, differences: dict[str, str]
) -> Comparison:
    """The comparison of two sides, by cells that `decide_together` has decided."""
    verdicts = final_verdicts(found, cells, margin)
    watched = cells.title[is_judged(cells) & (verdicts != SLOWER)]
    caveats = [*caveats_of(found, [*differences.values()]), *overestimated(found, cells)]
    caveats += uneven_steps(found)
    judged, tails = cells[is_judged(cells)], warning_on_tails(found, {*watched})
    return Comparison(
        found.baseline,
        found.variant,
        margin,
        found.judged.pairs,
        found.is_interleaved,
        allowed=[*differences],
        faults=[*faults_of_match(found, margin), *faults_of_steps(found)],
        caveats=[*caveats, *implausible(found, judged, {*watched}), *tails],
        unchecked=unchecked_results(found),
        flags=found.judged.finding,
        quantile=found.quantile,
        cells=cells.assign(verdict=verdicts),
    )


def overestimated(found: Match, cells: pd.DataFrame) -> list[str]:
    """A sentence on cells whose difference is smaller than what their pairs usually find: it was
    found by luck."""
    is_found = cells.verdict.isin([SLOWER, FASTER])
    is_lucky = is_found & (cells.detectable > np.expm1(cells.log_ratio.abs()))
    if found.is_growing or not is_lucky.any():
        return []
    return [
        "the MDE exceeds the difference, which is then probably overestimated: "
        f"{some([*cells.title[is_lucky]])}"
    ]


def final_verdicts(found: Match, cells: pd.DataFrame, margin: float) -> "pd.Series[str]":
    """The verdicts on decided cells, after the rules for few pairs."""
    verdicts = cells.verdict
    if found.is_growing:
        # Each look at a growing campaign would be another chance of a false verdict.
        verdicts = verdicts.mask(verdicts.isin([SLOWER, FASTER]), AMBIGUOUS)
    elif found.is_interleaved:
        # Holm's procedure cannot decide a cell with few pairs, by however much they differ: these
        # are decided whose interval lies wholly beyond what these launches resolve. Of equal
        # variants with 6 to 27 pairs it calls a cell in at most 1.4 % of tables (simulated, spreads
        # of 1 to 20 %).
        # Of equal P99s that scatter by 7 times it would call one in 10 % of tables, but for that
        # nothing limits what these launches resolve.
        large = 1 + resolved_slowdown(cells, margin)
        if found.quantile:
            large = 1 + excludable(cells, margin)
        is_open = verdicts == AMBIGUOUS
        verdicts = verdicts.mask(is_open & (cells.low > large), SLOWER)
        verdicts = verdicts.mask(is_open & (cells.high < 1 / large), FASTER)
    return verdicts.mask(cells.pairs == 1, UNREPLICATED)


def is_judged(cells: pd.DataFrame) -> "pd.Series[bool]":
    """Which cells a gate can fail: all but the library's, or all if there are no others."""
    is_library = cells.is_library
    if is_library.all():
        return is_library
    return ~is_library


def resolved_slowdown(cells: pd.DataFrame, margin: float, quantile: float | None = None) -> float:
    """The slowdown (0.03: 3 %), from the margin to `most_resolvable`, that all judged cells
    together exclude with power 0.8 by these launches. No pilot sets it: the variance of three
    launches of which one is an event would hide slowdowns that these launches show."""
    return min(excludable(cells, margin), most_resolvable(quantile))


def excludable(cells: pd.DataFrame, margin: float) -> float:
    """The same however wide it is."""
    cells = cells[is_judged(cells)]
    effects = verdict.detectable(cells, INTERVAL_P, 0.0, POWER ** (1 / len(cells)))
    return float(np.max(effects[np.isfinite(effects)], initial=margin))


def most_resolvable(quantile: float | None) -> float:
    """The widest slowdown that a gate excludes by itself."""
    return MOST_RESOLVABLE_TAIL if quantile else MOST_RESOLVABLE
