"""The link's state over runs. Runs in unlike states of the link are not compared: each state has
series of its own. A change of the state that lasts two runs is a change of the history, and an
alarm."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import ArrayLike

from reports.tables.sentences import counted
from reports.trends.changes import LEAST_BASE, SUSPECT, LevelChange
from reports.trends.series import FLAG, Series, label_of, place_of, point_of
from reports.trends.step_test import SPELL_RUNS, neighbours
from reports.verdicts.verdict import Floats
from wiretax.common.grouped import grouped
from wiretax.record.blocks import main_state
from wiretax.record.observations import Entry, costs_of
from wiretax.record.schema import CaseHeader

# A link that changed more often than this within so many runs is restless, as between the cores of
# some virtual machines: a change of it counts only if it lasts for SPELL_RUNS.
MOST_CHANGES, RESTLESS_RUNS = 3, 30
NEAR_RUNS = 8  # on either side of a change


def states_in(trips_ns: Floats) -> Floats:
    """The states of the link that these round trips show, that of most runs first, each by its
    median round trip. All are above 0."""
    states, rest = list[float](), np.array(trips_ns, dtype=float)
    while len(rest):
        rtt_ns, is_near = main_state(rest)
        states.append(rtt_ns)
        rest = rest[~is_near]

    return np.array(states)


def nearest(trips_ns: ArrayLike, states: Floats) -> Floats:
    """The nearest of these states for each round trip."""
    distances = np.abs(np.log(np.divide.outer(np.asarray(trips_ns), states)))
    return np.asarray(states[np.argmin(distances, axis=-1)])


class Link(NamedTuple):
    """The state of a link over runs that were measured alike."""

    series: Series | None  # its round trips, if the state changed
    states: Floats  # round trips in ns, that of most runs first; none without probes
    current: float  # the state that it is in; 0 without probes


def changes_of(states: Floats) -> tuple[dict[int, str], float]:
    """The first runs of states that last two runs or, with a doubt, that the newest run alone is
    in; and the newest state that lasted, or else the one of most runs."""
    firsts, current = list[int](), 0.0
    for at, (state, following) in enumerate(pairwise(states.tolist())):
        if state == following != current:
            if current:
                firsts.append(at)
            current = state
    last = len(states) - 1
    current = current or main_state(states)[0]
    if states[last] != current:
        firsts.append(last)

    def is_news(first: int, stop: int) -> bool:
        near = sum(first - RESTLESS_RUNS < other <= first for other in firsts)
        return near <= MOST_CHANGES or stop - first >= SPELL_RUNS

    ends = pairwise([*firsts, last + 1])
    return {
        first: SUSPECT if first == last else "" for first, stop in ends if is_news(first, stop)
    }, current


def link_of(entries: Sequence[Entry], variant: str) -> Link:
    """The link by the round trips of a flag in runs that were measured alike."""
    points = grouped(entries, lambda entry: point_of(entry, variant)).values()
    trips = [main_state([entry.rtt_ns for entry in own])[0] for own in points]
    probed = {own[0].run.run_id: trip for own, trip in zip(points, trips, strict=True) if trip}
    if not probed:
        return Link(None, np.empty(0), 0.0)

    run, trips_ns = entries[-1].run, np.array([*probed.values()])
    states = states_in(trips_ns)
    doubts, current = changes_of(nearest(trips_ns, states))
    if not doubts:
        return Link(None, states, current)

    steps = []
    for start, first, stop in neighbours(doubts, len(trips_ns)):
        before, after = np.log(trips_ns[start:first]), np.log(trips_ns[first:stop])
        # A state is a factor apart: no interval says how sure that is.
        log_ratio = np.array([np.median(after) - np.median(before), np.nan, np.nan])
        steps.append(LevelChange(first, first, first, log_ratio, doubts[first]))

    case = CaseHeader(
        collective=FLAG, algorithm=FLAG, size_bytes=0, count=0, datatype="-", redop="-"
    )
    label = label_of("flag round trip", variant)
    series = Series(
        label=label,
        chart=label,
        name=FLAG,
        case=case,
        machine_id=run.machine_id,
        benchmark=run.benchmark,
        node=run.node,
        place=place_of(run),
        run_ids=[*probed],
        costs_us=trips_ns / 1e3,
        steps=steps,
    )
    return Link(series, states, current)


def by_state(entries: Sequence[Entry], link: Link) -> tuple[dict[str, list[Entry]], list[str]]:
    """`{label: runs}` of each state of the link with enough runs to be searched for changes; "" is
    the current state, first; then notes on the others. A run without a probe is in the current
    state."""
    current = link.current

    def state_of(entry: Entry) -> float:
        return float(nearest(entry.rtt_ns, link.states)) if entry.rtt_ns else current

    runs_in = grouped(entries, state_of)
    groups, notes = {"": runs_in.get(current, [])}, []
    for state in link.states[link.states != current].tolist():
        own = runs_in.get(state, [])
        what = "are left out"
        if len(own) > LEAST_BASE:
            what = f"are compared with each other alone, as `link {state:.0f} ns`"
            groups[f"link {state:.0f} ns"] = own
        notes.append(
            f"{len(own)} of {len(entries)} runs {what}: their link was in another state, with a "
            f"flag's round trip of {state:.0f} ns instead of {current:.0f} ns"
        )

    return groups, notes


def cost_beside(entries: Sequence[Entry], before: str, first: str) -> list[str]:
    """By how much the median case takes longer from the run `first` on than up to the run `before`,
    over eight runs each, in a sentence; or none without common cases."""
    run_ids = [entry.run.run_id for entry in entries]
    costs_us, _ = costs_of(entries)
    last, start = run_ids.index(before) + 1, run_ids.index(first)
    sides = costs_us[max(last - NEAR_RUNS, 0) : last], costs_us[start : start + NEAR_RUNS]
    with np.errstate(all="ignore"), catch_warnings():
        simplefilter("ignore", RuntimeWarning)  # of cases without a cost
        earlier, later = (np.nanmedian(np.log(costs), axis=0) for costs in sides)
    change = (later - earlier)[np.isfinite(later - earlier)]
    if not len(change):
        return []
    share = np.expm1(np.median(change))
    return [f"There the median of {counted(len(change), 'case')} changes by {share:+.1%}."]
