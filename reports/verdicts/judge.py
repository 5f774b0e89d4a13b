"""Judges sides: `compare` holds each against the first, cell by cell."""

import textwrap
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from reports.tables.sentences import counted, some, spoken, type_text
from reports.verdicts import days, verdict
from reports.verdicts.sides import (
    COMPARABLE,
    Pair,
    Side,
    case_names,
    copies_told,
    deaths_of,
    faults_between,
    is_interleaved,
    notes_of,
    pairs_of,
    tell_apart,
    titles_of,
)
from reports.verdicts.states import judged_pairs
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
from wiretax.record.case import CASE_KEY, is_peer, key_of
from wiretax.record.observations import costs_of, entry_of
from wiretax.record.result import ResultError

# What a cell means for a gate.
WRONG_CELL, CONTROL_CELL = "wrong", "control"
SLOWER_CELL, OPEN_CELL, FINE_CELL = "regression", "inconclusive", ""
MOST_LETTERS = 60  # of a fact that differs, such as a run's many types
MOST_RESOLVABLE = 0.25  # a gate with a wider margin would pass what nobody accepts
# What a gate beside a kept baseline must exclude: a margin that follows the spread between days
# passed +5 %.
DEFAULT_EFFECT = 0.05


class Incomparable(ResultError):
    """Sides that measured different things; the message names the key."""

    exit_status = 4


class NothingInCommon(ResultError):
    """Comparable sides without a common case."""


class Comparison(msgspec.Struct):
    """A side against the baseline. `allowed` names the facts that `--allow` let differ; `faults`
    say why no gate can judge: those between the sides, and cases that the variant lacks;
    `unchecked` has sentences on results that one side did not check, `caveats` on runs that are
    left out or incomplete, launches that died, allowed differences, fields of the cases in which
    the sides differ, such as the algorithm, new cases, copies, nodes and days. `flags` tells that
    the state of the link goes with the side.

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
    cells: pd.DataFrame = msgspec.field(default_factory=pd.DataFrame)

    @property
    def is_finished(self) -> bool:
        """Whether they are of a campaign that has ended."""
        return bool(self.baseline.campaign and self.baseline.campaign.end)

    @property
    def is_judged(self) -> "pd.Series[bool]":
        """The cells that the headline is about, and that a gate can fail: all but the library's, or
        all if there are no others."""
        is_library = self.cells.is_library
        return ~is_library | bool(is_library.all())

    @property
    def resolved_slowdown(self) -> float:
        """The slowdown (0.03: 3 %), from the margin to `MOST_RESOLVABLE`, that all judged cells
        together exclude with power 0.8 by these launches. No pilot sets it: the variance of three
        launches of which one is an event would hide slowdowns that these launches show."""
        cells = self.cells[self.is_judged]
        effects = verdict.detectable(cells, INTERVAL_P, 0.0, POWER ** (1 / len(cells)))
        return min(np.max(effects[np.isfinite(effects)], initial=self.margin), MOST_RESOLVABLE)

    @property
    def slowdown_to_exclude(self) -> float:
        """What a gate must exclude unless the user says it: what the launches resolve, or beside a
        kept baseline DEFAULT_EFFECT."""
        if self.is_interleaved:
            return self.resolved_slowdown
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
    # Beside common types others are of new or lacking cases.
    common_types = set.intersection(*({*map(type_text, side.cases)} for side in sides))
    for name, read_fact in COMPARABLE.items():
        if name == "type" and common_types:
            continue
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
) -> list[Comparison]:
    """Every side against the first, cell by cell. `margin` is a share, by default the campaign's.
    The cells of all sides are one family: more sides are not more chances of a false verdict.
    Raises Incomparable for sides that measured different things, NothingInCommon for sides without
    a common case, ResultError for a run that is on both sides."""
    tell_apart(sides)
    differences = differing(sides, allowed)
    baseline, *variants = sides

    if margin is None:
        margin = baseline.campaign.campaign.margin if baseline.campaign else DEFAULT_MARGIN

    comparisons = [_compare(baseline, variant, margin, differences) for variant in variants]
    for family in grouped(comparisons, attrgetter("is_interleaved")).values():
        decide_together(family)

    return comparisons


def _compare(
    baseline: Side, variant: Side, margin: float, differences: dict[str, str]
) -> Comparison:
    sides, names = (baseline, variant), f"{baseline.label} and {variant.label}"
    runs = [{launch.run.run_id for launch in side.launches} for side in sides]
    if both := set.intersection(*runs):
        raise ResultError(f"{min(both)} is a run of {names}: compared with itself")

    in_turn = is_interleaved(baseline, variant)
    judged = judged_pairs(pairs_of(baseline, variant), baseline, variant, in_turn)
    comparison = Comparison(
        baseline,
        variant,
        margin,
        judged.pairs,
        in_turn,
        allowed=[*differences],
        faults=faults_between(baseline, variant),
        flags=judged.finding,
    )
    caveats = comparison.caveats
    caveats += dict.fromkeys([*notes_of([baseline]), *variant.notes])
    caveats += [*deaths_of(sides), *differences.values()]
    caveats += copies_told([*baseline.launches, *variant.launches])
    if judged.left_out:
        caveats.append(judged.left_out)

    # The fields in which all cases of one side differ from all of the other.
    without = ["library"]
    for name in ("algorithm", "variant", "memory", "in_place", "datatype", "redop"):
        theirs, ours = ({str(getattr(case, name)) for case in side.cases} for side in sides)
        if len(theirs) == len(ours) == 1 and theirs != ours:
            without.append(name)
            caveats.append(f"{spoken(name)}: {spoken(min(theirs))} against {spoken(min(ours))}")

    # The cases that both have.
    of_baseline, of_variant = (
        {key_of(case, without): case for case in side.cases} for side in sides
    )
    cases = {key: of_variant[key] for key in of_baseline if key in of_variant}
    if not cases:
        raise NothingInCommon(f"{names} have no case in common in launches that finished")
    every = of_baseline | of_variant
    title_of = dict(zip(every, titles_of([*every.values()]), strict=True))
    if lost := [title_of[key] for key in of_baseline if key not in of_variant]:
        comparison.faults += [f"{variant.label} lacks {some(lost)}, which {baseline.label} has"]
    if new := [title_of[key] for key in of_variant if key not in of_baseline]:
        caveats.append(f"new in {variant.label}, and not judged: {some(new)}")

    # Those that only one side has checked, and those that some launch had wrong.
    unchecked = [
        {
            key_of(case, without)
            for launch in side.launches
            for case in launch.cases
            if case.n_wrong is None
        }
        for side in sides
    ]
    for side, keys, others in zip(sides, unchecked, unchecked[::-1], strict=True):
        if n := len((keys - others) & cases.keys()):
            sentence = f"{side.label} has launches without a check of {counted(n, 'case')}"
            comparison.unchecked.append(sentence)
            if side is variant:  # its results may be wrong, and those of the baseline were right
                comparison.faults.append(f"{sentence}, and {baseline.label} has none")

    wrong = {
        key_of(case, without): f"wrong in launches of {side.label}"
        for side in sides
        for _, case in side.wrong_cases
    }

    # The times of a case that was wrong in some launch prove nothing: it has no key.
    tested = [() if key in wrong else key for key in cases]
    cells = _judge(comparison, tested, without, [*cases.values()])
    cells["is_wrong"] = [key in wrong for key in cases]
    cells["note"] = [wrong.get(key) or note for key, note in zip(cases, cells.note, strict=True)]
    comparison.cells = cells.sort_values(["place", "size_bytes"], ignore_index=True)

    here, there = ({str(launch.run.node) for launch in side.launches} for side in sides)
    if not here & there:
        nodes = f"{some(sorted(here))} and {some(sorted(there))}"
        caveats.append(f"the sides ran on different nodes, {nodes}, and nodes differ")

    return comparison


def decide_together(family: Sequence[Comparison]) -> None:
    """Adds the verdicts to the cells of these comparisons, and caveats on them."""
    is_interleaved, margin = family[0].is_interleaved, family[0].margin
    every = pd.concat([each.cells for each in family], keys=range(len(family)))
    every = verdict.decide(every, margin, FAMILY_P if is_interleaved else days.FAMILY_P)
    every.loc[every.high.isna(), "detectable"] = np.nan

    for place, comparison in enumerate(family):
        cells = comparison.cells = pd.DataFrame(every.loc[place])
        is_found = cells.verdict.isin([SLOWER, FASTER])
        if is_interleaved and not comparison.is_finished:
            # Each look at a growing campaign would be another chance of a false verdict.
            cells.loc[is_found, "verdict"] = AMBIGUOUS
        elif (is_weak := is_found & (cells.detectable > np.expm1(cells.log_ratio.abs()))).any():
            comparison.caveats.append(
                f"the MDE exceeds the difference, which is then probably overestimated: "
                f"{some([*cells.title[is_weak]])}"
            )

        cells.loc[cells.pairs == 1, "verdict"] = UNREPLICATED
        if is_interleaved and comparison.is_finished:
            # Holm's procedure cannot decide a cell with few pairs, by however much they differ:
            # these are decided whose interval lies wholly beyond what these launches resolve. Of
            # equal variants with 6 to 27 pairs it calls a cell in at most 1.4 % of tables
            # (simulated, spreads of 1 to 20 %).
            large, is_open = 1 + comparison.resolved_slowdown, cells.verdict == AMBIGUOUS
            cells.loc[is_open & (cells.low > large), "verdict"] = SLOWER
            cells.loc[is_open & (cells.high < 1 / large), "verdict"] = FASTER


def with_ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with `ratio`, `low` and `high` of their logs; NaN for an infinite interval."""
    has_interval = np.isfinite(cells.log_high)
    return cells.assign(
        ratio=np.exp(cells.log_ratio),
        low=np.exp(cells.log_low).where(has_interval),
        high=np.exp(cells.log_high).where(has_interval),
    )


def _judge(
    comparison: Comparison, keys: Sequence[Any], without: Sequence[str], cases: Sequence[Any]
) -> pd.DataFrame:
    """The cells of these `cases` by the ratios and times of their keys, without verdicts."""
    sides, n_pairs = (comparison.baseline, comparison.variant), len(comparison.pairs)
    launches = [entry_of(launch) for pair in comparison.pairs for launch in pair]
    costs_us, planned = costs_of(launches, without)
    places = {key: place for place, key in enumerate(planned)}
    us = pd.DataFrame(costs_us.T).reindex([places.get(key, -1) for key in keys]).to_numpy()
    baseline_us, variant_us = us[:, ::2], us[:, 1::2]
    log_ratios = np.log(variant_us / baseline_us)  # NaN for a case that one of both lacks
    has_both = np.isfinite(log_ratios)

    if comparison.is_interleaved:
        cells = verdict.evidence(log_ratios, comparison.margin)
    else:
        groups = [(case.algorithm, case.variant) for case in cases]
        spread = days.spread_between_days(*sides) or days.assumed_spread(log_ratios, groups)
        if n_pairs >= MIN_PAIRS:
            comparison.caveats.append(spread.source)
        cells = spread.evidence(log_ratios, comparison.margin)

    cells = with_ratios(cells).assign(
        baseline_us=pd.DataFrame(baseline_us).where(has_both).median(axis=1),
        variant_us=pd.DataFrame(variant_us).where(has_both).median(axis=1),
    )
    lost = (n_pairs - cells.pairs).astype(str) + f" of {n_pairs}"
    cells["note"] = np.select(
        [cells.pairs < n_pairs, cells.pairs < MIN_PAIRS],
        [
            lost + " pairs lack it, or a common state of the link with enough blocks",
            f"an interval takes {MIN_PAIRS} pairs, which {RUN}{BENCH}campaign launches",
        ],
        "",
    )
    names = [*CASE_KEY, "chosen"]
    fields = pd.DataFrame(map(attrgetter(*names), cases), columns=names)
    cells = cells.join(fields).assign(name=case_names(cases))
    # Another harness times the code that is compared, although its maker is a library.
    is_imported = any(launch.run.imported_from for side in sides for launch in side.launches)
    cells["is_library"] = [
        bool(case.library) and not is_imported and not is_peer(case) for case in cases
    ]
    cells["title"] = cells["case"] = titles_of(cases)
    return cells.assign(place=pd.factorize(cells.name)[0])
