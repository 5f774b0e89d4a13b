"""Reads traces of torch.profiler, of one rank's device each."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reports.breakdown.call_messages import Count, cut
from reports.breakdown.cut_steps import ROUNDED_US
from reports.breakdown.kernel_names import Names
from reports.breakdown.kineto_events import LAUNCH_COLUMNS, OPERATOR_COLUMNS, WORK_COLUMNS, Found
from reports.breakdown.timeline import Booleans, Floats, Integers, Timeline
from reports.breakdown.trace_json import EVENTS, values_of
from wiretax.record.result import ResultError

TRIMONTHS_US = 7_889_238e6  # Kineto's times begin at a multiple of this, or in 1970
YEAR_2100_US = 4_102_444_800e6
# The shortest work takes 1 to 4 us in each of six public traces.
IMPLAUSIBLE_US = 500.0
FEW = 20  # too few events to tell a unit by


class NoDeviceWork(ResultError):
    """A trace of the host alone, such as one of gloo."""


class Group(msgspec.Struct):
    pg_name: str = ""
    ranks: list[Count] | str = ""


class World(msgspec.Struct):
    rank: Count | None = None
    world_size: Count | None = None
    pg_config: list[Group] = []


class Card(msgspec.Struct):
    id: int = -1
    name: str = ""


class Head(msgspec.Struct, rename="camel"):
    """The facts beside the events, as far as they are used."""

    distributed_info: World = msgspec.field(default_factory=World)
    device_properties: list[Card] = []
    base_time_nanoseconds: int | None = None


def read_kineto(path: Path, names: Names) -> Timeline:
    """The work of a rank's device. Raises NoDeviceWork if the trace has none, and ResultError for
    another file, a damaged one, and one of several devices."""
    found, facts, n_events, where = Found(), dict[str, Any](), 0, ""
    try:
        for key, value in values_of(path):
            if key == EVENTS:
                n_events += 1
                where = f" event {n_events:,}:"
                found.add(value)
            elif key in ("distributedInfo", "deviceProperties", "baseTimeNanoseconds"):
                facts[key] = value
        where = ""
        if not n_events:
            raise ValueError(f"it is no trace of torch.profiler, which has {EVENTS}")
        if not found.work:
            raise NoDeviceWork(f"{path}: of its {n_events:,} events none is work of a device")
        return timeline_of(path.name, names, found, msgspec.convert(facts, Head))
    except ValueError as error:
        raise ResultError(f"{path}:{where} {error}") from None


def timeline_of(source: str, names: Names, found: Found, head: Head) -> Timeline:
    """Raises ValueError for a trace of several devices, and for one that is not in us."""
    work = np.array(found.work).reshape(-1, WORK_COLUMNS)
    notes = check_unit(work, head.base_time_nanoseconds is not None)
    work = work[np.lexsort((work[:, 1], work[:, 0]))]
    texts = [*found.texts]
    is_call = np.array([names.known(text) is not None for text in texts])[work[:, 2].astype(int)]
    device = own_device(work[:, 4], is_call)
    own = work[:, 4] == device
    if not own.all():
        notes.append(f"{(~own).sum():,} events of other devices than {device} are left out")
    work, is_call = work[own], is_call[own]
    n_early = wait_for_stream(work)
    work = work[np.lexsort((work[:, 1], work[:, 0]))]
    if n_early:
        notes.append(
            f"{n_early:,} works begin while their stream runs another, as programmatic launches "
            "(PDL) do, which wait inside: they count from the end of the one before"
        )
    # As Kineto's times since torch 2.4: since 1970 they would be exact to 0.25 us alone.
    origin_us = max(0.0, work[0, 0] // TRIMONTHS_US) * TRIMONTHS_US
    starts_us = work[:, 0] - origin_us
    for each in found.annotations:
        each.start_us -= origin_us
        each.end_us -= origin_us
    message, launches_us = linked(work, found)
    sizes = np.array([each.size_bytes for each in found.messages])[message]
    groups = {"": 0}
    group = [groups.setdefault(each.group, len(groups)) for each in found.messages]
    world = head.distributed_info
    cards = {each.id: each.name for each in head.device_properties}
    return Timeline(
        source,
        names,
        texts,
        work[:, 2].astype(int),
        starts_us,
        starts_us + work[:, 1],
        work[:, 3].astype(int),
        sizes,
        np.array(group)[message],
        [*groups],
        world.rank,
        world.world_size,
        # ROCm counts devices otherwise than here, which is nothing among cards of one name.
        cut(cards.get(device) or (cards.popitem()[1] if len({*cards.values()}) == 1 else "")),
        found.annotations,
        [f"{source}: {note}" for note in notes],
        launches_us - origin_us,
        {cut(each.pg_name): each.ranks for each in world.pg_config if isinstance(each.ranks, list)},
        {name: total / n for name, (total, n) in found.clocks.items()},
    )


def check_unit(work: Floats, has_base: bool) -> list[str]:
    """Notes on the unit. Raises ValueError for nanoseconds: Kineto writes microseconds, whatever
    its `displayTimeUnit`. A base is at most three months before its program began."""
    if work[:, 0].min() > (4 * TRIMONTHS_US if has_base else YEAR_2100_US):
        raise ValueError("its times are nanoseconds: as microseconds they lie in the future")
    shortest = work[:, 1].min()
    if len(work) >= FEW and shortest > IMPLAUSIBLE_US:
        return [
            f"the shortest of {len(work):,} kernels takes {shortest:,.0f} us: if these are "
            "nanoseconds, divide all times by 1,000"
        ]
    return []


def own_device(device: Floats, is_call: Booleans) -> int:
    """The device whose calls the trace has, or whose work if it has no call. Raises ValueError for
    several."""
    devices = np.unique(device[is_call] if is_call.any() else device).astype(int)
    if len(devices) > 1:
        few = ", ".join(map(str, devices[:8]))
        raise ValueError(f"it has the work of devices {few}: give each rank a trace of its own")
    return int(devices[0])


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


def linked(work: Floats, found: Found) -> tuple[Integers, Floats]:
    """For each row of work the number of its message, and when the host launched it, NaN if the
    trace does not say. A kernel's own args tell its message, or else the operator during which the
    host launched it, which the correlation leads to."""
    launches = np.array(found.launches).reshape(-1, LAUNCH_COLUMNS)
    operators = np.array(found.operators).reshape(-1, OPERATOR_COLUMNS)
    message, launches_us = work[:, 5].astype(int), np.full(len(work), np.nan)
    if not len(launches):
        return message, launches_us
    launches = launches[np.argsort(launches[:, 0], kind="stable")]
    place = np.searchsorted(launches[:, 0], work[:, 6]).clip(max=len(launches) - 1)
    is_launched = launches[place, 0] == work[:, 6]
    launches_us[is_launched] = launches[place[is_launched], 2]

    # Operators of a thread are nested: of those that began before, the last is the innermost.
    rest = np.flatnonzero(is_launched & (message == 0))
    n = len(operators)
    thread = np.append(operators[:, 0], launches[place[rest], 1])
    begins_us = np.append(operators[:, 1], launches_us[rest])
    order = np.lexsort((begins_us, thread))  # at equal times operators first
    latest = np.maximum.accumulate(np.where(order < n, np.arange(len(order)), -1))
    is_asked = (order >= n) & (latest >= 0)
    asked, operator = order[is_asked], order[latest[is_asked]]
    is_inside = thread[asked] == thread[operator]
    is_inside &= begins_us[asked] <= operators[operator, 2]
    message[rest[asked[is_inside] - n]] = operators[operator[is_inside], 3]
    return message, launches_us
