"""Compares sides: `compare` holds each against the first, cell by cell. A campaign asks here for
its suspects."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.store.case import CASE_KEY, key_of
from reports.store.manifest import CONTROL
from reports.store.result import ResultError
from reports.store.schema import CaseHeader
from reports.tables.headline import ratios_text
from reports.tables.sentences import size_text, some, spoken
from reports.verdicts import shrinkage, verdict
from reports.verdicts.days import spread_between_days
from reports.verdicts.sides import (
    COMPARABLE,
    Side,
    case_names,
    find_ratios,
    label,
    pair_by_node,
    read_sides,
)
from reports.verdicts.verdict import LOOKS, MIN_PAIRS, POWER, UNREPLICATED

WRONG = "wrong in"  # the note of a cell that was wrong in some launch begins so
MOST_DECIDED = 0.25  # a gate with a wider margin would pass what nobody accepts


class Incomparable(ResultError):
    """Sides that measured different things; the message names the key."""

    exit_status = 4


class NothingInCommon(ResultError):
    """Comparable sides without a common case."""


@dataclass
class Comparison:
    """A side against the baseline. `about` has a text for each field of a case in which the sides
    differ, `lacking` the baseline's cases that the other side lacks; `control` compares the
    baseline with itself.

    `cells` has a row for each `case`, by name and size: its fields; `title`, its size and `name`;
    `ratio`, variant over baseline, with its 95 % interval from `low` to `high`; `shrunk`, the ratio
    with its algorithm's other cells; the columns of `two_stages`; `about`, to what the verdict
    applies; `needed`, the number of pairs that settle the cell; `pair_sd`, the standard deviation
    of the log of a launch's median; `states`, (round trip in ns, pairs) of each state of the link,
    the most frequent first; both times in that state. A missing figure is NaN.
    """

    baseline: Side
    variant: Side
    margin: float
    about: dict[str, str] = field(default_factory=dict)
    allowed: list[str] = field(default_factory=list)
    lacking: list[CaseHeader] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    control: "Comparison | None" = None
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def design(self) -> str:
        """`two-stage` or `grow` for sides of one campaign, otherwise `once`."""
        heads = [side.campaign.campaign for side in (self.baseline, self.variant) if side.campaign]
        is_one = len(heads) == 2 and heads[0].campaign_id == heads[1].campaign_id
        return heads[0].design if is_one else "once"

    @property
    def is_control(self) -> bool:
        """Whether both sides are the same program, so that only the machine makes differences."""
        return self.variant.variant == CONTROL

    @property
    def decided(self) -> tuple[float, str]:
        """The slowdown (0.03: 3 %), from the margin to `MOST_DECIDED`, that all cells together
        decide with power 0.8 by the forecast of the campaign's pilot, otherwise by these launches;
        and its source."""
        campaign, cells = self.baseline.campaign, self.cells
        stages = campaign.stages if campaign and self.design != "once" else []
        forecasts = [stage.visible_effect for stage in stages if stage.visible_effect]
        effects = verdict.detectable(
            cells.standard_error,
            cells.pairs,
            shrinkage.OWN_P,
            0.0,
            POWER ** (1 / len(cells)),
            cells.freedom,
        )
        effects = effects[np.isfinite(effects)]
        source = "the campaign's pilot decides" if forecasts else "these launches decide"
        most = float(forecasts[0] if forecasts else np.max(effects, initial=self.margin))
        if most > MOST_DECIDED:
            return MOST_DECIDED, f"the most by default; {source} {most:.1%}"
        if not forecasts and not len(effects):
            return self.margin, "the margin: no cell has an interval"
        return max(self.margin, most), f"which {source}"

    def can_hide(self, least: float) -> "pd.Series[bool]":
        """Whether a slowdown of at least this share could hide in each cell."""
        is_settled = self.cells.verdict.isin([verdict.SAME, verdict.FASTER])
        return ~is_settled & ~(self.cells.high < 1 + least)

    def gate(self, least: float, excluded: float) -> tuple["pd.Series[bool]", "pd.Series[bool]"]:
        """Which cells are slower by `least`, and in which others `excluded` could hide."""
        is_slower = (self.cells.verdict == verdict.SLOWER) & (self.cells.ratio >= 1 + least)
        return is_slower, ~is_slower & self.can_hide(excluded)

    def summary(self, least: float | None = None) -> str:
        """One sentence: the wrong and the slower cells, the slowdown that the others exclude, and
        the cells in which a slowdown of `least`, by default of what is `decided`, could hide."""
        titles, is_slower = self.cells.title, self.cells.verdict == verdict.SLOWER
        is_wrong = self.cells.note.str.startswith(WRONG)
        is_open = ~is_slower & ~is_wrong & self.can_hide(least or self.decided[0])
        excluded = self.cells.high[~is_slower & ~is_wrong & ~is_open].max() - 1
        others = "nothing else" if is_slower.any() or is_wrong.any() else "nothing"
        parts = {
            f"{some([*titles[is_wrong]])} wrong": is_wrong.any(),
            f"{some([*titles[is_slower]])} slower": is_slower.any(),
            f"{others} slower than {max(excluded, 0):.1%} anywhere": np.isfinite(excluded),
            f"{some([*titles[is_open]])} undecided": is_open.any(),
        }
        sentence = "; ".join(part for part, applies in parts.items() if applies)
        return sentence + ", by machine or code" * (self.design == "once")

    @property
    def ratios(self) -> str:
        """The ratios at two sizes, which with `summary` are the `headline`."""
        return ratios_text(self.cells, label(self.baseline), label(self.variant))

    @property
    def headline(self) -> str:
        return ": ".join(filter(None, [self.ratios, self.summary()]))

    def pairs(self, stage: str) -> list[tuple[Any, Any]]:
        """(baseline, variant) launches of a stage; without a campaign all are in the first, by
        `pair_by_node`."""
        sides = self.baseline.launches, self.variant.launches
        if self.design == "once":
            return pair_by_node(*sides) if stage == "first" else []
        first, second = (
            {launch.pair: launch for launch in launches if launch.stage == stage}
            for launches in sides
        )
        return [(first[pair], second[pair]) for pair in sorted(first.keys() & second.keys())]


def shown(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons that get a table: the control only if it is alone."""
    return [each for each in comparisons if not each.is_control] or list(comparisons)


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
                comparison.about[name] = ": ".join(words)
        _add_cells(comparison, is_chosen)
        _add_notes(comparison)
        comparisons.append(comparison)
    control = next((each for each in comparisons if each.is_control), None)
    for comparison in comparisons:
        comparison.control = None if comparison.is_control else control
    return comparisons


def _add_cells(comparison: Comparison, is_chosen: Callable[[int], bool]) -> None:
    sides, without = (comparison.baseline, comparison.variant), ("library", *comparison.about)
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
    groups = [(case.algorithm, case.variant) for case in common]
    judged = _judge(comparison, [() if key in wrong else key for key in cases], without, groups)
    fields = pd.DataFrame(map(attrgetter(*CASE_KEY), common), columns=list(CASE_KEY))
    cells = judged.join(fields).assign(case=common, name=case_names(common))
    cells["title"] = cells.size_bytes.map(size_text) + " " + cells.name.map(spoken)
    cells["note"] = [wrong.get(key) or note for key, note in zip(cases, cells.note, strict=True)]
    cells["place"] = pd.factorize(cells.name)[0]
    comparison.cells = cells.sort_values(["place", "size_bytes"], ignore_index=True)


def as_ratios(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with ratios instead of their logs; an infinite interval becomes NaN."""
    cells = cells.rename(columns={"estimate": "ratio"})
    logs = ["ratio", "shrunk", "low", "high"]
    cells[logs] = np.exp(cells[logs])
    cells.loc[~np.isfinite(cells.high), ["low", "high"]] = np.nan
    return cells


def _judge(
    comparison: Comparison, keys: Sequence[Any], without: Sequence[str], groups: Sequence[Any]
) -> pd.DataFrame:
    """The columns of the cells that follow from the ratios and times of these keys, in groups."""
    manifest, margin = comparison.baseline.campaign, comparison.margin
    first_pairs, fresh_pairs = comparison.pairs("first"), comparison.pairs("fresh")
    first, first_times = find_ratios(first_pairs, keys, without)
    fresh, fresh_times = find_ratios(fresh_pairs, keys, without)
    is_once = comparison.design == "once"
    if is_once or not manifest:
        days = spread_between_days(comparison.baseline, comparison.variant, first, groups)
        comparison.notes += [days.source] * (len(first_pairs) >= MIN_PAIRS)
        cells = days.judge(first, margin)
    elif comparison.design == "two-stage":
        cells = shrinkage.judge_stages(first, fresh, groups, margin, bool(manifest.end))
    else:
        ran = [launch.pair for launch in manifest.launches if launch.stage == "first"]
        looks = [round(share / LOOKS[0] * manifest.campaign.pairs) for share in LOOKS]
        numbers = np.array([launch.pair for launch, _ in first_pairs])  # a pair may be missing
        columns = [int(np.sum(numbers <= look)) for look in looks if look <= max(ran, default=0)]
        # Without further SAME: such a campaign spends its chance of a wrong one over its looks.
        cells = shrinkage.borrow(verdict.growing(first, columns, margin), groups)
    # More pairs of the same two days decide little.
    cells["needed"] = np.nan if is_once else verdict.pairs_needed(cells, cells.alpha, margin)
    cells["pair_sd"] = np.nan if is_once else cells.standard_error * np.sqrt(cells.pairs / 2)
    cells["about"] = "machine or code" if is_once else "code"
    cells = as_ratios(cells)
    cells.loc[cells.high.isna(), ["detectable", "needed", "pair_sd"]] = np.nan
    cells.loc[cells.pairs == 1, "verdict"] = UNREPLICATED
    planned = np.where(cells.is_fresh, len(fresh_pairs), len(first_pairs))
    lost = (planned - cells.pairs).astype(str) + " of " + planned.astype(str)
    is_open = cells.is_suspect & ~cells.is_fresh & (not comparison.is_control)
    cells["note"] = np.select(
        [cells.pairs < planned, is_open, cells.pairs.between(2, MIN_PAIRS - 1)],
        [
            lost + " pairs have no state of the link in common with enough blocks",
            "suspect, but no fresh pairs were made",
            f"an interval takes {MIN_PAIRS} pairs",
        ],
        "",
    )
    return cells.join(fresh_times.where(cells.is_fresh, first_times))


def _add_notes(comparison: Comparison) -> None:
    baseline, variant, notes = comparison.baseline, comparison.variant, comparison.notes
    for side in (baseline, variant):
        launches = side.campaign.launches if side.campaign else []
        died = sum((launch.variant, launch.status) == (side.variant, "died") for launch in launches)
        if died:
            notes.append(f"{died} launches of {side.name} died and were tried again.")
    newest = len(comparison.pairs("first"))
    notes += [
        f"Only the newest {newest} of {len(side.launches)} launches of {side.name} count."
        for side in (baseline, variant)
        if comparison.design == "once" and len(side.launches) > newest
    ]
    nodes = [{launch.result.run.node for launch in side.launches} for side in (baseline, variant)]
    if all(nodes) and None not in set.union(*nodes) and not set.intersection(*nodes):
        here, there = (some(sorted(map(str, names))) for names in nodes)
        notes.append(f"The sides ran on different nodes, {here} and {there}, and nodes differ.")
    if lacking := len(comparison.lacking):
        notes.append(f"{lacking} cases of {baseline.name} are not in {variant.name}.")


def cells_of(folder: Path | str) -> pd.DataFrame:
    """The cells of a campaign so far, without its control's."""
    comparisons = compare(read_sides([str(folder)]), list(COMPARABLE))
    return pd.concat(comparison.cells for comparison in comparisons if not comparison.is_control)
