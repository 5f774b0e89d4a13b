"""Reads traces of torch.profiler, of one rank's device each."""

from pathlib import Path

import numpy as np

from reports.breakdown.call_messages import cut
from reports.breakdown.cut_steps import ROUNDED_US
from reports.breakdown.kernel_names import Names
from reports.breakdown.kineto_events import LAUNCH_COLUMNS, OPERATOR_COLUMNS, WORK_COLUMNS, Found
from reports.breakdown.timeline import Floats, Integers, Timeline
from reports.breakdown.trace_json import Facts, read_events
from wiretax.record.result import ResultError

TRIMONTHS_US = 7_889_238e6  # Kineto's times begin at a multiple of this, or in 1970
# The shortest work takes 1 to 4 us in each of six public traces.
IMPLAUSIBLE_US = 500.0
FEW = 20  # too few events to tell a unit by


class NoDeviceWork(ResultError):
    """A trace of the host alone, such as one of gloo."""


def read_kineto(path: Path, names: Names) -> Timeline:
    """The work of a rank's device. Raises NoDeviceWork if the trace has none, and ResultError for
    another file, a damaged one, and one of several devices."""
    found = Found()
    facts = read_events(path, found.add)
    if not found.work:
        raise NoDeviceWork(f"{path} has no work of a device")
    return timeline_of(path, names, found, facts)


def timeline_of(path: Path, names: Names, found: Found, facts: Facts) -> Timeline:
    """Raises ResultError for a trace of several devices."""
    work = np.array(found.work).reshape(-1, WORK_COLUMNS)
    work = work[np.lexsort((work[:, 1], work[:, 0]))]
    texts, notes = [*found.texts], list[str]()
    shortest_us = work[:, 1].min()
    if len(work) >= FEW and shortest_us > IMPLAUSIBLE_US:
        notes.append(
            f"{path.name}: the shortest of {len(work):,} kernels takes {shortest_us:,.0f} us: if "
            "these are nanoseconds, divide all times by 1,000"
        )
    is_call = np.array([names.known(text) is not None for text in texts])[work[:, 2].astype(int)]
    devices = np.unique(work[is_call, 4] if is_call.any() else work[:, 4]).astype(int)
    if len(devices) > 1:
        few = ", ".join(map(str, devices[:8]))
        raise ResultError(
            f"{path} has the work of devices {few}: give each rank a trace of its own"
        )
    device = int(devices[0])
    own = work[:, 4] == device
    if not own.all():
        left_out = f"{(~own).sum():,} events of other devices than {device} are left out"
        notes.append(f"{path.name}: {left_out}")
    work = work[own]
    n_early = wait_for_stream(work)
    work = work[np.lexsort((work[:, 1], work[:, 0]))]
    if n_early:
        notes.append(
            f"{path.name}: {n_early:,} works begin while their stream runs another, as "
            "programmatic launches (PDL) do, which wait inside: their time begins at the end of "
            "the one before"
        )

    # As Kineto's times since torch 2.4: since 1970 they would be exact to 0.25 us alone.
    origin_us = work[0, 0] // TRIMONTHS_US * TRIMONTHS_US
    starts_us, lasts_us, name, stream, _, message, correlation = work.T
    starts_us = starts_us - origin_us
    for each in found.annotations:
        each.start_us -= origin_us
        each.end_us -= origin_us
    message, launches_us = linked(message.astype(int), correlation, found)
    sizes = np.array([each.size_bytes for each in found.messages])[message]
    groups = {"": 0}
    group = [groups.setdefault(each.group, len(groups)) for each in found.messages]
    world = facts.distributed_info
    cards = {each.id: each.name for each in facts.device_properties}
    return Timeline(
        path.name,
        names,
        texts,
        name.astype(int),
        starts_us,
        starts_us + lasts_us,
        stream.astype(int),
        sizes,
        np.array(group)[message],
        [*groups],
        world.rank,
        world.world_size,
        # ROCm counts devices otherwise than here, which is nothing among cards of one name.
        cut(cards.get(device) or (cards.popitem()[1] if len({*cards.values()}) == 1 else "")),
        found.annotations,
        notes,
        launches_us - origin_us,
        {cut(each.pg_name): each.ranks for each in world.pg_config if isinstance(each.ranks, list)},
        {counter: total / n for counter, (total, n) in found.clocks.items()},
    )


def wait_for_stream(work: Floats) -> int:
    """Lets work, which is in order of its start, begin when the one before it on its stream has
    ended. Returns how much of it began before by more than times are rounded. One that also ends
    before keeps its times, which no launch explains."""
    n_early = 0
    for stream in np.unique(work[:, 3]):
        places = np.flatnonzero(work[:, 3] == stream)
        ends_us = work[places, 0] + work[places, 1]
        free_us = np.append(-np.inf, np.maximum.accumulate(ends_us)[:-1])
        early_us = np.where(free_us < ends_us, free_us - work[places, 0], 0.0).clip(min=0)
        work[places, 0] += early_us
        work[places, 1] -= early_us
        n_early += int((early_us > ROUNDED_US).sum())
    return n_early


def linked(message: Integers, correlation: Floats, found: Found) -> tuple[Integers, Floats]:
    """For each work the number of its message, and when the host launched it, NaN if the trace does
    not say. A kernel's own args tell its message, or else the operator during which the host
    launched it, which the correlation leads to."""
    launches = np.array(found.launches).reshape(-1, LAUNCH_COLUMNS)
    launches_us = np.full(len(message), np.nan)
    if not len(launches):
        return message, launches_us
    launches = launches[np.argsort(launches[:, 0], kind="stable")]
    place = np.searchsorted(launches[:, 0], correlation).clip(max=len(launches) - 1)
    is_launched = launches[place, 0] == correlation
    launches_us[is_launched] = launches[place[is_launched], 2]

    operators = np.array(found.operators).reshape(-1, OPERATOR_COLUMNS)
    if not len(operators):
        return message, launches_us
    # Operators of a thread are nested: of those that began before, the last is the innermost.
    # Complex numbers are in order of their real parts, here threads, and then of the others.
    operators = operators[np.argsort(operators[:, 0] + 1j * operators[:, 1], kind="stable")]
    rest = np.flatnonzero(is_launched & (message == 0))
    thread, at_us = launches[place[rest], 1], launches_us[rest]
    begins = operators[:, 0] + 1j * operators[:, 1]
    operator = operators[np.searchsorted(begins, thread + 1j * at_us, side="right") - 1]
    is_inside = (operator[:, 0] == thread) & (operator[:, 1] <= at_us) & (at_us <= operator[:, 2])
    message[rest[is_inside]] = operator[is_inside, 3]
    return message, launches_us
