"""The cells of a comparison: cases of both sides with ratio, interval and verdict over the pairs.

Launches that no campaign paired are paired in order of time.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reports.store.case import CASE_KEY
from reports.store.manifest import CONTROL
from reports.store.schema import CaseHeader
from reports.tables.sentences import shape_text, size_text
from reports.verdicts.sides import Key, Launch, Side, find_costs, key_of
from reports.verdicts.verdict import (
    LOOKS,
    MIN_PAIRS,
    Floats,
    Judgement,
    Verdict,
    growing,
    once,
    pairs_needed,
    two_stages,
)

NAMING = [name for name in CASE_KEY if name not in ("size_bytes", "algorithm", "library")]
Pair = tuple[Launch, Launch]  # (baseline, variant)


@dataclass
class Cell:
    """One case on both sides. Ratios are variant over baseline, above 1 if the variant takes
    longer; `low` and `high` bound the 95 % interval of this cell alone, None with too few pairs.

    `detectable` is the effect that would be called with power 0.8, in an AMBIGUOUS cell at least
    the far end of the interval; `needed` is the number of pairs that settle the cell. With
    `is_fresh` all figures are over a suspect's fresh pairs. `states` counts the pairs in each state
    of the link, (round trip in ns, pairs), the most frequent first; both times are over the pairs
    in that state. `name` is the case's name among the others (`case_names`).
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
    name: str = ""

    @property
    def title(self) -> str:
        """Size and name, such as `16 KiB two_shot`."""
        return f"{size_text(self.case.size_bytes)} {self.name}"


@dataclass
class StagePairs:
    """The pairs of a stage, with the round trip of each state of the link. Of each cell and pair,
    (cells, pairs): the log ratio, and the state that it is from; NaN and -1 without a ratio."""

    pairs: list[Pair]
    rtt_ns: list[float]
    log_ratios: Floats
    states: NDArray[np.int64]


def find_cells(baseline: Side, variant: Side, design: str, margin: float,
               cases: Mapping[Key, CaseHeader], without: Sequence[str]) -> list[Cell]:
    """A cell for each of these cases; their keys are `without` some fields."""
    wrong = _wrong_cases((baseline, variant), without)
    stages = []
    for name in ("first", "fresh"):
        pairs = pair_launches(baseline, variant, design, name)
        rtt_ns = find_costs([launch for pair in pairs for launch in pair], without)
        ratios, states = log_ratios(pairs, list(cases))
        is_wrong = [key in wrong for key in cases]
        ratios[is_wrong], states[is_wrong] = np.nan, -1
        stages.append(StagePairs(pairs, rtt_ns, ratios, states))
    judgement = _judge(baseline, design, margin, *stages)
    needed = pairs_needed(judgement.shown, judgement.alpha, margin)
    expects_fresh = design == "two-stage" and variant.variant != CONTROL
    names = case_names(list(cases.values()))
    cells = []
    for row, (key, case) in enumerate(cases.items()):
        stage = stages[int(judgement.is_fresh[row])]
        cell = _cell(judgement, needed, row, case)
        cell.name = names[row]
        _add_times(cell, stage, row, key)
        cell.note = wrong.get(key) or _note(cell, len(stage.pairs), expects_fresh)
        cells.append(cell)
    return cells


def pair_launches(baseline: Side, variant: Side, design: str, stage: str) -> list[Pair]:
    """The pairs of a stage in order; without a campaign all pairs are in the first stage."""
    if design == "once":
        pairs = zip(baseline.launches, variant.launches, strict=False)
        return list(pairs) if stage == "first" else []
    first, second = ({launch.pair: launch for launch in side.launches if launch.stage == stage}
                     for side in (baseline, variant))
    return [(first[pair], second[pair]) for pair in sorted(first.keys() & second.keys())]


def log_ratios(pairs: Sequence[Pair], keys: Sequence[Key]) -> tuple[Floats, NDArray[np.int64]]:
    """The log ratios and their states of the link, as in `StagePairs`.

    A pair is compared within one state that both launches have: of several, the one that most pairs
    share. The choice ignores times, so that without a difference ratios stay symmetric.
    """
    ratios = np.full((len(keys), len(pairs)), np.nan)
    states = np.full((len(keys), len(pairs)), -1)
    for row, key in enumerate(keys):
        costs_us = [[launch.costs.get(key, {}) for launch in pair] for pair in pairs]
        common = [first.keys() & second.keys() for first, second in costs_us]
        counts = Counter(state for in_common in common for state in in_common)
        for column, in_common in enumerate(common):
            if in_common:
                state = max(in_common, key=lambda state: (counts[state], -state))
                first_us, second_us = (by_state[state] for by_state in costs_us[column])
                ratios[row, column] = np.log(second_us / first_us)
                states[row, column] = state
    return ratios, states


def _judge(baseline: Side, design: str, margin: float, first: StagePairs,
           fresh: StagePairs) -> Judgement:
    manifest = baseline.campaign
    if design == "once" or not manifest:
        return once(first.log_ratios, margin)
    if design == "two-stage":
        is_finished = manifest.end is not None
        return two_stages(first.log_ratios, fresh.log_ratios, margin, is_finished)
    last = max((launch.pair for launch in manifest.launches if launch.stage == "first"), default=0)
    looks = [round(share / LOOKS[0] * manifest.campaign.pairs) for share in LOOKS]
    numbers = np.array([launch.pair for launch, _ in first.pairs])  # a pair may be missing
    columns = [int(np.sum(numbers <= look)) for look in looks if look <= last]
    return growing(first.log_ratios, columns, margin)


def _cell(judgement: Judgement, needed: Floats, row: int, case: CaseHeader) -> Cell:
    shown = judgement.shown
    cell = Cell(case, Verdict(judgement.verdicts[row]), int(shown.pairs[row]),
                is_suspect=bool(judgement.is_suspect[row]), is_fresh=bool(judgement.is_fresh[row]))
    if cell.pairs:
        cell.ratio = float(np.exp(shown.estimate[row]))
    if np.isfinite(shown.low[row]):
        cell.low, cell.high = float(np.exp(shown.low[row])), float(np.exp(shown.high[row]))
        cell.detectable, cell.needed = float(judgement.detectable[row]), float(needed[row])
    elif cell.pairs == 1:
        cell.verdict = Verdict.UNREPLICATED
    return cell


def _add_times(cell: Cell, stage: StagePairs, row: int, key: Key) -> None:
    """Counts the states of a cell's pairs; its times are over the pairs in the most frequent."""
    states = stage.states[row].tolist()
    counts = Counter(state for state in states if state >= 0).most_common()
    cell.states = [(stage.rtt_ns[state], pairs) for state, pairs in counts
                   if state < len(stage.rtt_ns)]
    if counts:
        common = counts[0][0]
        costs_us = [[launch.costs[key][common] for launch in pair]
                    for pair, state in zip(stage.pairs, states, strict=True) if state == common]
        cell.baseline_us, cell.variant_us = np.median(costs_us, axis=0).tolist()


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


def _wrong_cases(sides: Iterable[Side], without: Sequence[str]) -> dict[Key, str]:
    """A note for each case that was wrong in some launch: its times prove nothing."""
    notes: dict[Key, str] = {}
    for side in sides:
        wrong = Counter(key_of(case, without) for launch in side.launches
                        for case in launch.result.cases if case.status == "wrong")
        notes |= {key: f"wrong in {count} launches of {side.name}" for key, count in wrong.items()}
    return notes


def _note(cell: Cell, pairs: int, expects_fresh: bool) -> str | None:
    if cell.pairs < pairs:
        lost = pairs - cell.pairs
        return f"{lost} of {pairs} pairs have no state of the link in common with enough blocks"
    if cell.is_suspect and not cell.is_fresh and expects_fresh:
        return "suspect, but no fresh pairs were made"
    if 1 < cell.pairs < MIN_PAIRS:
        return f"{cell.pairs} pairs are too few for an interval, which takes {MIN_PAIRS}"
    return None
