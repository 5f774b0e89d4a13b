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
        check_calls(first, each, [(kind.events[0], kind.events[rank]) for kind in exact])
        said += clock_remarks(timelines, rank, kinds)
    if not kinds and max(len(timelines), first.ranks or 1) > 1:
        said.append(
            "Several ranks without a collective: if a kernel of another name is one, --collective "
            "REGEX adds it."
        )
    for collective in dict.fromkeys(kind.collective for kind in kinds):
        if collective in RAGGED:
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
) -> None:
    """Raises NotOneRun if the calls of two ranks, at these places in both, cannot be the same. Ends
    of the same one are no further apart than its transport, but for the clocks, which may differ
    and drift."""
    if not calls:
        return
    own, others = np.concatenate(calls, axis=1)
    own_us, others_us = first.ends_us[own], other.ends_us[others]
    if len(own) < LEAST_CALLS or not np.ptp(own_us):
        return
    lasts_us = np.minimum(own_us - first.starts_us[own], others_us - other.starts_us[others])
    in_time = np.argsort(own_us)
    apart_us = (others_us - own_us)[in_time]
    pace = apart_us[-1] - apart_us[0]
    moves_us = float(np.median(np.abs(np.diff(apart_us))))
    if moves_us > np.median(lasts_us) or abs(pace) > MOST_PACE * np.ptp(own_us):
        raise refused(
            other,
            f"has calls that end at other times than those of {printable(first.source)}: they are "
            "of other steps, in nanoseconds, or of another group, whose traces are to be given "
            "alone",
        )


def clock_remarks(timelines: Sequence[Timeline], rank: int, kinds: Sequence["Kind"]) -> list[str]:
    """Of calls whose kernels end almost together in truth, for each rank needs what all have: not
    of a broadcast, nor of pairs that send and receive."""
    kinds = [kind for kind in kinds if kind.collective.startswith("all_")]
    if not kinds:
        return []
    first, other = timelines[0], timelines[rank]
    own = np.concatenate([kind.events[0] for kind in kinds])
    others = np.concatenate([kind.events[rank] for kind in kinds])
    is_apart = other.starts_us[others] > first.ends_us[own]
    is_apart |= first.starts_us[own] > other.ends_us[others]
    if not is_apart.any():
        return []
    ahead_s = float(np.median(other.ends_us[others] - first.ends_us[own])) / 1e6
    return [
        f"By its clock {printable(other.source)} has {is_apart.sum()} of {len(own)} calls before "
        f"or after the first rank's: the clocks are {ahead_s:+.6f} s apart, or the steps are "
        "others. No figure compares clocks."
    ]
