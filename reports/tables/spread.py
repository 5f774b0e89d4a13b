"""Widens the intervals in the table of a run by the spread between launches, from the runs before
it in its folder. Reads only their heads and cases, because a benchmark ends with its table."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec
import numpy as np

from reports.store.result import KEY_OF, NOT_JSON, ResultError, content_of, is_imported
from reports.store.schema import SCHEMA, Case, End, Result, Run
from reports.store.stats import STATE_RATIO, student_quantile
from reports.tables.rows import Row, cost_us
from reports.tables.sentences import host_names

MIN_EARLIER, MOST_EARLIER = 3, 10


def earlier_costs(result: Result) -> list[dict[str, float]]:
    """The cost in us of each case in complete launches, not slowed deliberately, of the same ranks,
    machine, software and state of the link, among the benchmark's ten last runs in the folder."""
    launches, path, this = [], result.path, result.run
    names = sorted(
        other.name
        for other in path.parent.glob("*.jsonl")
        if f"-{this.benchmark}-" in other.name and other.name < path.name
    )
    for name in names[-MOST_EARLIER:]:
        with suppress(ResultError, *NOT_JSON):
            lines = content_of(path.with_name(name)).strip().split(b"\n")
            run = msgspec.json.decode(lines[0], type=Run)
            end = msgspec.json.decode(lines[-1], type=End)
            cases = [
                msgspec.json.decode(line, type=Case)
                for line in lines
                if line.startswith(b'{"kind":"case"')
            ]
            least_ns, most_ns = sorted([_round_trip_ns(cases), _round_trip_ns(result.cases)])
            if (
                end.status == "complete"
                and run.schema <= SCHEMA
                and not (run.world.get("slowed_percent") or is_imported(path.with_name(name)))
                and most_ns < STATE_RATIO * least_ns
                and run.machine_id == this.machine_id
                and run.software_id == this.software_id
                and run.world.get("size") == this.world["size"]
                and _places(run) == _places(this)
            ):
                launches.append({str(KEY_OF(case)): cost_us(case) or 0.0 for case in cases})
    return launches


def _places(run: Run) -> tuple[int, list[str]]:
    """The number of hosts, and if there are several the host of each rank."""
    hosts = run.world.get("hosts", 1)
    return hosts, host_names(run) if hosts != 1 else []


def _round_trip_ns(cases: Sequence[Case]) -> float:
    """The median round trip of a flag in the state of the link that the run held longest."""
    return float(
        np.median(
            [case.link_rtt_ns.median for case in cases if case.link_rtt_ns and case.state == "run"]
            or [1.0]
        )
    )


def widen(rows: Sequence[Row], launches: Sequence[Mapping[str, float]]) -> None:
    """Widens the interval of each ratio to the interval of one launch by Student's t over the same
    ratio in at least three of these launches."""
    for row in rows:
        if row.library is None or row.ours is None or row.ratio is None:
            continue
        middle, low, high = row.ratio
        keys = str(KEY_OF(row.library)), str(KEY_OF(row.ours))
        costs_us = [[launch.get(key, 0.0) for key in keys] for launch in launches]
        logs = [np.log(library / ours) for library, ours in costs_us if min(library, ours) > 0]
        if low and high and len(logs) >= MIN_EARLIER:
            half = student_quantile(0.975, len(logs) - 1) * np.std(logs, ddof=1)
            factor, row.n_earlier = float(np.exp(half)), len(logs)
            row.ratio = middle, min(low, middle / factor), max(high, middle * factor)
