"""Whether traces are of the ranks of one run, and what their clocks say. Clocks serve no figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reports.breakdown.cut_steps import ROUNDED_US
from reports.breakdown.timeline import Booleans, Floats, Integers, Timeline
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError

if TYPE_CHECKING:
    from reports.breakdown.calls import Kind

OTHER_UNIT = 100.0  # times as long: no two cards of a group differ so much, units by 1000
LEAST_COMMON = 0.5  # of the kernels' names
LEAST_DRIFT_US = 10.0
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
    first = timelines[0]
    for each in timelines[1:]:
        if each.ranks and first.ranks and each.ranks != first.ranks:
            other = f"{printable(each.source)} of {each.ranks}"
            raise refused(first, f"is of {first.ranks} ranks and {other}")
        check_unit(first, each)
    known = [each for each in timelines if each.rank is not None]
    if first.ranks and len(timelines) > first.ranks:
        raise refused(first, f"is of {first.ranks} ranks, fewer than the {len(timelines)} traces")
    for place, each in enumerate(known):
        if any(each.rank == other.rank for other in known[:place]):
            raise refused(each, f"is of rank {each.rank}, as another trace")
        if each.rank is not None and each.ranks and each.rank >= each.ranks:
            raise refused(each, f"is of rank {each.rank}, but has only {each.ranks} ranks")
    if len(known) < len(timelines):
        return [*timelines]
    return sorted(timelines, key=lambda each: each.rank or 0)


def refused(timeline: Timeline, why: str) -> NotOneRun:
    return NotOneRun(f"the traces cannot be compared: {printable(timeline.source)} {why}")


def check_unit(first: Timeline, other: Timeline) -> None:
    """Raises NotOneRun if the same kernels take so much longer in one that its times must be in
    another unit. Calls are left out: they may wait."""
    own, others = mean_us(first), mean_us(other)
    ratios = [others[text] / own[text] for text in own if others.get(text) and own[text]]
    ratio = float(np.median(ratios)) if ratios else 1.0
    if not 1 / OTHER_UNIT < ratio < OTHER_UNIT:
        times = f"takes {max(ratio, 1 / ratio):,.0f} times"
        longer, shorter = (other, first) if ratio > 1 else (first, other)
        than = f"as long for the same kernels as {printable(shorter.source)}"
        raise refused(longer, f"{times} {than}: are its times in nanoseconds?")


def mean_us(timeline: Timeline) -> dict[str, float]:
    """Of the kernels that are no calls, by name."""
    n = np.bincount(timeline.name, minlength=len(timeline.texts))
    lasts_us = np.bincount(
        timeline.name, timeline.ends_us - timeline.starts_us, len(timeline.texts)
    )
    return {
        text: float(lasts_us[at] / n[at])
        for at, text in enumerate(timeline.texts)
        if n[at] and timeline.known[at] is None
    }


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
        own, others = {*mean_us(first)}, {*mean_us(each)}
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
            "of other steps, or of another group, whose traces are to be given alone",
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
    in_time = np.argsort(first.ends_us[own])
    own, others = own[in_time], others[in_time]
    apart_us = other.ends_us[others] - first.ends_us[own]
    is_apart = other.starts_us[others] > first.ends_us[own]
    is_apart |= first.starts_us[own] > other.ends_us[others]
    name = printable(other.source)
    no_figure = "No figure compares clocks."
    if is_apart.any():
        ahead_s = float(np.median(apart_us)) / 1e6
        return [
            f"By its clock {name} has {is_apart.sum()} of {len(own)} calls before or after the "
            f"first rank's: the clocks are {ahead_s:+.6f} s apart, or the "
            f"steps are others. {no_figure}"
        ]
    drift_us, noise_us = drift_of(apart_us)
    if drift_us > max(LEAST_DRIFT_US, noise_us):
        return [f"The clock of {name} drifts by {drift_us:.0f} us against the first. {no_figure}"]
    return []


def drift_of(apart_us: Floats) -> tuple[float, float]:
    """How far the last fifth of the calls is from the first, and what chance explains of it."""
    fifth = len(apart_us) // 5
    if not fifth:
        return 0.0, 0.0
    ends = apart_us[:fifth], apart_us[-fifth:]
    middles = [float(np.median(each)) for each in ends]
    noise = [float(np.ptp(each)) for each in ends]
    return abs(middles[1] - middles[0]), max(noise)
