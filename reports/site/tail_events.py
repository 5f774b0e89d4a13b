"""Tails that changed although the median did not, by the rule of `history --quantile 99`."""

from bisect import bisect_left
from dataclasses import replace

import numpy as np

from reports.tables.sentences import counted, sized
from reports.trends.changes import EDGE
from reports.trends.events import Change, Event
from reports.trends.history import History, history_of
from reports.trends.series import Series
from wiretax.record.folder import Contents
from wiretax.record.result import time_of

QUANTILE = "99"


def tail_events(contents: Contents, medians: History) -> list[Event]:
    """The changes of the P99 that no later one has replaced, the worse ones first, of the series
    whose median cost has no alarm in the same direction at about the same run."""
    twins = {_identity(series): series for series in medians.series}
    found = []
    for event in history_of(contents, QUANTILE).standing:
        own = [
            change
            for change in event.changes
            if change.series.tail and not _is_told(change, twins[_identity(change.series)])
        ]
        if own:
            found.append(replace(event, changes=own))
    return found


def _identity(series: Series) -> tuple[str | None, ...]:
    return series.machine_id, series.benchmark, series.node, series.label


def _is_told(change: Change, medians: Series) -> bool:
    at = bisect_left(medians.run_ids, change.series.run_ids[change.step.first])
    return any(
        step.word == change.step.word
        and not step.doubt
        and step.low - EDGE <= at <= step.high + EDGE
        for step in medians.steps
    )


def tail_text(event: Event) -> str:
    """`P99 of 16 KiB two_shot: 2.1x since 3 Feb 2026`."""
    names = [sized(series.case, series.name) for series, _ in event.changes]
    cases = counted(len(names), "case") if names[1:] else names[0]
    ratio = np.exp(np.median([step.log_ratio[0] for _, step in event.changes]))
    return f"{event.series.tail} of {cases}: {ratio:.2g}x since {time_of(event.run):%-d %b %Y}"
