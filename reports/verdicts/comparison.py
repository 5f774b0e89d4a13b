"""Compares sides: `compare` holds each against the first, cell by cell; `COMPARABLE` lists the
facts that all sides must share. A campaign asks here for its suspects and its visible effect.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.store.case import CASE_KEY
from reports.store.result import ResultError
from reports.store.schema import Result
from reports.verdicts import verdict
from reports.verdicts.cells import Comparison, find_cells
from reports.verdicts.sides import Side, find_costs, key_of, read_sides

if TYPE_CHECKING:
    import pandas as pd

# Fields of a case's key in which two sides may differ: the comparison is then about that field.
MAY_DIFFER = ("algorithm", "variant", "memory", "in_place")


class Incomparable(ResultError):
    """Sides that measured different things; the message names the key."""

    exit_status = 4


class NothingInCommon(ResultError):
    """Comparable sides without a common case."""


def _fact(result: Result, name: str) -> Any:
    fact = result.run.environment.get(name)
    return fact.get("value") if isinstance(fact, dict) else fact


# The facts that must be equal on all sides, by their names in --allow.
COMPARABLE: dict[str, Callable[[Result], Any]] = {
    "machine": lambda result: result.run.machine_id,
    "clock": lambda result: (result.run.clock_shared, _fact(result, "cpu.governor"),
                             _fact(result, "cpu.turbo")),
    "world": lambda result: (
        result.run.world["size"], result.run.world.get("hosts", 1),
        sorted(str(tuple(map(rank.get, ("device", "arch", "gpu"))))
               for rank in result.run.world.get("ranks", []))),
    "type": lambda result: sorted({(case.datatype, case.redop) for case in result.run.cases}),
    "statistic": lambda result: (result.run.benchmark, result.run.world.get("dispatch", "native"),
                                 sorted({case.across_ranks for case in result.cases})),
    "version": lambda result: result.run.version,
}


def differing(sides: Sequence[Side], allowed: Sequence[str]) -> list[str]:
    """Sentences on allowed differences. Raises Incomparable for a difference not allowed."""
    sentences = []
    for name, read_fact in COMPARABLE.items():
        side_names: dict[str, str] = {}
        for side in sides:
            for launch in side.launches:
                side_names.setdefault(str(read_fact(launch.result)), side.name)
        if len(side_names) > 1:
            texts = [f"{fact} ({side_name})" for fact, side_name in side_names.items()]
            sentence = f"{name} differs: {texts[0]} and {texts[1]}"
            if name not in allowed:
                raise Incomparable(f"not comparable: {sentence}; --allow {name} compares anyway")
            sentences.append(f"allowed to differ: {sentence}")
    return sentences


def compare(sides: Sequence[Side], allowed: Sequence[str] = (), margin: float | None = None,
            is_chosen: Callable[[int], bool] = lambda size_bytes: True) -> list[Comparison]:
    """Every side against the first, over the chosen sizes. `margin` is a share, by default the
    campaign's.

    Raises Incomparable for sides that measured different things, NothingInCommon for sides without
    a common case, ResultError for a run that is on both sides.
    """
    differences = differing(sides, allowed)
    baseline, *variants = sides
    if margin is None:
        margin = baseline.campaign.campaign.margin if baseline.campaign else verdict.MARGIN
    comparisons = [Comparison(baseline, variant, margin, _about(baseline, variant, allowed),
                              differences) for variant in variants]
    control = next((each for each in comparisons if each.is_control), None)
    for comparison in comparisons:
        comparison.control = None if comparison is control else control
        _fill(comparison, is_chosen)
    return comparisons


def _fill(comparison: Comparison, is_chosen: Callable[[int], bool]) -> None:
    """Adds the cells and the notes."""
    baseline, variant = comparison.baseline, comparison.variant
    runs = [{launch.result.run.run_id for launch in side.launches} for side in (baseline, variant)]
    if both := set.intersection(*runs):
        raise ResultError(f"{min(both)} is a run of {baseline.name} and of {variant.name}: "
                          "compared with itself")
    theirs, ours = ({key_of(case, comparison.without): case for case in side.cases
                     if case.status == "ok" and is_chosen(case.size_bytes)}
                    for side in (baseline, variant))
    if not theirs:
        raise ResultError(f"no case of {baseline.name} has one of these sizes")
    common = {key: ours[key] for key in theirs if key in ours}
    if not common:
        raise NothingInCommon(f"{baseline.name} and {variant.name} have no case in common")
    comparison.lacking = [case for key, case in theirs.items() if key not in ours]
    comparison.cells = find_cells(comparison, common)
    comparison.notes = _notes(comparison)


def _about(baseline: Side, variant: Side, allowed: Sequence[str]) -> dict[str, str]:
    """A text for each field that has a single value on each side and differs between them."""
    texts = {}
    for name in MAY_DIFFER + ("datatype", "redop") * ("type" in allowed):
        ours, theirs = ({str(getattr(case, name)) for case in side.cases}
                        for side in (baseline, variant))
        if len(ours) == len(theirs) == 1 and ours != theirs:
            texts[name] = f"{name}: {min(ours)} against {min(theirs)}"
    return texts


def _notes(comparison: Comparison) -> list[str]:
    baseline, variant, notes = comparison.baseline, comparison.variant, []
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
    slow = np.array([[launch.slow_share for launch in pair] for pair in comparison.pairs("first")])
    slow = slow.reshape(-1, 2)
    excess = verdict.evidence(slow[None, :, 1] - slow[None, :, 0])
    if min(excess.p_slower[0], excess.p_faster[0]) < verdict.SUSPECT_P / 10:
        shares = slow.mean(axis=0)
        notes.append(f"The link was slow, or changing, for {shares[0]:.0%} of {baseline.name}'s "
                     f"blocks and {shares[1]:.0%} of {variant.name}'s: ratios are within one state "
                     "and leave that out.")
    if comparison.lacking:
        notes.append(f"{len(comparison.lacking)} cases of {baseline.name} are not in "
                     f"{variant.name}.")
    return notes


def suspect_sizes(folder: Path | str) -> list[int]:
    """The sizes in bytes that a campaign's fresh pairs measure: its suspects after stage one."""
    cells = _cells_of(folder)
    return sorted(set(cells.size_bytes[cells.is_suspect].tolist()))


def pairs_short(folder: Path | str, pairs: int) -> int:
    """How many pairs the median cell of a campaign lacks after its first stage, because launches
    shared no state of the link. It ignores times, so more pairs do not bias a verdict."""
    return max(0, pairs - int(_cells_of(folder).pairs.median()))


def undecided(folder: Path | str) -> int:
    """The number of AMBIGUOUS cells of a campaign so far."""
    return int((_cells_of(folder).verdict == verdict.AMBIGUOUS).sum())


def _cells_of(folder: Path | str) -> "pd.DataFrame":
    """The cells of a campaign without its control."""
    import pandas as pd

    comparisons = compare(read_sides([str(folder)]), list(COMPARABLE))
    return pd.concat(comparison.cells for comparison in comparisons if not comparison.is_control)


def visible_effects(baseline: Side, pairs: int, fresh: int, margin: float,
                    cells: int) -> dict[int, float]:
    """The effect that a campaign can see at each size in bytes, as a share; empty if unknown.

    It follows from the spread between launches of one variant: the standard deviation of the log of
    a case's median within a state of the link, pooled over the cases of a size.
    """
    import pandas as pd  # takes half a second

    find_costs(baseline.launches, ())
    size = CASE_KEY.index("size_bytes")
    logs = [(key[size], str(key), state, np.log(cost_us)) for launch in baseline.launches
            for key, costs_us in launch.costs.items() for state, cost_us in costs_us.items()]
    frame = pd.DataFrame(logs, columns=["size", "case", "state", "log"])
    variances = frame.groupby(["size", "case", "state"])["log"].var().dropna()
    pooled = variances.groupby("size").mean()
    alpha = verdict.FAMILY_P if fresh else verdict.FAMILY_P / 2 / cells
    effects = verdict.visible_effect(np.sqrt(2 * pooled), pairs, fresh, margin, alpha)
    return dict(zip(pooled.index, effects.tolist(), strict=True))
