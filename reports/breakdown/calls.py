"""The calls of all ranks, matched one to one, and what of each is transport and what waiting.

A kernel of a collective begins when its rank arrives, and ends when the exchange is over. So the
rank that arrives last has the shortest kernel, which is transport alone; what the others take
beyond it they wait. No two ranks' clocks are compared."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from reports.breakdown.timeline import Floats, Integers, Timeline
from wiretax.common.grouped import grouped

BOUND_QUANTILE = 0.1  # of a single rank's calls: it comes last at least so often


@dataclass
class Kind:
    """Calls that may be compared: one collective of one library, of one size in one group on one
    stream. `events[r]` are the places of the calls in rank r's timeline, (ranks, calls)."""

    collective: str
    by: str
    size_bytes: int  # 0: the trace does not say
    group: str
    stream: int
    events: Integers
    duration_us: Floats  # (ranks, calls)

    @property
    def is_bound(self) -> bool:
        """Whether transport is only bounded, from above: one rank's trace."""
        return len(self.duration_us) == 1

    @property
    def transport_us(self) -> Floats:
        """(calls,): of each call the shortest kernel of all ranks."""
        if not self.is_bound:
            return np.asarray(self.duration_us.min(axis=0))
        low_us = np.quantile(self.duration_us[0], BOUND_QUANTILE)
        return np.asarray(np.minimum(self.duration_us[0], low_us))

    @property
    def waiting_us(self) -> Floats:
        """(ranks, calls): what each rank waits for the last one."""
        return np.asarray(self.duration_us - self.transport_us)


@dataclass
class Matched:
    """`kinds` have all calls that match; `mismatches` are sentences on those that do not."""

    kinds: list[Kind]
    mismatches: list[str] = field(default_factory=list)


def match(timelines: Sequence[Timeline]) -> Matched:
    """The calls of all ranks' timelines, in order. Raises ResultError for traces that are not of
    one run."""
    by_rank = [calls_of(timeline) for timeline in timelines]
    matched = Matched([])
    for key in dict.fromkeys(key for calls in by_rank for key in calls):
        found = [calls.get(key, []) for calls in by_rank]
        if len({len(events) for events in found}) > 1:
            counts = ", ".join(str(len(events)) for events in found)
            matched.mismatches.append(f"{key[0]}: the ranks have {counts} calls")
            continue
        events = np.array(found)
        duration_us = np.array(
            [
                timeline.ends_us[own] - timeline.starts_us[own]
                for timeline, own in zip(timelines, events, strict=True)
            ]
        )
        matched.kinds.append(Kind(*key, events, duration_us))
    return matched


Key = tuple[str, str, int, str, int]


def calls_of(timeline: Timeline) -> dict[Key, list[int]]:
    """The places of a rank's calls by collective, library, size, group and stream, in order."""

    def key(place: int) -> Key:
        known = timeline.known[timeline.name[place]]
        assert known
        return (
            known.collective,
            known.by,
            int(timeline.size_bytes[place]),
            timeline.groups[timeline.group[place]],
            int(timeline.stream[place]),
        )

    return grouped(np.flatnonzero(timeline.is_call).tolist(), key)
