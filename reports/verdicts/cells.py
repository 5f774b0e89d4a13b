"""The cells of a comparison: a frame with a row for each case of both sides, with ratio, interval
and verdict over the pairs. Launches that no campaign paired are paired in order of time.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import numpy as np
from scipy.special import stdtrit

from reports.store.case import CASE_KEY
from reports.store.manifest import CONTROL
from reports.store.schema import CaseHeader
from reports.tables.sentences import shape_text, size_text
from reports.verdicts import verdict
from reports.verdicts.sides import Key, Launch, Side, find_costs, key_of
from reports.verdicts.verdict import MIN_PAIRS, UNREPLICATED, Floats, Integers, Judgement

if TYPE_CHECKING:
    import pandas as pd

NAMING = [name for name in CASE_KEY if name not in ("size_bytes", "algorithm", "library")]
Pair = tuple[Launch, Launch]  # (baseline, variant)


@dataclass
class Comparison:
    """A side against the baseline. `about` has a text for each field of a case in which the sides
    differ, `allowed` the differences that the user allowed; `lacking` has the baseline's cases that
    the other side lacks; `control` compares the baseline with itself.

    `cells` has a row for each `case`, and its fields; `name` is the case's name among the others
    (`case_names`), `title` its size and name. `ratio` is variant over baseline, above 1 if the
    variant takes longer; `low` and `high` bound the 95 % interval of this cell alone. `detectable`
    is as in `Judgement`; `needed` is the number of pairs that settle the cell. With `is_fresh` all
    figures are over a suspect's fresh pairs. `states` counts the pairs in each state of the link,
    (round trip in ns, pairs), the most frequent first; both times are over the pairs in that state.
    A missing figure is NaN.
    """

    baseline: Side
    variant: Side
    margin: float
    about: dict[str, str] = field(default_factory=dict)
    allowed: list[str] = field(default_factory=list)
    lacking: list[CaseHeader] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    control: Optional["Comparison"] = None
    cells: "pd.DataFrame" = field(init=False)

    @property
    def design(self) -> str:
        """`two-stage` or `grow` for sides of one campaign, otherwise `once`."""
        sides = (self.baseline.campaign, self.variant.campaign)
        heads = [manifest.campaign for manifest in sides if manifest]
        is_one = len(heads) == 2 and heads[0].campaign_id == heads[1].campaign_id
        return heads[0].design if is_one else "once"

    @property
    def without(self) -> tuple[str, ...]:
        """The fields in which a case may differ from its counterpart."""
        return ("library", *self.about)

    @property
    def is_control(self) -> bool:
        """Whether both sides are the same program, so that only the machine makes differences."""
        return self.variant.variant == CONTROL

    @property
    def pair_sd(self) -> float:
        """The spread between launches in the median cell, as a share: the standard deviation of the
        log of a launch's median, from the interval over pairs. NaN if no cell has an interval."""
        cells = self.cells
        half_widths = np.log(cells.high / cells.low) / 2 / stdtrit(cells.pairs - 1, 0.975)
        return float((half_widths * np.sqrt(cells.pairs / 2)).median())

    def pairs(self, stage: str) -> list[Pair]:
        """The pairs of a stage in order; without a campaign all pairs are in the first stage."""
        sides = self.baseline, self.variant
        if self.design == "once":
            pairs = zip(*(side.launches for side in sides), strict=False)
            return list(pairs) if stage == "first" else []
        first, second = ({launch.pair: launch for launch in side.launches if launch.stage == stage}
                         for side in sides)
        return [(first[pair], second[pair]) for pair in sorted(first.keys() & second.keys())]


class Stage(NamedTuple):
    """The pairs of a stage; the log ratio of each cell and pair within one state of the link, NaN
    without one; and for each cell `states`, `baseline_us` and `variant_us` of `Comparison`."""

    pairs: list[Pair]
    log_ratios: Floats
    times: list[tuple[list[tuple[float, int]], float, float]]


def find_cells(comparison: Comparison, cases: Mapping[Key, CaseHeader]) -> "pd.DataFrame":
    """The cells of these cases; their keys are without `comparison.without`."""
    import pandas as pd  # takes half a second

    wrong = _wrong_cases(comparison)
    keys = [() if key in wrong else key for key in cases]
    stages = [find_stage(comparison.pairs(name), keys, comparison.without)
              for name in ("first", "fresh")]
    judgement = _judge(comparison, *stages)
    shown = [stages[int(is_fresh)] for is_fresh in judgement.is_fresh]
    states, baseline_us, variant_us = zip(
        *(stage.times[row] for row, stage in enumerate(shown)), strict=True)
    names = case_names(list(cases.values()))
    columns: dict[str, Any] = {
        name: [getattr(case, name) for case in cases.values()] for name in CASE_KEY}
    cells = pd.DataFrame(columns | {
        "case": list(cases.values()), "name": names,
        "title": [f"{size_text(size)} {name}"
                  for size, name in zip(columns["size_bytes"], names, strict=True)],
        "verdict": np.where(judgement.pairs == 1, UNREPLICATED, judgement.verdict),
        "pairs": judgement.pairs, "ratio": np.exp(judgement.estimate),
        "low": np.exp(judgement.low), "high": np.exp(judgement.high),
        "baseline_us": baseline_us, "variant_us": variant_us, "detectable": judgement.detectable,
        "needed": verdict.pairs_needed(judgement, judgement.alpha, comparison.margin),
        "is_suspect": judgement.is_suspect, "is_fresh": judgement.is_fresh, "states": states})
    cells.loc[np.isinf(judgement.low), ["low", "high", "detectable", "needed"]] = np.nan
    expects_fresh = comparison.design == "two-stage" and not comparison.is_control
    cells["note"] = [wrong.get(key) or _note(cell, len(stage.pairs), expects_fresh)
                     for key, stage, cell in zip(cases, shown, cells.itertuples(), strict=True)]
    return cells


def find_stage(pairs: list[Pair], keys: Sequence[Key], without: Sequence[str]) -> Stage:
    """The ratios and times of the cases with these keys; none for an unknown key."""
    rtt_ns = find_costs([launch for pair in pairs for launch in pair], without)
    # By cell, side (baseline first), pair and state of the link.
    costs_us = np.full((len(keys), 2, len(pairs), max(len(rtt_ns), 1)), np.nan)
    for row, key in enumerate(keys):
        for column, pair in enumerate(pairs):
            for side, launch in enumerate(pair):
                for state, cost_us in launch.costs.get(key, {}).items():
                    costs_us[row, side, column, state] = cost_us
    log_ratios, states = within_one_state(np.log(costs_us[:, 1] / costs_us[:, 0]))
    times = []
    for of_cell, of_pairs in zip(costs_us, states, strict=True):
        counts = Counter(of_pairs[of_pairs >= 0].tolist()).most_common()
        trips = [(rtt_ns[state], count) for state, count in counts] if rtt_ns else []
        baseline_us = variant_us = np.nan
        for state, _ in counts[:1]:
            costs_there = of_cell[:, of_pairs == state, state]
            baseline_us, variant_us = np.median(costs_there, axis=-1).tolist()
        times.append((trips, baseline_us, variant_us))
    return Stage(pairs, log_ratios, times)


def within_one_state(log_ratios: Floats) -> tuple[Floats, Integers]:
    """The log ratio of each pair within one state that both launches have, and that state; NaN and
    -1 without one. `log_ratios` are (..., pairs, states).

    Of several states, the one that most pairs share, and of those the fastest. The choice ignores
    times, so that without a difference ratios stay symmetric.
    """
    has_state = np.isfinite(log_ratios)
    n_states = log_ratios.shape[-1]
    rank = np.sum(has_state, axis=-2, keepdims=True) - np.arange(n_states) / n_states
    states = np.argmax(np.where(has_state, rank, -1.0), axis=-1)
    ratios = np.take_along_axis(log_ratios, states[..., None], axis=-1)[..., 0]
    return ratios, np.where(np.isfinite(ratios), states, -1)


def _judge(comparison: Comparison, first: Stage, fresh: Stage) -> Judgement:
    manifest, margin = comparison.baseline.campaign, comparison.margin
    if comparison.design == "once" or not manifest:
        return verdict.once(first.log_ratios, margin)
    if comparison.design == "two-stage":
        is_finished = manifest.end is not None
        return verdict.two_stages(first.log_ratios, fresh.log_ratios, margin, is_finished)
    last = max((launch.pair for launch in manifest.launches if launch.stage == "first"), default=0)
    looks = [round(share / verdict.LOOKS[0] * manifest.campaign.pairs) for share in verdict.LOOKS]
    numbers = np.array([launch.pair for launch, _ in first.pairs])  # a pair may be missing
    columns = [int(np.sum(numbers <= look)) for look in looks if look <= last]
    return verdict.growing(first.log_ratios, columns, margin)


def case_names(cases: Sequence[CaseHeader]) -> list[str]:
    """Each case's algorithm, and the fields in which the algorithm's cases differ, without size."""
    values = defaultdict(set)
    for case in cases:
        for name in NAMING:
            values[case.algorithm, name].add(_field_text(case, name))
    names = []
    for case in cases:
        several = [name for name in NAMING if len(values[case.algorithm, name]) > 1]
        texts = [case.algorithm, *(_field_text(case, name) for name in several)]
        names.append(" ".join(filter(None, texts)))
    return names


def _field_text(case: CaseHeader, name: str) -> str:
    value = getattr(case, name)
    if name == "shape":
        return shape_text(value)
    return ("out of place", "in place")[value] if name == "in_place" else str(value)


def _wrong_cases(comparison: Comparison) -> dict[Key, str]:
    """A note for each case that was wrong in some launch: its times prove nothing."""
    notes: dict[Key, str] = {}
    for side in (comparison.baseline, comparison.variant):
        wrong = Counter(key_of(case, comparison.without) for launch in side.launches
                        for case in launch.result.cases if case.status == "wrong")
        notes |= {key: f"wrong in {count} launches of {side.name}" for key, count in wrong.items()}
    return notes


def _note(cell: Any, pairs: int, expects_fresh: bool) -> str:
    if cell.pairs < pairs:
        lost = pairs - cell.pairs
        return f"{lost} of {pairs} pairs have no state of the link in common with enough blocks"
    if cell.is_suspect and not cell.is_fresh and expects_fresh:
        return "suspect, but no fresh pairs were made"
    if 1 < cell.pairs < MIN_PAIRS:
        return f"{cell.pairs} pairs are too few for an interval, which takes {MIN_PAIRS}"
    return ""
