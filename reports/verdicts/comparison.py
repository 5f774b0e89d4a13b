"""`compare`: two or more sides, each against the first, cell by cell: ratio, interval, verdict, and what could hide.

A cell is a case that both sides have. Its pairs are those of a campaign; launches that no campaign paired are paired in
order of time, which is said, because what changed on the machine in between then counts as a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from reports.store.case import CASE_KEY
from reports.store.manifest import CONTROL
from reports.store.result import ResultError
from reports.store.schema import CaseHeader, Result
from reports.verdicts.sides import Key, Launch, Side, find_costs, key_of, sides
from reports.verdicts.verdict import (
    FAMILY_P,
    LOOKS,
    MARGIN,
    MIN_PAIRS,
    SUSPECT_P,
    Floats,
    Judgement,
    Verdict,
    evidence,
    growing,
    once,
    pairs_needed,
    two_stages,
    visible_effect,
)

NOT_COMPARABLE = 4
# Of a case's key, what two sides may differ in and still be compared: it is then what the comparison is about.
MAY_DIFFER = ("algorithm", "variant", "memory", "in_place")


class Incomparable(ResultError):
    """Sides that measured different things; the message names the key."""

    exit_status = NOT_COMPARABLE


class NothingInCommon(ResultError):
    """Sides that could be compared if they had a case in common."""


@dataclass
class Cell:
    """One case on both sides. Ratios are variant over baseline, above 1 where the variant takes longer; the interval
    is of 95 %, of this cell alone; None where there are too few pairs. `detectable` is the effect that would have been
    called four times in five, and no less than an AMBIGUOUS cell leaves open; `needed` how many pairs would settle it.
    Of a suspect with fresh pairs all figures are over these (`is_fresh`). `states` counts the pairs in each state of
    the link, (round trip in ns, pairs), the most first; both times are over the pairs in the first of these.
    """

    case: CaseHeader
    verdict: Verdict
    pairs: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    baseline_us: float | None = None
    variant_us: float | None = None
    detectable: float | None = None
    needed: float | None = None
    is_suspect: bool = False
    is_fresh: bool = False
    states: list[tuple[float, int]] = field(default_factory=list)
    note: str | None = None


@dataclass
class Comparison:
    """A side against the baseline. `design`: `two-stage`, `grow` or `once`; `lacking` are the baseline's cases that
    the other side does not have."""

    baseline: Side
    variant: Side
    design: str
    margin: float
    cells: list[Cell]
    lacking: list[CaseHeader]
    about: list[str]
    allowed: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def is_control(self) -> bool:
        """Whether both sides are the same thing, so that any difference is the machine's."""
        return self.variant.variant == CONTROL

    @property
    def pair_sd(self) -> float | None:
        """The spread between launches, as a share: half of the cells have less (s.d. of the log of a launch's median,
        from that of the pairs' log ratios)."""
        errors = [float(np.log(cell.high / cell.low)) / 2 / stdtrit(cell.pairs - 1, 0.975)
                  * np.sqrt(cell.pairs / 2) for cell in self.cells if cell.low and cell.high]
        return float(np.median(errors)) if errors else None

    def count(self, *verdicts: Verdict) -> int:
        """How many cells have one of these verdicts."""
        return sum(cell.verdict in verdicts for cell in self.cells)


def _facts(result: Result, *names: str) -> tuple[Any, ...]:
    facts = [result.run.environment.get(name) for name in names]
    return tuple(fact.get("value") if isinstance(fact, dict) else fact for fact in facts)


# What has to be the same on both sides, by the name that --allow takes.
COMPARABLE: dict[str, Callable[[Result], Any]] = {
    "machine": lambda result: result.run.machine_id,
    "clock": lambda result: (result.run.clock_shared, *_facts(result, "cpu.governor", "cpu.turbo")),
    "world": lambda result: (result.run.world["size"], result.run.world.get("hosts", 1),
                             sorted(str((rank.get("device"), rank.get("arch"), rank.get("gpu")))
                                    for rank in result.run.world.get("ranks", []))),
    "type": lambda result: sorted({(case.datatype, case.redop) for case in result.run.cases}),
    "statistic": lambda result: (result.run.benchmark, result.run.world.get("dispatch", "native"),
                                 sorted({case.across_ranks for case in result.cases})),
    "version": lambda result: result.run.version,
}


def differing(found: Sequence[Side], allowed: Sequence[str]) -> list[str]:
    """Sentences on the keys that differ and are allowed to. Raises Incomparable for one that is not."""
    said = []
    for name, read_key in COMPARABLE.items():
        values: dict[str, str] = {}
        for side in found:
            for launch in side.launches:
                values.setdefault(str(read_key(launch.result)), side.name)
        if len(values) > 1:
            (one, at), (other, there), *_ = values.items()
            sentence = f"{name} differs: {one} ({at}) and {other} ({there})"
            if name not in allowed:
                raise Incomparable(f"not comparable: {sentence}; --allow {name} compares all the same")
            said.append(f"allowed to differ: {sentence}")
    return said


def compare(found: Sequence[Side], allowed: Sequence[str] = (), margin: float | None = None,
            is_chosen: Callable[[int], bool] = lambda size_bytes: True) -> list[Comparison]:
    """Every side against the first, over the sizes that are chosen. `margin` is a share, the campaign's own where None.

    Raises Incomparable for sides that measured different things, NothingInCommon for sides without a common case,
    ResultError for a run that stands on both sides.
    """
    differences = differing(found, allowed)
    baseline, *others = found
    comparisons = []
    for other in others:
        if twice := _run_ids(baseline) & _run_ids(other):
            raise ResultError(f"{min(twice)} is a run of {baseline.name} and of {other.name}: compared with itself")
        about = _about(baseline, other, allowed)
        dropped = ("library", *about)
        cases, theirs = ({key_of(case, dropped): case for case in side.cases
                          if case.status == "ok" and is_chosen(case.size_bytes)} for side in (other, baseline))
        if not theirs:
            raise ResultError(f"no case of {baseline.name} has one of these sizes")
        if not cases.keys() & theirs.keys():
            raise NothingInCommon(f"{baseline.name} and {other.name} have no case in common")
        comparison = Comparison(baseline, other, _design(baseline, other), margin or _margin(baseline), [],
                                [case for key, case in theirs.items() if key not in cases],
                                [f"{name}: {_values(baseline, name)} against {_values(other, name)}" for name in about],
                                differences)
        keys = [key for key in theirs if key in cases]
        comparison.cells = _cells(comparison, keys, [cases[key] for key in keys], dropped)
        comparison.notes = _notes(comparison)
        comparisons.append(comparison)
    return comparisons


def _run_ids(side: Side) -> set[str]:
    return {launch.result.run.run_id for launch in side.launches}


def _values(side: Side, name: str) -> str:
    return ", ".join(sorted({str(getattr(case, name)) for case in side.cases}))


def _about(baseline: Side, other: Side, allowed: Sequence[str]) -> list[str]:
    """The fields of which each side has one value, and not the same: what the comparison is about."""
    names = MAY_DIFFER + ("datatype", "redop") * ("type" in allowed)

    def of(side: Side, name: str) -> set[Any]:
        return {getattr(case, name) for case in side.cases}

    return [name for name in names
            if len(of(baseline, name)) == len(of(other, name)) == 1 and of(baseline, name) != of(other, name)]


def _design(baseline: Side, other: Side) -> str:
    campaign = baseline.campaign
    paired = campaign and other.campaign and campaign.campaign.campaign_id == other.campaign.campaign.campaign_id
    return campaign.campaign.design if campaign and paired else "once"


def _margin(baseline: Side) -> float:
    return baseline.campaign.campaign.margin if baseline.campaign else MARGIN


def _paired(comparison: Comparison, stage: str) -> list[tuple[Launch, Launch]]:
    """The pairs of a stage in order, (baseline, variant)."""
    def by_pair(side: Side) -> dict[int, Launch]:
        return {launch.pair: launch for launch in side.launches if launch.stage == stage}

    if comparison.design != "once":
        ours, theirs = by_pair(comparison.variant), by_pair(comparison.baseline)
        return [(theirs[pair], ours[pair]) for pair in sorted(ours.keys() & theirs.keys())]
    if stage != "first":
        return []
    return list(zip(comparison.baseline.launches, comparison.variant.launches, strict=False))


def _log_ratios(pairs: Sequence[tuple[Launch, Launch]], keys: Sequence[Key]) -> tuple[Floats, NDArray[np.int64]]:
    """Log ratios, (cells, pairs), and the state of the link of each, NaN and -1 where a pair has none in common.

    A pair is compared within one state that both its launches have: of several the one that the most pairs share.
    Which one is blind to times, and without a difference a ratio is even in any state.
    """
    ratios, chosen = np.full((len(keys), len(pairs)), np.nan), np.full((len(keys), len(pairs)), -1)
    for row, key in enumerate(keys):
        both = [(one.costs.get(key, {}), other.costs.get(key, {})) for one, other in pairs]
        shared = Counter(state for one, other in both for state in one.keys() & other.keys())
        for column, (one, other) in enumerate(both):
            if common := one.keys() & other.keys():
                state = max(common, key=lambda state: (shared[state], -state))
                ratios[row, column], chosen[row, column] = np.log(other[state] / one[state]), state
    return ratios, chosen


def _judge(comparison: Comparison, pairs: Sequence[tuple[Launch, Launch]], ratios: Floats,
           fresh: Floats) -> Judgement:
    manifest = comparison.baseline.campaign
    if comparison.design == "once" or not manifest:
        return once(ratios, comparison.margin)
    if comparison.design == "two-stage":
        return two_stages(ratios, fresh, comparison.margin, manifest.end is not None)
    made = max((launch.pair for launch in manifest.launches if launch.stage == "first"), default=0)
    lasts = [round(share / LOOKS[0] * manifest.campaign.pairs) for share in LOOKS]
    numbers = np.array([one.pair for one, _ in pairs])  # a pair may be lost
    return growing(ratios, [int(np.sum(numbers <= last)) for last in lasts if made >= last], comparison.margin)


def _cells(comparison: Comparison, keys: Sequence[Key], cases: Sequence[CaseHeader],
           without: Sequence[str]) -> list[Cell]:
    wrong = _wrong(comparison, without)
    stages = []
    for stage in ("first", "fresh"):
        pairs = _paired(comparison, stage)
        rtt_ns = find_costs([launch for pair in pairs for launch in pair], without)
        ratios, states = _log_ratios(pairs, keys)
        ratios[[key in wrong for key in keys]] = np.nan
        stages.append((pairs, rtt_ns, ratios, states))
    judged = _judge(comparison, stages[0][0], stages[0][2], stages[1][2])
    needed = pairs_needed(judged.shown, judged.alpha, comparison.margin)
    cells = []
    for row, (key, case) in enumerate(zip(keys, cases, strict=True)):
        shown, is_fresh = judged.shown, bool(judged.is_fresh[row])
        pairs, rtt_ns, ratios, states = stages[is_fresh]
        cell = Cell(case, Verdict(judged.verdicts[row]), int(shown.pairs[row]), is_suspect=bool(judged.is_suspect[row]),
                    is_fresh=is_fresh)
        held = Counter(states[row][np.isfinite(ratios[row])].tolist()).most_common()
        cell.states = [(rtt_ns[state], count) for state, count in held if state < len(rtt_ns)]
        if held:
            costs_us = [(one.costs[key][held[0][0]], other.costs[key][held[0][0]])
                        for (one, other), state in zip(pairs, states[row], strict=True) if state == held[0][0]]
            cell.baseline_us, cell.variant_us = (float(np.median(of_side)) for of_side in zip(*costs_us, strict=True))
            cell.ratio = float(np.exp(shown.estimate[row]))
        if np.isfinite(shown.low[row]):
            cell.low, cell.high = float(np.exp(shown.low[row])), float(np.exp(shown.high[row]))
            cell.detectable, cell.needed = float(judged.detectable[row]), float(needed[row])
        elif cell.pairs == 1:
            cell.verdict = Verdict.UNREPLICATED
        cell.note = wrong.get(key) or _cell_note(comparison, cell, len(pairs))
        cells.append(cell)
    return cells


def _wrong(comparison: Comparison, without: Sequence[str]) -> dict[Key, str]:
    """A sentence for each case that was wrong in some launch of either side: the others' times prove nothing."""
    found: dict[Key, str] = {}
    for side in (comparison.baseline, comparison.variant):
        wrong = Counter(key_of(case, without) for launch in side.launches for case in launch.result.cases
                        if case.status == "wrong")
        found |= {key: f"wrong in {count} launches of {side.name}" for key, count in wrong.items()}
    return found


def _cell_note(comparison: Comparison, cell: Cell, pairs: int) -> str | None:
    if cell.pairs < pairs:
        return f"{pairs - cell.pairs} of {pairs} pairs have no state of the link in common with enough blocks"
    if cell.is_suspect and not cell.is_fresh and comparison.design == "two-stage" and not comparison.is_control:
        return "suspect, but no fresh pairs were made"
    if 1 < cell.pairs < MIN_PAIRS:
        return f"{cell.pairs} pairs have no interval; {MIN_PAIRS} are the least"
    return None


def _notes(comparison: Comparison) -> list[str]:
    found = []
    sides_of = (comparison.baseline, comparison.variant)
    one, other = (len(side.launches) for side in sides_of)
    if comparison.design == "once" and min(one, other) > 1:
        found.append("These launches were not interleaved: what changed on the machine between them counts as well.")
        if one != other:
            found.append(f"{one} launches stand against {other}: the last {abs(one - other)} have no partner.")
    for side in sides_of:
        made = side.campaign.launches if side.campaign else []
        if died := sum((launch.variant, launch.status) == (side.variant, "died") for launch in made):
            found.append(f"{died} launches of {side.name} died and were tried again.")
    pairs = _paired(comparison, "first")
    more = evidence(np.array([[theirs.slow_share - ours.slow_share for ours, theirs in pairs]]))
    if pairs and min(more.p_slower[0], more.p_faster[0]) < SUSPECT_P / 10:
        shares = [np.mean([pair[which].slow_share for pair in pairs]) for which in (0, 1)]
        found.append(f"The link was slow, or changing, for {shares[0]:.0%} of {comparison.baseline.name}'s blocks and "
                     f"{shares[1]:.0%} of {comparison.variant.name}'s: ratios are within a state and leave that out.")
    if comparison.lacking:
        found.append(f"{len(comparison.lacking)} cases of {comparison.baseline.name} are not in "
                     f"{comparison.variant.name}.")
    return found


def suspect_sizes(folder: Path | str) -> list[int]:
    """Sizes in bytes of a campaign's suspects after its first stage, smallest first: what its fresh pairs decide."""
    return sorted({cell.case.size_bytes for comparison in _of_folder(folder) for cell in comparison.cells
                   if cell.is_suspect})


def pairs_short(folder: Path | str, pairs: int) -> int:
    """How many pairs half of a campaign's cells lack after its first stage: two launches that share no state of the
    link are no pair. That is blind to their times, so making up for it does not bend a verdict."""
    made = [cell.pairs for comparison in _of_folder(folder) for cell in comparison.cells]
    return max(0, pairs - int(np.median(made)))


def undecided(folder: Path | str) -> int:
    """How many cells of a campaign are AMBIGUOUS so far."""
    return sum(comparison.count(Verdict.AMBIGUOUS) for comparison in _of_folder(folder))


def visible_effects(baseline: Side, pairs: int, fresh: int, margin: float, cells: int) -> dict[int, float]:
    """The effect of each size in bytes, as a share, that a campaign can see; empty where it is unknown. It comes from
    the spread between launches of one variant: the standard deviation of the log of a case's median within a state of
    the link, pooled over the cases of a size."""
    import pandas as pd  # not at the top: half a second

    find_costs(baseline.launches, ())
    size = CASE_KEY.index("size_bytes")
    logs = [(key[size], str(key), state, np.log(cost_us)) for launch in baseline.launches
            for key, costs_us in launch.costs.items() for state, cost_us in costs_us.items()]
    frame = pd.DataFrame(logs, columns=["size", "case", "state", "log"])
    variances = frame.groupby(["size", "case", "state"])["log"].var().dropna()
    pooled = variances.groupby("size").mean()
    alpha = FAMILY_P if fresh else FAMILY_P / 2 / cells
    effects = visible_effect(np.sqrt(2 * pooled), pairs, fresh, margin, alpha)
    return dict(zip(pooled.index, effects.tolist(), strict=True))


def _of_folder(folder: Path | str) -> list[Comparison]:
    found, _ = sides([str(folder)])
    return [comparison for comparison in compare(found, list(COMPARABLE)) if not comparison.is_control]
