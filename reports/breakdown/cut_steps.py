"""Cuts a rank's timeline into steps: of decode a step makes a token."""

from dataclasses import dataclass

import numpy as np

from reports.breakdown.timeline import Floats, Timeline


@dataclass
class Steps:
    """The edges of a rank's steps in us, (steps + 1,), and how they were found, in words."""

    edges_us: Floats
    found_by: str


def steps_of(timeline: Timeline) -> Steps:
    """A step lasts from its own begin to the next one's. Without annotations the whole trace is
    one."""
    starts = sorted(each.start_us for each in timeline.annotations if "Step#" in each.name)
    if not starts:
        return Steps(np.array([timeline.starts_us[0], timeline.ends_us.max()]), "the whole trace")
    return Steps(np.array([*starts, timeline.ends_us.max()]), "annotations")
