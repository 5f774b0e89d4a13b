"""How long a device has nothing to do directly beside its calls, as at the boundaries of graphs."""

import numpy as np

from reports.breakdown.timeline import Floats, Timeline


def idle_beside(timeline: Timeline) -> Floats:
    """Of each event in us, (n,), 0 of what is no call. A gap before a call is that call's; a gap
    before other work is that of the last call, if nothing began between its end and the gap."""
    starts_us, is_call = timeline.starts_us, timeline.is_call
    n = len(starts_us)
    gaps_us = np.maximum(starts_us[1:] - np.maximum.accumulate(timeline.ends_us)[:-1], 0)
    last_call = np.maximum.accumulate(np.where(is_call, np.arange(n), 0))[:-1]
    is_behind = is_call[last_call] & (starts_us[:-1] < timeline.ends_us[last_call])
    beside = np.where(is_call[1:], np.arange(1, n), last_call)
    gaps_us = np.where(is_behind | is_call[1:], gaps_us, 0.0)
    return np.bincount(beside, gaps_us, n).astype(np.float64)
