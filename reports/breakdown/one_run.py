"""Whether traces are of the ranks of one run, and what their clocks say. Clocks serve no figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reports.breakdown.cut_steps import ROUNDED_US
from reports.breakdown.timeline import Booleans, Integers, Timeline
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError

if TYPE_CHECKING:
    from reports.breakdown.calls import Kind

LEAST_COMMON = 0.5  # of the kernels' names
RAGGED = "send_recv", "all_to_all"  # whose size each rank has for itself
# Whose kernels end together, for each rank needs all others; threads of gloo end when they may run.
TOGETHER = "all_reduce", "all_gather"
LEAST_CALLS = 20  # whose ends tell whether they are the same calls
MOST_PACE = 0.01  # that a clock may gain; in truth they gain a hundredth of that


class NotOneRun(ResultError):
    """Traces that cannot be compared with each other."""

    exit_status = 4


def in_order(timelines: Sequence[Timeline]) -> list[Timeline]:
    """The timelines by their ranks, or as given if a trace does not say its rank. Raises NotOneRun
    for traces that are not of the ranks of one run."""
    first, ranks = timelines[0], [each.rank for each in timelines]
    for each in timelines:
        if each.ranks and first.ranks and each.ranks != first.ranks:
            other = f"{printable(each.source)} of {each.ranks}"
            raise refused(first, f"is of {first.ranks} ranks and {other}")
        if each.rank is not None and ranks.count(each.rank) > 1:
            raise refused(each, f"is of rank {each.rank}, as another trace")
    if first.ranks and len(timelines) > first.ranks:
        raise refused(first, f"is of {first.ranks} ranks, fewer than the {len(timelines)} traces")
    return [*timelines] if None in ranks else sorted(timelines, key=lambda each: each.rank or 0)


def refused(timeline: Timeline, why: str) -> NotOneRun:
    return NotOneRun(f"the traces cannot be compared: {printable(timeline.source)} {why}")


def kernels_of(timeline: Timeline) -> set[str]:
    """The names of what is no call."""
    return {timeline.texts[name] for name in np.unique(timeline.name[~timeline.is_call])}


def remarks(timelines: Sequence[Timeline], kinds: Sequence["Kind"]) -> list[str]:
    """Sentences on what makes the comparison doubtful: other cards, other kernels, missing ranks,
    clocks. Raises NotOneRun if the calls cannot be the same."""
    first, said = timelines[0], list[str]()
    devices = [*dict.fromkeys(printable(each.device) for each in timelines if each.device)]
    if len(devices) > 1:
        said.append(f"The ranks have different devices: {', '.join(devices)}.")
    for each in timelines:
        n_works = n_early(each, np.ones(len(each.name), bool), each.stream)
        if n_works and each.device:
            begin = f"{n_works} works that begin while their stream runs another"
            said.append(f"{printable(each.source)} has {begin}: its times are wrong.")
        n_calls = n_early(each, each.is_call, np.zeros_like(each.stream))
        if n_calls > n_works:
            begin = f"{n_calls} calls that begin while another runs"
            counts = "each has its whole time, and a step has that time once"
            said.append(f"{printable(each.source)} has {begin}: {counts}.")
    exact = [kind for kind in kinds if kind.collective in TOGETHER and kind.by != "gloo"]
    for rank, each in enumerate(timelines[1:], 1):
        own, others = kernels_of(first), kernels_of(each)
        n_common, n_all = len(own & others), len(own | others)
        if n_common < LEAST_COMMON * n_all:
            shares = f"shares {n_common} of {n_all} kernels with {printable(first.source)}"
            said.append(f"{printable(each.source)} {shares}: are they of one run?")
        said += check_calls(first, each, [(kind.events[0], kind.events[rank]) for kind in exact])
    if not kinds and max(len(timelines), first.ranks or 1) > 1:
        said.append(
            "Several ranks without a collective: if a kernel of another name is one, --collective "
            "REGEX adds it."
        )
    for collective in dict.fromkeys(kind.collective for kind in kinds):
        if collective in (*RAGGED, "dispatch", "combine"):
            said.append(
                f"A rank that exchanges less in {collective} is done earlier: what others wait "
                "contains what they move more."
            )
    if len(timelines) > 1 and any(kind.is_bound for kind in kinds):
        said.append(
            f"{len(timelines)} traces are fewer than the group has ranks: another rank may come"
            " last, and transport is at most the figure."
        )
    return said


def n_early(timeline: Timeline, chosen: Booleans, stream: Integers) -> int:
    """How many of the chosen works begin before the one before them on their stream has ended."""
    order = np.lexsort((timeline.starts_us, stream))
    order = order[chosen[order]]
    left_us = timeline.ends_us[order][:-1] - timeline.starts_us[order][1:]
    return int(((left_us > ROUNDED_US) & (np.diff(stream[order]) == 0)).sum())


def check_calls(
    first: Timeline, other: Timeline, calls: Sequence[tuple[Integers, Integers]]
) -> list[str]:
    """A sentence if the clocks of two ranks are apart, by the same calls at these places in both.
    Raises NotOneRun if the calls cannot be the same: their ends are no further apart than their
    transport, but for the clocks, which may differ and drift."""
    if not calls:
        return []
    own, others = np.concatenate(calls, axis=1)
    begins_us, others_begin_us = first.starts_us[own], other.starts_us[others]
    ends_us, others_end_us = first.ends_us[own], other.ends_us[others]
    apart_us = (others_end_us - ends_us)[np.argsort(ends_us)]
    pace = (apart_us[-1] - apart_us[0]) / max(np.ptp(ends_us), ROUNDED_US)
    moves_us = np.abs(np.diff(apart_us))
    lasts_us = np.minimum(ends_us - begins_us, others_end_us - others_begin_us)
    if len(own) >= LEAST_CALLS and (
        np.median(moves_us) > np.median(lasts_us) or abs(pace) > MOST_PACE
    ):
        raise refused(
            other,
            f"has calls that end at other times than those of {printable(first.source)}: they are "
            "of other steps, in nanoseconds, or of another group, whose traces are to be given "
            "alone",
        )
    is_apart = (others_begin_us > ends_us) | (begins_us > others_end_us)
    if not is_apart.any():
        return []
    return [
        f"By its clock {printable(other.source)} has {is_apart.sum()} of {len(own)} calls before "
        f"or after the first rank's: the clocks are {np.median(apart_us) / 1e6:+.6f} s apart, or "
        "the steps are others. No figure compares clocks."
    ]
