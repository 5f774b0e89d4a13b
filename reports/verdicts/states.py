"""The states of the link in the pairs of a comparison.

Two launches in different states are no pair: the state changes every time. But if the state goes
with the side, its code or its command changed the flags; then the pairs are judged."""

from typing import NamedTuple

import numpy as np
from scipy.special import bdtr

from reports.tables.sentences import counted
from reports.verdicts.days import other_entries
from reports.verdicts.sides import Pair, Side, is_interleaved, pairs_of
from reports.verdicts.verdict import Bools, Floats, evidence
from wiretax.record.blocks import STATE_RATIO, same_state

SIDE_P = 0.035  # two-sided: six pairs that agree are enough (0.031)


class JudgedPairs(NamedTuple):
    """The pairs that can be judged; and a sentence on flags that are slower or faster with the
    side, or on pairs that are left out."""

    pairs: list[Pair]
    finding: str = ""
    left_out: str = ""


def judged_pairs(baseline: Side, variant: Side) -> JudgedPairs:
    """Of the pairs of these sides those that can be judged."""
    both, in_turn = pairs_of(baseline, variant), is_interleaved(baseline, variant)
    trips_ns = np.array([[launch.counted.rtt_ns for launch in pair] for pair in both])
    trips_ns = np.where(trips_ns > 0, trips_ns, np.nan).reshape(-1, 2)  # 0 without probes
    log_trips = np.log(trips_ns[:, 1] / trips_ns[:, 0])
    shift = shift_of(log_trips)
    varies = shift != 0 and not in_turn and changes_by_itself(baseline, variant)
    if varies:
        shift = 0.0  # which is chance, and not the variant's
    is_judged = ~is_apart(log_trips, shift)
    pairs = [pair for pair, judged in zip(both, is_judged, strict=True) if judged]

    finding = left_out = ""
    if shift:
        base_ns, variant_ns = np.nanmedian(trips_ns, axis=0)
        cause = "" if in_turn else ", by machine or code"
        finding = (
            f"a flag's round trip is {np.exp(shift):.2f} times as long{cause}: "
            f"{variant_ns:.0f} ns in {variant.label}, {base_ns:.0f} ns in {baseline.label}"
        )
    if n_apart := len(both) - len(pairs):
        left_out = f"{counted(n_apart, 'pair')} left out: between their launches the link changed"
        left_out += " its state, as it does between runs of one side" if varies else " its state"
    return JudgedPairs(pairs, finding, left_out)


def shift_of(log_trips: Floats) -> float:
    """By how much the variant's flags are slower, as a log: 0 if all pairs share a state, or if the
    states do not go with the side. `log_trips` are the logs of the variant's round trip over the
    baseline's, one for each pair. A state that has nothing to do with the side makes the variant
    the slower one in half of the pairs that differ, whatever the machine does, since the order in
    a pair is random: the sign test (Dixon and Mood, Journal of the American Statistical Association
    41, 1946). The median of all pairs is the shift, so that a machine that also changes its state
    does not move it."""
    apart = log_trips[is_apart(log_trips)]
    n_slower = int(np.sum(apart > 0))
    if 2 * bdtr(min(n_slower, len(apart) - n_slower), len(apart), 0.5) >= SIDE_P:
        return 0.0
    return float(evidence(log_trips[None]).log_ratio[0])


def is_apart(log_trips: Floats, shift: float = 0.0) -> Bools:
    """Which pairs do not share a state of the link, but for this shift of the variant."""
    return np.asarray(np.abs(log_trips - shift) > np.log(STATE_RATIO))


def changes_by_itself(baseline: Side, variant: Side) -> bool:
    """Whether launches that did not run in turn show that the state depends on more than the side:
    it changes between the variant's launches, or more than once from the baseline's and the other
    runs of their folders, in order of time, to the variant's."""
    own = {launch.run.run_id: launch.counted.rtt_ns for launch in variant.launches}
    others = {launch.run.run_id: launch.counted.rtt_ns for launch in baseline.launches}
    others |= {entry.run.run_id: entry.rtt_ns for entry in other_entries(baseline, variant)}
    ours, theirs = ([side[run_id] for run_id in sorted(side)] for side in (own, others))
    return is_mixed(np.array(theirs), np.array(ours))


def is_mixed(others_ns: Floats, own_ns: Floats) -> bool:
    """Whether these round trips of the variant's launches, and of the runs that are none, each in
    order of time, differ by more than one change of state."""
    own_ns, others_ns = own_ns[own_ns > 0], others_ns[others_ns > 0]
    return changes_of(own_ns) > 0 or changes_of(np.append(others_ns, np.median(own_ns))) > 1


def changes_of(trips_ns: Floats) -> int:
    """How often these round trips, in order of time, pass from one state to another."""
    return int(np.sum(~same_state(trips_ns[1:], trips_ns[:-1])))
