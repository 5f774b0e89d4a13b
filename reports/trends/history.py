"""Reads the runs of a folder as series, one for each case, machine and state of the link.

The runs of a series were measured alike: same machine, benchmark, ranks and dispatch. The launches
of one side of a campaign ran close together in time, so together they are one point, their median.
`events` finds where series change; the command and the dashboard call `load`.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from reports.store.foreign import printable
from reports.store.manifest import MANIFEST
from reports.store.order import places, time_of
from reports.store.result import ImportedRunError, NewerSchemaError, ResultError, read
from reports.store.schema import Case, CaseHeader, Result, Run
from reports.tables.rows import MIN_STATE_BLOCKS
from reports.tables.sentences import size_text, some
from reports.verdicts.cells import case_names
from reports.verdicts.comparison import COMPARABLE
from reports.verdicts.sides import Key, Launch, find_costs, key_of

ALIKE = ("machine", "world", "statistic")  # keys of COMPARABLE that the runs of a series share
# Why `read` refused a file.
REFUSED = {ImportedRunError: "imported from a log", NewerSchemaError: "of a newer schema",
           ResultError: "not a run that can be read"}

LeftOut = defaultdict[str, list[str]]  # names of files by the reason


@dataclass
class Series:
    """One case over runs, in order of time. `values` are median costs in us, in one state of the
    link; `link_rtt_ns` is the flag round trip in that state, None if there is only one state;
    `variant` is the side of a campaign, otherwise empty."""

    label: str
    machine_id: str
    benchmark: str
    variant: str
    link_rtt_ns: float | None
    run_ids: list[str]
    times: list[datetime]
    values: list[float]


@dataclass
class History:
    """The series of a folder; its runs by run id, in order of time; sentences on what is left out.

    `unjudged` counts, by machine and benchmark, the cases that have too few blocks in every run."""

    series: list[Series]
    runs: dict[str, Run]
    skipped: list[str]
    unjudged: Counter[tuple[str, str]]


def load(folder: Path | str) -> History:
    """The runs below `folder` as series. Links are not followed; unusable files are named.

    Raises ResultError if `folder` is not a folder or has no usable run."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultError(f"{folder} is {'a file, not' if folder.exists() else 'not'} a folder "
                          "of runs")
    left_out: LeftOut = defaultdict(list)
    results = _usable(list(_readable(folder, left_out)), left_out)
    skipped = [f"left out, {reason}: {len(names)} ({some(names)})"
               for reason, names in left_out.items()]
    if not results:
        raise ResultError("; ".join([f"{folder} has no usable run", *skipped]))
    groups: dict[tuple[str, ...], dict[str, list[Launch]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        run, variant = result.run, _variant(result)
        alike = (run.benchmark, variant, *(str(COMPARABLE[name](result)) for name in ALIKE))
        point = str(result.path.parent) if variant else run.run_id
        groups[alike][point].append(Launch(result, "first", 0))
    history = History([], {result.run.run_id: result.run for result in results}, skipped, Counter())
    for points in groups.values():
        _add_series(history, list(points.values()))
    launches = [launch for points in groups.values() for point in points.values()
                for launch in point]
    few = [not costs for launch in launches for costs in launch.costs.values()]
    if any(few):
        skipped.append(f"left out, with fewer than {MIN_STATE_BLOCKS} blocks in one state of the "
                       f"link: {sum(few)} of {len(few)} results")
    return history


def _readable(folder: Path, left_out: LeftOut) -> Iterator[Result]:
    def closed(error: OSError) -> None:
        left_out["a folder that cannot be read"].append(printable(Path(error.filename).name))

    for parent, folders, files in os.walk(folder, onerror=closed):
        folders[:] = [name for name in folders if not name.endswith((".samples", ".flight"))]
        links = {name for name in [*folders, *files] if os.path.islink(Path(parent, name))}
        for name in sorted(links):
            left_out["a link, which is not followed"].append(printable(name))
        for name in sorted({*files} - links - {MANIFEST}):
            if name.endswith(".jsonl"):
                try:
                    yield read(Path(parent, name))
                except ResultError as error:
                    reason = REFUSED.get(type(error), REFUSED[ResultError])
                    left_out[reason].append(printable(name))


def _usable(results: Sequence[Result], left_out: LeftOut) -> list[Result]:
    """The complete and correct runs, each once, in order of time."""
    usable: dict[str, Result] = {}
    place = places(result.run for result in results)
    for result in sorted(results, key=lambda result: place[result.run.run_id]):
        run_id, reason = result.run.run_id, None
        if any(case.status == "wrong" for case in result.cases):
            reason = "with wrong results"
        elif not result.complete:
            reason = "incomplete"
        elif time_of(run_id) is None:
            reason = "without a time in its run_id"
        elif run_id in usable:
            reason = "a run once more"
        if reason:
            left_out[reason].append(printable(result.path.name))
        else:
            usable[run_id] = result
    return list(usable.values())


def _variant(result: Result) -> str:
    """The side of the campaign that the run belongs to; empty outside of campaigns."""
    side = result.path.parent
    return printable(side.name) if (side.parent / MANIFEST).is_file() else ""


def _series_key(case: Case | CaseHeader) -> Key:
    """The case without the library's version, which may change within a series."""
    return (*key_of(case, ("library",)), re.split(r"\s*\d", case.library or "")[0])


def _add_series(history: History, points: Sequence[Sequence[Launch]]) -> None:
    """Adds the series of runs that were measured alike; a point is one or more launches."""
    launches = [launch for point in points for launch in point]
    rtt_ns = find_costs(launches, ())
    planned = [case for launch in launches for case in launch.result.run.cases]
    cases = {_series_key(case): case for case in planned}
    series_keys = {key_of(case): _series_key(case) for case in planned}
    costs_us: dict[tuple[Key, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number, point in enumerate(points):
        for launch in point:
            for key, by_state in launch.costs.items():
                for state, cost_us in by_state.items():
                    costs_us[series_keys[key], state][number].append(cost_us)
    names = dict(zip(cases, case_names(list(cases.values())), strict=True))
    run, variant = launches[0].result.run, _variant(launches[0].result)
    in_order = sorted(costs_us, key=lambda item: (cases[item[0]].size_bytes, str(item)))
    for key, state in in_order:
        by_point = costs_us[key, state]
        link_rtt_ns = rtt_ns[state] if len(rtt_ns) > 1 else None
        link = f"link {link_rtt_ns:.0f} ns" if link_rtt_ns else ""
        words = [size_text(cases[key].size_bytes), names[key], link, variant]
        run_ids = [points[number][0].result.run.run_id for number in by_point]
        times = [time for run_id in run_ids if (time := time_of(run_id))]
        medians = [float(np.median(costs)) for costs in by_point.values()]
        history.series.append(Series(" ".join(filter(None, words)), run.machine_id, run.benchmark,
                                     variant, link_rtt_ns, run_ids, times, medians))
    measured = {series_keys[key] for launch in launches for key in launch.costs}
    if unjudged := measured - {key for key, _ in costs_us}:
        history.unjudged[run.machine_id, run.benchmark] += len(unjudged)
