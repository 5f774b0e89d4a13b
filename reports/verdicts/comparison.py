"""Compares sides: `compare` holds each against the first, cell by cell; `COMPARABLE` lists the
facts that all sides must share. A campaign asks here for its suspects and its visible effect."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.store.case import CASE_KEY
from reports.store.manifest import CONTROL
from reports.store.result import ResultError
from reports.store.schema import CaseHeader, Result
from reports.tables.sentences import fact, size_text
from reports.verdicts import verdict
from reports.verdicts.sides import Side, case_names, find_costs, find_ratios, key_of, read_sides
from reports.verdicts.verdict import LOOKS, MIN_PAIRS, SUSPECT_P, UNREPLICATED

# The facts that must be equal on all sides, by their names in --allow.
COMPARABLE: dict[str, Callable[[Result], Any]] = {
    "machine": lambda result: result.run.machine_id,
    "clock": lambda result: (result.run.clock_shared, fact(result, "cpu.governor"),
                             fact(result, "cpu.turbo")),
    "world": lambda result: (
        result.run.world["size"], result.run.world.get("hosts", 1),
        sorted(str(tuple(map(rank.get, ("device", "arch", "gpu"))))
               for rank in result.run.world.get("ranks", []))),
    "type": lambda result: sorted({(case.datatype, case.redop) for case in result.run.cases}),
    "statistic": lambda result: (result.run.benchmark, result.run.world.get("dispatch", "native"),
                                 sorted({case.across_ranks for case in result.cases})),
    "version": lambda result: result.run.version,
}


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

    `cells` has a row for each `case`: its fields; `title`, its size and `name`; `ratio`, variant
    over baseline, with its 95 % interval from `low` to `high`; the columns of `two_stages`;
    `needed`, the number of pairs that settle the cell; `pair_sd`, the standard deviation of the log
    of a launch's median; `states`, (round trip in ns, pairs) of each state of the link, the most
    frequent first; both times in that state. A missing figure is NaN.
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

    def pairs(self, stage: str) -> list[tuple[Any, Any]]:
        """(baseline, variant) launches of a stage; without a campaign all are in the first."""
        sides = self.baseline.launches, self.variant.launches
        if self.design == "once":
            return list(zip(*sides, strict=False)) if stage == "first" else []
        first, second = ({launch.pair: launch for launch in launches if launch.stage == stage}
                         for launches in sides)
        return [(first[pair], second[pair]) for pair in sorted(first.keys() & second.keys())]


def shown(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons that get a table: the control only if it is alone."""
    return [each for each in comparisons if not each.is_control] or list(comparisons)


def ordered(cells: pd.DataFrame) -> list[Any]:
    """The cells by name, smallest size first."""
    by_name = cells.assign(place=pd.factorize(cells.name)[0]).sort_values(["place", "size_bytes"])
    return list(by_name.itertuples())


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


def compare(sides: Sequence[Side], allowed: Sequence[str] = (), margin: float | None = None,
            is_chosen: Callable[[int], bool] = lambda size_bytes: True) -> list[Comparison]:
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
        may_differ = ("datatype", "redop") * ("type" in allowed)
        for name in ("algorithm", "variant", "memory", "in_place", *may_differ):
            ours, theirs = ({str(getattr(case, name)) for case in side.cases}
                            for side in (baseline, variant))
            if len(ours) == len(theirs) == 1 and ours != theirs:
                comparison.about[name] = f"{name}: {min(ours)} against {min(theirs)}"
        _add_cells(comparison, is_chosen)
        _add_notes(comparison)
        comparisons.append(comparison)
    for comparison in comparisons:
        if not comparison.is_control:
            comparison.control = next((each for each in comparisons if each.is_control), None)
    return comparisons


def _add_cells(comparison: Comparison, is_chosen: Callable[[int], bool]) -> None:
    sides, without = (comparison.baseline, comparison.variant), ("library", *comparison.about)
    names = f"{comparison.baseline.name} and {comparison.variant.name}"
    runs = [{launch.result.run.run_id for launch in side.launches} for side in sides]
    if both := set.intersection(*runs):
        raise ResultError(f"{min(both)} is a run of {names}: compared with itself")
    theirs, ours = ({key_of(case, without): case for case in side.cases
                     if case.status == "ok" and is_chosen(case.size_bytes)} for side in sides)
    if not theirs:
        raise ResultError(f"no case of {comparison.baseline.name} has one of these sizes")
    cases = {key: ours[key] for key in theirs if key in ours}
    if not cases:
        raise NothingInCommon(f"{names} have no case in common")
    comparison.lacking = [case for key, case in theirs.items() if key not in ours]
    # The times of a case that was wrong in some launch prove nothing.
    wrong: dict[Any, str] = {}
    for side in sides:
        counts = Counter(key_of(case, without) for launch in side.launches
                         for case in launch.result.cases if case.status == "wrong")
        wrong |= {key: f"wrong in {count} launches of {side.name}" for key, count in counts.items()}
    columns: dict[str, Any] = {
        name: [getattr(case, name) for case in cases.values()] for name in CASE_KEY}
    columns |= {"case": [*cases.values()], "name": case_names([*cases.values()])}
    judged = _judge(comparison, [() if key in wrong else key for key in cases], without)
    cells = comparison.cells = judged.assign(**columns)
    cells["title"] = cells.size_bytes.map(size_text) + " " + cells.name
    cells["note"] = [wrong.get(key) or note for key, note in zip(cases, cells.note, strict=True)]


def _judge(comparison: Comparison, keys: Sequence[Any], without: Sequence[str]) -> pd.DataFrame:
    """The columns of the cells that follow from the ratios and times of these keys."""
    manifest, margin = comparison.baseline.campaign, comparison.margin
    first_pairs, fresh_pairs = comparison.pairs("first"), comparison.pairs("fresh")
    first, first_times = find_ratios(first_pairs, keys, without)
    fresh, fresh_times = find_ratios(fresh_pairs, keys, without)
    if comparison.design == "once" or not manifest:
        cells = verdict.once(first, margin)
    elif comparison.design == "two-stage":
        cells = verdict.two_stages(first, fresh, margin, manifest.end is not None)
    else:
        ran = [launch.pair for launch in manifest.launches if launch.stage == "first"]
        looks = [round(share / LOOKS[0] * manifest.campaign.pairs) for share in LOOKS]
        numbers = np.array([launch.pair for launch, _ in first_pairs])  # a pair may be missing
        columns = [int(np.sum(numbers <= look)) for look in looks if look <= max(ran, default=0)]
        cells = verdict.growing(first, columns, margin)
    cells["needed"] = verdict.pairs_needed(cells, cells.alpha, margin)
    cells["pair_sd"] = cells.standard_error * np.sqrt(cells.pairs / 2)
    has_interval = np.isfinite(cells.high)
    cells.loc[~has_interval, ["low", "high", "detectable", "needed", "pair_sd"]] = np.nan
    cells = cells.rename(columns={"estimate": "ratio"})
    cells[["ratio", "low", "high"]] = np.exp(cells[["ratio", "low", "high"]])
    cells.loc[cells.pairs == 1, "verdict"] = UNREPLICATED
    planned = np.where(cells.is_fresh, len(fresh_pairs), len(first_pairs))
    lost = (planned - cells.pairs).astype(str) + " of " + planned.astype(str)
    is_open = cells.is_suspect & ~cells.is_fresh & (not comparison.is_control)
    cells["note"] = np.select(
        [cells.pairs < planned, is_open, cells.pairs.between(2, MIN_PAIRS - 1)],
        [lost + " pairs have no state of the link in common with enough blocks",
         "suspect, but no fresh pairs were made", cells.pairs.astype(str) + " pairs are too few "
         f"for an interval, which takes {MIN_PAIRS}"], "")
    return cells.join(fresh_times.where(cells.is_fresh, first_times))


def _add_notes(comparison: Comparison) -> None:
    baseline, variant, notes = comparison.baseline, comparison.variant, comparison.notes
    numbers = len(baseline.launches), len(variant.launches)
    if comparison.design == "once" and min(numbers) > 1:
        notes.append("These launches were not interleaved: what changed on the machine between "
                     "them counts as well.")
        if lone := max(numbers) - min(numbers):
            notes.append(f"{numbers[0]} launches stand against {numbers[1]}: the last {lone} have "
                         "no partner.")
    for side in (baseline, variant):
        launches = side.campaign.launches if side.campaign else []
        died = sum((launch.variant, launch.status) == (side.variant, "died") for launch in launches)
        if died:
            notes.append(f"{died} launches of {side.name} died and were tried again.")
    slow = [[launch.slow_share for launch in pair] for pair in comparison.pairs("first")]
    shares = np.reshape(slow, (-1, 2)).T
    excess = verdict.evidence((shares[1] - shares[0])[None])
    if min(excess.p_slower[0], excess.p_faster[0]) < SUSPECT_P / 10:
        ours, theirs = shares.mean(axis=1)
        notes.append(f"The link was slow, or changing, for {ours:.0%} of {baseline.name}'s blocks "
                     f"and {theirs:.0%} of {variant.name}'s: ratios are within one state and leave "
                     "that out.")
    if lacking := len(comparison.lacking):
        notes.append(f"{lacking} cases of {baseline.name} are not in {variant.name}.")


def suspect_sizes(folder: Path | str) -> list[int]:
    """The sizes in bytes that a campaign's fresh pairs measure: its suspects after stage one."""
    return sorted(_cells_of(folder).query("is_suspect").size_bytes.unique().tolist())


def pairs_short(folder: Path | str, pairs: int) -> int:
    """How many pairs the median cell of a campaign lacks after its first stage, because launches
    shared no state of the link. It ignores times, so more pairs do not bias a verdict."""
    return max(0, pairs - int(_cells_of(folder).pairs.median()))


def undecided(folder: Path | str) -> int:
    """The number of AMBIGUOUS cells of a campaign so far."""
    return int((_cells_of(folder).verdict == verdict.AMBIGUOUS).sum())


def _cells_of(folder: Path | str) -> pd.DataFrame:
    comparisons = compare(read_sides([str(folder)]), list(COMPARABLE))
    return pd.concat(comparison.cells for comparison in comparisons if not comparison.is_control)


def visible_effects(baseline: Side, pairs: int, fresh: int, margin: float,
                    cells: int) -> dict[int, float]:
    """The effect that a campaign sees with power 0.8 at each size in bytes, as a share; with fresh
    pairs in both stages; empty if unknown. It follows from the standard deviation between launches:
    of the log of a case's median within a state of the link, pooled over the cases of a size."""
    find_costs(baseline.launches, ())
    logs = pd.DataFrame(
        [(key[CASE_KEY.index("size_bytes")], str(key), state, np.log(cost_us))
         for launch in baseline.launches for key, costs_us in launch.costs.items()
         for state, cost_us in costs_us.items()], columns=["size", "case", "state", "log"])
    variances = logs.groupby(["size", "case", "state"])["log"].var().dropna()
    pooled = variances.groupby("size").mean()
    # For normal log ratios the signed-rank test has 3 / pi of the efficiency of Student's.
    pair_sd = np.sqrt(2 * pooled) / np.sqrt(3 / np.pi)
    stages, power = [(pairs, verdict.FAMILY_P / 2 / cells)], verdict.POWER
    if fresh:
        stages, power = [(pairs, SUSPECT_P), (fresh, verdict.FAMILY_P)], verdict.BOTH_POWER
    effects = np.max([verdict.detectable(pair_sd / np.sqrt(n), n, alpha, margin, power)
                      for n, alpha in stages], axis=0)
    return dict(zip(pooled.index, effects.tolist(), strict=True))
