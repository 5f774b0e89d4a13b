"""Compares sides: `compare` holds each against the first, cell by cell."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from reports.store.case import CASE_KEY, key_of
from reports.store.result import ResultError
from reports.store.schema import CaseHeader
from reports.tables.headline import ratios_text
from reports.tables.sentences import size_text, some, spoken
from reports.verdicts import verdict
from reports.verdicts.days import spread_between_days
from reports.verdicts.sides import (
    COMPARABLE,
    Launch,
    Side,
    case_names,
    find_ratios,
    label,
    pair_by_node,
)
from reports.verdicts.verdict import (
    AMBIGUOUS,
    FASTER,
    INTERVAL_P,
    MIN_PAIRS,
    POWER,
    SAME,
    SLOWER,
    UNREPLICATED,
)

WRONG = "wrong in"  # the note of a cell that was wrong in some launch begins so
MOST_RESOLVABLE = 0.25  # a gate with a wider margin would pass what nobody accepts


class Incomparable(ResultError):
    """Sides that measured different things; the message names the key."""

    exit_status = 4


class NothingInCommon(ResultError):
    """Comparable sides without a common case."""


@dataclass
class Comparison:
    """A side against the baseline. `differing_fields` has a text for each field of a case in which
    the sides differ, such as the algorithm; `lacking` the baseline's cases that the other side
    lacks.

    `cells` has a row for each `case`, by name and size: its fields; `title`, its size and `name`;
    `ratio`, variant over baseline, with its 95 % interval from `low` to `high`; the columns of
    `once`; `is_interleaved`, as of the comparison; `is_library`: the case times a library, which
    the compared code cannot change; `needed`, the number of pairs that settle the cell; `pair_sd`,
    the standard deviation of the log of a launch's median; `states`, (round trip in ns, pairs) of
    each state of the link, the most frequent first; both times in that state. A missing figure is
    NaN.
    """

    baseline: Side
    variant: Side
    margin: float
    differing_fields: dict[str, str] = field(default_factory=dict)
    allowed: list[str] = field(default_factory=list)
    lacking: list[CaseHeader] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def is_interleaved(self) -> bool:
        """Whether the sides are of one campaign, whose launches ran in turn."""
        heads = [side.campaign.campaign for side in (self.baseline, self.variant) if side.campaign]
        return len(heads) == 2 and heads[0].campaign_id == heads[1].campaign_id

    @property
    def is_judged(self) -> "pd.Series[bool]":
        """The cells that the headline is about, and that a gate can fail: all but the library's, or
        all if there are no others."""
        is_library = self.cells.is_library
        return ~is_library | bool(is_library.all())

    @property
    def resolvable_slowdown(self) -> tuple[float, str]:
        """The slowdown (0.03: 3 %), from the margin to `MOST_RESOLVABLE`, that all judged cells
        together exclude with power 0.8 by the forecast of the campaign's pilot, otherwise by these
        launches; and its source."""
        campaign, cells = self.baseline.campaign, self.cells[self.is_judged]
        # An older campaign's forecast counts on further launches.
        is_forecast = campaign and self.is_interleaved and campaign.campaign.design == "once"
        stages = campaign.stages if campaign and is_forecast else []
        forecasts = [stage.visible_effect for stage in stages if stage.visible_effect]
        effects = verdict.detectable(
            cells.standard_error,
            cells.pairs,
            INTERVAL_P,
            0.0,
            POWER ** (1 / len(cells)),
            cells.get("freedom"),
        )
        effects = effects[np.isfinite(effects)]
        source = "the campaign's pilot decides" if forecasts else "these launches decide"
        most = float(forecasts[0] if forecasts else np.max(effects, initial=self.margin))
        if most > MOST_RESOLVABLE:
            return MOST_RESOLVABLE, f"the most by default; {source} {most:.1%}"
        if not forecasts and not len(effects):
            return self.margin, "the margin: no cell has an interval"
        return max(self.margin, most), f"which {source}"

    def can_hide(self, slowdown: float) -> "pd.Series[bool]":
        """Whether a slowdown of at least this share could hide in each judged cell."""
        is_settled = self.cells.verdict.isin([SAME, FASTER]) | (self.cells.high < 1 + slowdown)
        return self.is_judged & ~is_settled

    def gate(
        self, fails_from: float, must_rule_out: float
    ) -> tuple["pd.Series[bool]", "pd.Series[bool]"]:
        """Which judged cells are slower by at least `fails_from`, and in which others a slowdown of
        `must_rule_out` could hide."""
        is_slower = (self.cells.verdict == SLOWER) & (self.cells.ratio >= 1 + fails_from)
        is_slower &= self.is_judged
        return is_slower, ~is_slower & self.can_hide(must_rule_out)

    def summary(self, slowdown: float | None = None) -> str:
        """One sentence on the judged cells: the wrong, the slower and the faster ones, the slowdown
        that the others exclude, and the cells in which `slowdown`, by default the resolvable one,
        could hide; then whether the library's moved."""
        is_slower, is_faster = (
            self.is_judged & (self.cells.verdict == word) for word in (SLOWER, FASTER)
        )
        is_wrong = self.is_judged & self.cells.note.str.startswith(WRONG)
        is_open = self.can_hide(slowdown or self.resolvable_slowdown[0]) & ~is_slower & ~is_wrong
        is_other = self.is_judged & ~is_slower & ~is_wrong & ~is_open
        excluded = self.cells.high[is_other].max() - 1
        others = "nothing else" if is_slower.any() or is_wrong.any() else "nothing"
        parts = {
            f"WRONG: {some([*self.cells.title[is_wrong]])}": is_wrong.any(),
            self.difference(is_slower): is_slower.any(),
            self.difference(is_faster): is_faster.any(),
            f"{others} slower than {max(excluded, 0):.1%} anywhere": np.isfinite(excluded),
            f"{some([*self.cells.title[is_open]])} undecided": is_open.any(),
            self.library_sentence: bool(self.library_sentence),
        }
        return "; ".join(part for part, applies in parts.items() if applies)

    def difference(self, is_chosen: "pd.Series[bool]") -> str:
        """`SLOWER 4.9%: 16 KiB two-shot` of the chosen cells, which have one verdict, worst
        first."""
        cells = self.cells[is_chosen].sort_values("ratio", kind="stable")
        if cells.empty:
            return ""
        word = cells.verdict.iloc[0]
        cells = cells[::-1] if word == SLOWER else cells
        sizes = f"{'up to ' * (len(cells) > 1)}{abs(cells.ratio.iloc[0] - 1):.1%}"
        source = " by machine or code" * (not self.is_interleaved)
        return f"{word} {sizes}{source}: {some([*cells.title])}"

    @property
    def library_sentence(self) -> str:
        """Says that the machine moved if cells of a library with equal settings on both sides
        differ; empty otherwise."""
        cells = self.cells
        moved = cells[cells.is_library & cells.verdict.isin([SLOWER, FASTER])]
        settings = [library_settings(side) for side in (self.baseline, self.variant)]
        if self.is_judged[cells.is_library].any() or moved.empty or settings[0] != settings[1]:
            return ""
        return (
            f"the machine moved: {len(moved)} of {cells.is_library.sum()} cells of the library, "
            f"which the code cannot change, differ ({some([*moved.title])})"
        )

    @property
    def ratios(self) -> str:
        """The ratios of judged cells at two sizes, which follow `summary` in the `headline`."""
        return ratios_text(self.cells[self.is_judged], label(self.baseline), label(self.variant))

    @property
    def headline(self) -> str:
        return "; ".join(filter(None, [self.summary(), self.ratios]))

    @property
    def pairs(self) -> list[tuple[Launch, Launch]]:
        """(baseline, variant) launches that ran in turn, or without a campaign by
        `pair_by_node`."""
        sides = self.baseline.launches, self.variant.launches
        if not self.is_interleaved:
            return pair_by_node(*sides)
        first, second = ({launch.pair: launch for launch in launches} for launches in sides)
        return [(first[pair], second[pair]) for pair in sorted(first.keys() & second.keys())]


def library_settings(side: Side) -> Any:
    """What a library's times depend on: the libraries' names, the variables that the environment
    sets, and the thread level of MPI."""
    run = side.launches[0].result.run
    variables = {
        name: fact.get("value") for name, fact in run.environment.items() if name.startswith("env.")
    }
    names = {case.library for case in side.cases if case.library}
    return names, variables, run.world.get("mpi_thread_level")


def differing(sides: Sequence[Side], allowed: Sequence[str]) -> list[str]:
    """Sentences on allowed differences. Raises Incomparable for a difference not allowed."""
    sentences = []
    for name, read_fact in COMPARABLE.items():
        side_names: dict[str, str] = {}
        for side in sides:
            for launch in side.launches:
                side_names.setdefault(str(read_fact(launch.result)), side.name)
        if len(side_names) > 1:
            first, second, *_ = (f"{text} ({side})" for text, side in side_names.items())
            sentence = f"{name} differs: {first} and {second}"
            if name not in allowed:
                raise Incomparable(f"not comparable: {sentence}; --allow {name} compares anyway")
            sentences.append(f"allowed to differ: {sentence}")
    return sentences


def compare(
    sides: Sequence[Side],
    allowed: Sequence[str] = (),
    margin: float | None = None,
    is_chosen: Callable[[int], bool] = lambda size_bytes: True,
) -> list[Comparison]:
    """Every side against the first, over the chosen sizes. `margin` is a share, by default the
    campaign's. Raises Incomparable for sides that measured different things, NothingInCommon for
    sides without a common case, ResultError for a run that is on both sides."""
    differences = differing(sides, allowed)
    baseline, *variants = sides
    if margin is None:
        margin = baseline.campaign.campaign.margin if baseline.campaign else verdict.MARGIN
    comparisons = []
    for variant in variants:
        comparison = Comparison(baseline, variant, margin, allowed=differences)
        for name in ("algorithm", "variant", "memory", "in_place", "datatype", "redop"):
            ours, theirs = (
                {str(getattr(case, name)) for case in side.cases} for side in (baseline, variant)
            )
            if len(ours) == len(theirs) == 1 and ours != theirs:
                words = spoken(name), f"{spoken(min(ours))} against {spoken(min(theirs))}"
                comparison.differing_fields[name] = ": ".join(words)
        _add_cells(comparison, is_chosen)
        _add_notes(comparison)
        comparisons.append(comparison)
    return comparisons


def _add_cells(comparison: Comparison, is_chosen: Callable[[int], bool]) -> None:
    sides, without = (
        (comparison.baseline, comparison.variant),
        (
            "library",
            *comparison.differing_fields,
        ),
    )
    names = f"{comparison.baseline.name} and {comparison.variant.name}"
    runs = [{launch.result.run.run_id for launch in side.launches} for side in sides]
    if both := set.intersection(*runs):
        raise ResultError(f"{min(both)} is a run of {names}: compared with itself")
    theirs, ours = (
        {
            key_of(case, without): case
            for case in side.cases
            if case.status == "ok" and is_chosen(case.size_bytes)
        }
        for side in sides
    )
    if not theirs:
        raise ResultError(f"no case of {comparison.baseline.name} has one of these sizes")
    cases = {key: ours[key] for key in theirs if key in ours}
    if not cases:
        raise NothingInCommon(f"{names} have no case in common")
    comparison.lacking = [case for key, case in theirs.items() if key not in ours]
    # The times of a case that was wrong in some launch prove nothing.
    wrong: dict[Any, str] = {}
    for side in sides:
        counts = Counter(
            key_of(case, without)
            for launch in side.launches
            for case in launch.result.cases
            if case.status == "wrong"
        )
        wrong |= {key: f"{WRONG} {count} launches of {side.name}" for key, count in counts.items()}
    common: list[Any] = [*cases.values()]
    judged = _judge(comparison, [() if key in wrong else key for key in cases], without, common)
    fields = pd.DataFrame(map(attrgetter(*CASE_KEY), common), columns=list(CASE_KEY))
    cells = judged.join(fields).assign(case=common, name=case_names(common))
    cells["is_library"] = [case.library is not None for case in common]
    cells["title"] = cells.size_bytes.map(size_text) + " " + cells.name.map(spoken)
    cells["note"] = [wrong.get(key) or note for key, note in zip(cases, cells.note, strict=True)]
    cells["place"] = pd.factorize(cells.name)[0]
    comparison.cells = cells.sort_values(["place", "size_bytes"], ignore_index=True)


def as_ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with ratios instead of their logs; an infinite interval becomes NaN."""
    cells = cells.rename(columns={"estimate": "ratio"})
    logs = ["ratio", "low", "high"]
    cells[logs] = np.exp(cells[logs])
    cells.loc[~np.isfinite(cells.high), ["low", "high"]] = np.nan
    return cells


def _judge(
    comparison: Comparison, keys: Sequence[Any], without: Sequence[str], cases: Sequence[Any]
) -> pd.DataFrame:
    """The columns of the cells that follow from the ratios and times of these keys, of `cases`."""
    margin, pairs = comparison.margin, comparison.pairs
    is_interleaved, manifest = comparison.is_interleaved, comparison.baseline.campaign
    ratios, times = find_ratios(pairs, keys, without)
    if is_interleaved:
        cells = verdict.once(ratios, margin)
        cells["needed"] = verdict.pairs_needed(cells, cells.alpha, margin)
        cells["pair_sd"] = cells.standard_error * np.sqrt(cells.pairs / 2)
    else:
        groups = [(case.algorithm, case.variant) for case in cases]
        days = spread_between_days(comparison.baseline, comparison.variant, ratios, groups)
        comparison.notes += [days.source] * (len(pairs) >= MIN_PAIRS)
        # More pairs of the same two days decide little.
        cells = days.judge(ratios, margin).assign(needed=np.nan, pair_sd=np.nan)
    cells = as_ratios(cells.assign(is_interleaved=is_interleaved))
    cells.loc[cells.high.isna(), ["detectable", "needed", "pair_sd"]] = np.nan
    if is_interleaved and manifest and not manifest.end:
        # Each look at a growing campaign would be another chance of a false verdict.
        cells.loc[cells.verdict.isin([SLOWER, FASTER]), "verdict"] = AMBIGUOUS
    cells.loc[cells.pairs == 1, "verdict"] = UNREPLICATED
    lost = (len(pairs) - cells.pairs).astype(str) + f" of {len(pairs)}"
    cells["note"] = np.select(
        [cells.pairs < len(pairs), cells.pairs.between(2, MIN_PAIRS - 1)],
        [
            lost + " pairs have no state of the link in common with enough blocks",
            f"an interval takes {MIN_PAIRS} pairs",
        ],
        "",
    )
    return cells.join(times)


def _add_notes(comparison: Comparison) -> None:
    baseline, variant, notes = comparison.baseline, comparison.variant, comparison.notes
    for side in (baseline, variant):
        launches = side.campaign.launches if side.campaign else []
        died = sum((launch.variant, launch.status) == (side.variant, "died") for launch in launches)
        if died:
            notes.append(f"{died} launches of {side.name} died and were tried again.")
    newest = len(comparison.pairs)
    notes += [
        f"Only the newest {newest} of {len(side.launches)} launches of {side.name} count."
        for side in (baseline, variant)
        if not comparison.is_interleaved and len(side.launches) > newest
    ]
    nodes = [{launch.result.run.node for launch in side.launches} for side in (baseline, variant)]
    if all(nodes) and None not in set.union(*nodes) and not set.intersection(*nodes):
        here, there = (some(sorted(map(str, names))) for names in nodes)
        notes.append(f"The sides ran on different nodes, {here} and {there}, and nodes differ.")
    if lacking := len(comparison.lacking):
        notes.append(f"{lacking} cases of {baseline.name} are not in {variant.name}.")
