"""All-reduce times by message size: from launches or from a link's figures.

Up to 512 KiB the time is the mean of a chain of dependent calls, which a decode step pays; above
it, a single call and the reading of its result."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from reports.advice.specs import LINKS, CardLink, Gpu
from reports.references.published import PublishedCall, calls, select
from reports.store.case import CASE_KEY
from reports.store.folder import WRONG, in_order
from reports.store.grouped import grouped
from reports.store.manifest import runs_by_time
from reports.store.observations import MIN_BLOCKS, Entry, alike_of, entry_of, in_one_state, table
from reports.store.program import BENCH, REPORTS
from reports.store.result import ResultError, read
from reports.tables.beside_published import amounts
from reports.tables.sentences import counted, number, size_text, start_time
from reports.trends.fit import LATENCY_BOUND_BYTES

LEAST_LAUNCHES, CONFIDENCE = 5, 0.95  # of an interval
LARGE = 1 << 20  # bytes; the time of a smaller message says little about bandwidth
SMALL = 32 << 10  # bytes; published times up to here are latencies
LEAST_MACHINES = 3  # of which a published figure is typical
DOWN = 0.5  # share of a link's bandwidth below which the link counts as down
HALF_TYPES = "float16", "bfloat16"  # the types of activations, chosen before other types
# How an all-reduce of a size was measured.
WAY = [name for name in CASE_KEY if name not in ("collective", "redop", "shape")]

Span = NDArray[np.float64]  # a value and the ends of its interval, the value if they are unknown


def span_text(span: Span, unit: str = "") -> str:
    """`33.0 us [31.0 36.0]`; without the interval if it is unknown."""
    value, low, high = map(number, span)
    return value + unit + (f" [{low} {high}]" if low != high else "")


def wire_factor(gpus: int) -> float:
    """Bytes that each GPU sends per message byte: 2 (n-1) / n, the minimum of any all-reduce
    (Patarasuk and Yuan, JPDC 69:2, 2009; nccl-tests, doc/PERFORMANCE.md)."""
    return 2 * (gpus - 1) / gpus


@dataclass
class AllReduceLaunches:
    """All-reduces of one machine: its runs that count; the names of runs with wrong results;
    sentences on runs that do not count. `times` has a row for each launch and
    size: `run` (its place in `runs`), `size_bytes`, `cost_us` with reading the result, `time_us`
    of the collective alone, and how it was measured (WAY)."""

    runs: Sequence[Entry]
    wrong: list[str]
    notes: list[str]
    times: pd.DataFrame

    @property
    def have_intervals(self) -> bool:
        return len(self.runs) >= LEAST_LAUNCHES

    @property
    def ranks(self) -> list[Any]:
        return [rank for run in self.runs for rank in run.run.world.get("ranks", [])]

    @property
    def gpus(self) -> list[str]:
        """The names of the GPUs of all ranks that have one."""
        return [rank["gpu"] for rank in self.ranks if rank.get("gpu")]


def read_launches(names: Iterable[str | Path], gpus: int) -> AllReduceLaunches:
    """The all-reduces of the runs, folders and globs with these names. Raises ResultError for a
    name without a run, and for all-reduces over another number of ranks or on several machines."""
    files = [file for name in names for file in files_of(str(name))]
    entries = in_order(entry_of(read(file)) for file in files)
    wrong = [entry.run.run_id for entry in entries if entry.left_out == WRONG]
    notes = [
        f"{entry.path.name} is left out: {entry.left_out}." for entry in entries if entry.left_out
    ]
    runs = [run for run in entries if not run.left_out and run.run.benchmark == "allreduce"]
    kinds = dict[Any, str]()
    for run in runs:
        ranks = run.run.world["size"]
        if ranks not in (0, gpus):
            raise ResultError(f"{run.path} is a run of {ranks} ranks, not of {gpus}")
        kinds[alike_of(run)] = f"{run.path}, {start_time(run.run)},"

    if len(kinds) > 1:
        first, second = list(kinds.values())[:2]
        raise ResultError(
            f"{first} and {second} are of several machines, benchmarks or methods; to say that "
            f"logs without a GPU's name are of one: {REPORTS} import --machine NAME"
        )

    runs, others = in_one_state(runs)
    return AllReduceLaunches(runs, wrong, [*notes, *others], _one_way(runs))


def files_of(name: str) -> list[Path]:
    path = Path(name)
    files = runs_by_time(path) if path.is_dir() else sorted(map(Path, glob.glob(name)))

    if not files:
        raise ResultError(f"no run at {name}")

    return files


def _one_way(runs: Sequence[Entry]) -> pd.DataFrame:
    """A row for each launch and each size that all launches have, measured in one way: if possible
    in a 16-bit type, by `auto`, out of place, in the mode that fits the size, and in registered
    buffers, as engines do. Times do not choose: the fastest of several would look too fast. Of
    another harness any algorithm will do."""
    rows, keys = table(runs)
    rows = rows.join(pd.DataFrame(keys, columns=CASE_KEY), on="key")
    names = ["auto", "library"]
    if any(run.run.imported_from for run in runs):
        names = [*rows.algorithm]
    is_sum = (rows.collective == "all_reduce") & rows.redop.eq("sum")
    is_plain = is_sum & rows["shape"].isna() & rows.algorithm.isin(names)
    rows = rows[is_plain & (rows.size_bytes > 0)].sort_values("run", kind="stable")
    ways = rows.groupby(WAY, dropna=False)
    rows["way"] = ways.ngroup()
    rows["other_type"] = ~rows.datatype.isin(HALF_TYPES)
    rows["other_mode"] = (rows["mode"] == "chained") != (rows.size_bytes <= LATENCY_BOUND_BYTES)
    rows["copied"] = rows.variant != "registered"
    rows = rows[ways["run"].transform("nunique") == len(runs)]
    order = ["other_type", "algorithm", "in_place", "other_mode", "copied", "way"]
    best = rows.sort_values(order).drop_duplicates("size_bytes")
    return rows[rows.way.isin(best.way)].drop_duplicates(["run", "way"])


@dataclass
class ReduceTimes:
    """All-reduce times over `gpus` ranks; call it with a message size in bytes for microseconds.
    `spans` has the measured times by size, or only a published latency, of 0 bytes. `source`
    describes the origin in one line, `notes` say why it may not apply. Ranks on several `hosts`
    (None: unknown) use a network and not `link`."""

    gpus: int
    source: str
    link: CardLink
    spans: dict[int, Span] = field(default_factory=dict)
    notes: Sequence[str] = ()
    hosts: int | None = 1

    def __call__(self, size_bytes: float) -> Span:
        return self.look_up(size_bytes)[0]

    def look_up(self, size_bytes: float) -> tuple[Span, str]:
        """The time, and a suffix that names its origin if it was not measured at this size. Times
        are linear between sizes, in logarithms, and constant below the smallest. Beyond the largest
        they grow with the bytes, by the link if the largest is below 1 MiB."""
        sent_bytes = wire_factor(self.gpus) * size_bytes
        sizes = sorted(self.spans)
        if size_bytes in sizes:
            return self.spans[int(size_bytes)], ""

        largest, largest_us = sizes[-1], self.spans[sizes[-1]]
        if size_bytes < largest:
            logs_us = np.log([self.spans[size] for size in sizes]).T
            at_us = [np.interp(np.log(size_bytes), np.log(sizes), ends) for ends in logs_us]
            return np.exp(at_us), " between measured sizes"

        if largest >= LARGE or self.hosts != 1:
            origin = f", ASSUMED to grow with the bytes from {size_text(largest)} on"
            return largest_us * size_bytes / largest, origin

        more_bytes = sent_bytes - wire_factor(self.gpus) * largest
        origin = f", ASSUMED from {size_text(largest)} on" if largest else ""
        return largest_us + more_bytes / self.link.total_gb_s(self.gpus) / 1e3, origin


def published(
    gpu: Gpu, link: CardLink, least_bytes: float, most_bytes: float
) -> tuple[str, list[PublishedCall]]:
    """A fabric, and all-reduces of these sizes that others measured over it within one machine, by
    the GPU's library; small ones also by tuned kernels, and only as engines make them, not eager.
    The fabric is the link's, or the nearest over which enough machines had the library; if none
    had, there are no figures."""
    is_small, fabric = least_bytes < SMALL, link.fabric
    rows = [
        row
        for row in select(calls(), collective={"all_reduce"}, hosts={1})
        if least_bytes <= (row.size_bytes or 0) <= most_bytes
        and (row.library == gpu.library or (is_small and row.kind == "tuned"))
        and not (is_small and row.mode == "eager")
    ]
    if is_small and not gpu.peer_access and fabric.startswith("PCIe"):
        # The driver joins slots by host memory alone.
        staged = select(calls(), collective={"all_reduce"}, hosts={1}, transport={"host memory"})
        rows = [
            row
            for row in select(staged, library={gpu.library})
            if least_bytes <= (row.size_bytes or 0) <= most_bytes
        ]
    while True:
        found = [row for row in rows if f"{row.fabric} ".startswith(f"{fabric} ")]
        machines = len({row.machine for row in found if row.library == gpu.library})
        if machines >= LEAST_MACHINES or " " not in fabric:
            return fabric, found if machines else []
        fabric = fabric.rpartition(" ")[0]  # without its lanes, then without its generation


def typical(rows: Sequence[PublishedCall], name: str) -> Span:
    """Of this field the median over machines of the library, then the least and the most of all."""
    machines = grouped(select(rows, kind={"library"}), lambda row: row.machine).values()
    medians = [median(getattr(row, name) for row in own) for own in machines]
    values = [getattr(row, name) for row in rows]
    return np.array([median(medians), min(values), max(values)])


def assumed_times(gpus: int, gpu: Gpu, link: CardLink) -> ReduceTimes:
    """Times by the bandwidth of a link and by what others published over its fabric. Raises
    ResultError if they published nothing."""
    (fabric, rows), name = published(gpu, link, 1, SMALL), gpu.library.upper()
    if not rows:
        raise ResultError(f"nobody published {name} over {fabric}, which {link.name} is")

    latency_us = typical(rows, "us")
    source = (
        f"ASSUMED, not measured: {link.name}, {number(link.gb_s)} GB/s one way ({link.source}), "
        f"and a latency of {span_text(latency_us, ' us')} by {len(rows)} published figures over "
        f"{fabric}, typical of {name} (docs/references.md); brackets: best to worst, also of "
        "tuned kernels"
    )
    times = ReduceTimes(gpus, source, link, {0: latency_us})
    if fabric.startswith("PCIe"):
        staged = [
            row
            for row in select(calls(), library={gpu.library}, transport={"host memory"}, hosts={1})
            if row.collective == "all_reduce" and 0 < (row.size_bytes or 0) <= SMALL
        ]
        who = "Cards" if gpu.peer_access else f"{gpu.name} (if its driver is not patched) and cards"
        times.notes = [
            f"{who} without peer access take {amounts(staged)} through host memory ({len(staged)} "
            f"figures of {name}). Many boards give two cards eight lanes each: for these see "
            "advise --link pcie5x8."
        ]
        if not gpu.peer_access:
            times.notes.append(f"The latency of {gpu.name} is that of calls through host memory.")
    return times


def spans_of(
    launches: AllReduceLaunches, column: str, confidence: float = CONFIDENCE
) -> dict[int, Span]:
    """The geometric means over launches at each size of `cost_us`, or for a bandwidth of `time_us`,
    with Student's intervals from five launches on."""
    n, spans = len(launches.runs), dict[int, Span]()
    for size, own in launches.times.groupby("size_bytes"):
        logs_us, reach = np.log(own[column]), 0.0
        if launches.have_intervals:
            quantile = stdtrit(n - 1, (1 + confidence) / 2)
            reach = float(quantile * np.std(logs_us, ddof=1) / np.sqrt(n))
        spans[cast(int, size)] = np.exp(np.mean(logs_us) + np.array([0.0, -reach, reach]))

    return spans


def measured_times(
    launches: AllReduceLaunches, gpus: int, gpu: Gpu, link: CardLink, confidence: float = CONFIDENCE
) -> ReduceTimes:
    """The times of these launches, with intervals of this confidence."""
    rows, n = launches.times, len(launches.runs)
    if rows.empty:
        needed = f"an all-reduce of auto or a library with {MIN_BLOCKS} blocks in a launch"
        raise ResultError("; ".join([f"the runs lack {needed}", *launches.notes]))

    spans = spans_of(launches, "cost_us", confidence)
    names = rows.library.fillna(rows.algorithm) + ", " + rows.datatype
    place = ", ".join(dict.fromkeys(launches.gpus)) or "ranks without a GPU's name"
    count = counted(n, "launch")
    if not launches.have_intervals:
        count += ", no interval"
    harness = launches.runs[0].run.method.get("harness")
    origin = f"measured by {harness}: " if harness else "measured: "
    source = f"{origin}{' and '.join(names.unique())}, {place}; {count}"
    hosts = launches.runs[0].run.world.get("hosts", 1)
    times = ReduceTimes(gpus, source, link, spans, hosts=hosts)
    times.notes = [*launches.notes, *_doubts(times, launches, gpu)]
    return times


def other_hardware(launches: AllReduceLaunches, gpu: Gpu) -> str | None:
    """A sentence if the ranks ran on something else than this GPU; None otherwise."""
    if any(rank.get("device") == "cpu" for rank in launches.ranks):
        return "The times come from ranks on CPU cores: this is arithmetic, not a GPU's figures."

    series = gpu.name.partition("-")[0]
    for name in launches.gpus:
        if series not in "".join(filter(str.isalnum, name.lower())):
            return f"The times come from {name}, not from {gpu.name}."

    return None


def _doubts(times: ReduceTimes, launches: AllReduceLaunches, gpu: Gpu) -> list[str]:
    """The reasons why these times may not apply to this GPU's link."""
    rows, link, size = launches.times, times.link, max(times.spans)
    lines = []
    single = rows[(rows["mode"] != "chained") & (rows.size_bytes <= LATENCY_BOUND_BYTES)]

    if harness := launches.runs[0].run.method.get("harness"):
        lines.append(f"{harness} measures no chain of dependent calls: its calls stand for it.")
    elif len(single):
        sizes = " and ".join(map(size_text, sorted(single.size_bytes.unique())[:2]))
        lines.append(
            f"No chain of dependent calls was measured at {sizes}: single calls stand for it."
        )

    if problem := other_hardware(launches, gpu):
        lines.append(problem)

    if times.hosts != 1:
        place = f"on {times.hosts} hosts" if times.hosts else "perhaps on several hosts"
        lines.append(f"The ranks are {place}: the times include their network, not {link.name}.")
    elif size < LARGE:
        lines.append(
            f"Nothing above {size_text(size)} was measured: larger all-reduces are ASSUMED to have "
            f"the bandwidth of {link.name}."
        )
    elif launches.gpus:
        expected = LINKS[gpu.peer] if gpu.peer else link
        time_us = spans_of(launches, "time_us")[size]
        bus_gb_s = wire_factor(times.gpus) * size / time_us[0] / 1e3
        if bus_gb_s < DOWN * expected.gb_s:
            lines.append(
                f"{expected.name} has {number(expected.gb_s)} GB/s one way, and {size_text(size)} "
                f"reached {number(bus_gb_s)}: the link is DOWN or not used; see {BENCH}doctor."
            )

    return lines
