"""All-reduce times by message size: from runs, from an imported log or from a link's figures.

Up to 512 KiB the time is the mean of a chain of dependent calls, which a decode step pays; above
it, a single call and the reading of its result (`total_us`)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.advice.specs import LINKS, Gpu, Link
from reports.imports.imported import Imported
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.store.stats import median_interval
from reports.tables.plot import interval
from reports.tables.rows import cost_us
from reports.tables.run_text import opening
from reports.tables.sentences import machine, number, size_text
from reports.trends.alpha_beta import Fit, predict_us
from reports.trends.fit import fits_of

CHAINED_UP_TO = 512 << 10  # bytes
LARGE = 1 << 20  # bytes; the time of a smaller message says little about bandwidth
DOWN = 0.5  # share of a link's bandwidth below which the link counts as down
HALF_TYPES = "float16", "bfloat16"  # the types of activations, chosen before other types

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
class Times:
    """All-reduce times over `gpus` ranks; call it with a message size in bytes for microseconds.
    `spans` has the measured times by size; `fits` predict other sizes. Without `spans`, all times
    come from `link`. `source` describes the origin in one line. Ranks on several `hosts` (None:
    unknown) use a network and not `link`."""

    gpus: int
    source: str
    link: Link
    spans: dict[int, Span] = field(default_factory=dict)
    fits: Sequence[Fit] = ()
    notes: Sequence[str] = ()
    hosts: int | None = 1

    def __call__(self, size_bytes: float) -> Span:
        return self.look_up(size_bytes)[0]

    def look_up(self, size_bytes: float) -> tuple[Span, str]:
        """The time, and a suffix that names its origin if it was not measured at this size. Without
        a fit, times are linear between sizes, in logarithms, and constant below the smallest.
        Beyond the largest they grow with the bytes, by the link if the largest is below 1 MiB."""
        if not self.spans:  # the typical, best and worst published latency, plus the bytes sent
            known_us, sent_bytes = self.link.latencies_us, wire_factor(self.gpus) * size_bytes
            band_us = np.array([np.median(known_us), known_us[0], known_us[-1]])
            return band_us + sent_bytes / self.link.total_gb_s(self.gpus) / 1e3, ""
        if size_bytes in self.spans:
            return self.spans[int(size_bytes)], ""
        sizes = sorted(self.spans)
        largest_us, largest = self.spans[sizes[-1]], sizes[-1]
        if largest < min(size_bytes, LARGE) and self.hosts != 1:
            return (
                largest_us * size_bytes / largest,
                f", ASSUMED to grow with the bytes from {size_text(largest)} on",
            )
        if largest < min(size_bytes, LARGE):
            more_bytes = wire_factor(self.gpus) * (size_bytes - largest)
            return (
                largest_us + more_bytes / self.link.gb_s / 1e3,
                f", ASSUMED from {size_text(largest)} on",
            )
        mode = "chained" if size_bytes <= CHAINED_UP_TO else "isolated"
        fitted = [predict_us(fit, size_bytes) for fit in self.fits if fit.mode == mode]
        fitted = [prediction for prediction in fitted if prediction[0] > 0]
        if fitted:
            span = np.array(min(fitted, key=lambda prediction: prediction[0]), dtype=float)
            return np.where(np.isnan(span), span[0], span), " by the fit"
        if size_bytes >= largest:
            return largest_us * size_bytes / largest, " between measured sizes"
        logs_us = np.log([self.spans[size] for size in sizes]).T
        at_us = [np.interp(np.log(size_bytes), np.log(sizes), ends) for ends in logs_us]
        return np.exp(at_us), " between measured sizes"


def read_times(runs: Sequence[Result | Imported], gpus: int, link: Link) -> Times:
    """Times of launches of `bench.allreduce` on one machine or of one imported log; of the link's
    figures, marked as ASSUMED, without either. Raises ResultError for a run of another collective,
    number of ranks or machine, and for a run with wrong results or none."""
    for run in runs:
        check_run(run, gpus)
        if isinstance(run, Imported):
            return _from_log(run, gpus, link)
    if runs:
        return _from_results([run for run in runs if isinstance(run, Result)], gpus, link)
    known_us = link.latencies_us
    return Times(
        gpus,
        f"ASSUMED, not measured: {link.name}, {number(link.gb_s)} GB/s one way "
        f"({number(link.both_ways_gb_s)} both ways; {link.source}), and a latency "
        f"of {number(float(np.median(known_us)))} us, best {number(known_us[0])}, "
        f"worst {number(known_us[-1])}, of {len(known_us)} published ones over "
        f"{link.kind} (reports/advice/specs.toml); brackets: best to worst",
        link,
    )


def check_run(run: Result | Imported, gpus: int) -> None:
    """Raises ResultError unless the run has correct all-reduces over `gpus` ranks."""
    statuses = {case.status for case in run.cases if case.collective == "all_reduce"}
    ranks = run.run.world["size"]
    if not statuses:
        raise ResultError(f"{run.path} has no case of all_reduce")
    if ranks not in (None, gpus):
        raise ResultError(f"{run.path} is a run of {ranks} ranks, not of {gpus} (--gpus)")
    if "wrong" in statuses or (run.end and run.end.status == "failed"):
        raise ResultError(f"{run.path} failed or has wrong results: its times say nothing")


def _from_results(results: Sequence[Result], gpus: int, link: Link) -> Times:
    if len({result.run.machine_id for result in results}) > 1:
        raise ResultError(f"{results[0].path} and the other runs are of several machines")
    cases = _best_cases(results)
    if not cases:
        raise ResultError(f"{results[0].path} has no measured all-reduce of auto or of a library")
    spans, single = {}, []
    for size, of_size in cases.items():
        spans[size] = interval(of_size[0])
        if len(results) > 1:  # the median of the launches and its interval, or the range
            costs_us = [cost_us(case) or 0.0 for case in of_size]
            span = np.array(median_interval(costs_us), dtype=float)
            costs_range = [span[0], min(costs_us), max(costs_us)]
            spans[size] = np.where(np.isnan(span), costs_range, span)
        if size <= CHAINED_UP_TO and any(case.mode != "chained" for case in of_size):
            single.append(size_text(size))
    notes = (
        [
            f"No chain of dependent calls was measured at {' and '.join(single[:2])}: faster "
            "single calls replace it."
        ]
        if single
        else []
    )
    every = [case for of_size in cases.values() for case in of_size]
    key = every[0].collective, every[0].algorithm, every[0].datatype
    fits = [
        fit
        for fit in fits_of(results)
        if not fit.shape
        and not fit.in_place
        and (fit.collective, fit.algorithm, fit.datatype) == key
    ]
    trip_ns = np.median([case.link_rtt_ns.median if case.link_rtt_ns else 1.0 for case in every])
    distances = [abs(np.log((fit.link_rtt_ns or 1.0) / trip_ns)) for fit in fits]
    fits = [
        fit for fit, distance in zip(fits, distances, strict=True) if distance == min(distances)
    ]
    source = (
        f"measured: {every[0].library or every[0].algorithm}, {every[0].datatype}, "
        f"{len(results)} launch{'es' * (len(results) > 1)}; {machine(results[0])}"
    )
    notes += [line for result in results for line in opening(result)]
    return Times(gpus, source, link, spans, fits, notes, results[0].run.world.get("hosts", 1))


def _best_cases(results: Sequence[Result]) -> dict[int, list[Case]]:
    """By size, a case of each launch, in the mode that fits the size if all launches have it, of
    the fastest variant: of a 16-bit type if there is one, of `auto` if all launches have it."""
    way = ["size", "other_mode", "variant"]
    cases = pd.DataFrame(
        [
            (
                launch,
                case,
                case.datatype,
                case.algorithm,
                cost_us(case),
                case.size_bytes,
                (case.mode == "chained") != (case.size_bytes <= CHAINED_UP_TO),
                case.variant,
            )
            for launch, result in enumerate(results)
            for case in filter(is_plain, result.cases)
        ],
        columns=["launch", "case", "datatype", "algorithm", "us", *way],
    )
    datatype = min(cases.datatype, key=lambda name: name not in HALF_TYPES, default=None)
    cases = cases[cases.datatype == datatype]
    has_auto = cases.launch[cases.algorithm == "auto"].nunique() == len(results)
    cases = cases[cases.algorithm == ("auto" if has_auto else "library")]
    ways = cases.groupby(way).agg(us=("us", "median"), launches=("launch", "nunique")).reset_index()
    ways = ways[ways.launches == len(results)].sort_values(["size", "other_mode", "us"])
    best = cases.merge(ways.drop_duplicates("size")[way])
    return {int(size): best.case[best["size"] == size].tolist() for size in best["size"].unique()}


def is_plain(case: Case) -> bool:
    """Whether a case is a measured sum, lossless (or of `auto`) and out of place."""
    return (
        case.collective == "all_reduce"
        and case.redop == "sum"
        and case.size_bytes > 0
        and not case.shape
        and not case.in_place
        and (cost_us(case) or 0) > 0
        and (case.snr_db is None or case.algorithm == "auto")
    )


def _from_log(log: Imported, gpus: int, link: Link) -> Times:
    """Means of single calls without an interval, 16-bit types and out-of-place cases first."""
    us_by_type: dict[str | None, dict[int, Span]] = defaultdict(dict)
    for case in sorted(log.cases, key=lambda case: case.in_place):
        is_sum = case.collective == "all_reduce" and case.redop in (None, "sum")
        if is_sum and case.size_bytes and case.time_us and case.time_us.mean and not case.suspect:
            span = np.full(3, case.time_us.mean)
            us_by_type[case.datatype].setdefault(case.size_bytes, span)
    if not us_by_type:
        raise ResultError(f"{log.path} has no all-reduce that can be used")
    datatype = min(us_by_type, key=lambda name: name not in HALF_TYPES)
    notes = [f"INCOMPLETE: {log.end.reason}."] if log.end.status != "complete" else []
    ranks = log.run.world["size"] or "an unknown number of"
    notes.append("The log has means of single calls, not of dependent calls; it is never judged.")
    n_suspect = sum(case.suspect for case in log.cases)
    notes += [f"Suspect figures of the log, left out: {n_suspect}."] if n_suspect else []
    hosts = log.run.world.get("hosts")
    place = "an unknown number of hosts" if hosts is None else f"{hosts} host{'s' * (hosts > 1)}"
    return Times(
        gpus,
        f"imported from {log.run.imported_from.file}, one launch, {ranks} ranks on "
        f"{place}, {datatype or 'of unknown type'}",
        link,
        us_by_type[datatype],
        notes=notes,
        hosts=hosts,
    )


def gpus_of(runs: Iterable[Result | Imported]) -> list[str]:
    """The GPU names of all ranks that have one."""
    return [
        rank["gpu"] for run in runs for rank in run.run.world.get("ranks", []) if rank.get("gpu")
    ]


def other_hardware(runs: Sequence[Result | Imported], gpu: Gpu) -> str | None:
    """A sentence if the ranks ran on something else than this GPU; None otherwise."""
    ranks = [rank for run in runs for rank in run.run.world.get("ranks", [])]
    if any(rank.get("device") == "cpu" for rank in ranks):
        return "The times come from ranks on CPU cores: this is arithmetic, not a GPU's figures."
    series = gpu.name.partition("-")[0]
    others = [
        name for name in gpus_of(runs) if series not in "".join(filter(str.isalnum, name.lower()))
    ]
    return f"The times come from {others[0]}, not from {gpu.name}." if others else None


def warnings(times: Times, runs: Sequence[Result | Imported], gpu: Gpu) -> list[str]:
    """The reasons why these times may not apply to this GPU's link."""
    lines = [*times.notes, *filter(None, [other_hardware(runs, gpu)])]
    size = max(times.spans, default=0)
    if times.spans and times.hosts != 1:
        place = f"on {times.hosts} hosts" if times.hosts else "perhaps on several hosts"
        lines.append(
            f"The ranks are {place}: the times include their network and say nothing "
            f"about {times.link.name}."
        )
    elif 0 < size < LARGE:
        lines.append(
            f"Nothing above {size_text(size)} was measured: larger all-reduces are "
            f"ASSUMED to have the bandwidth of {times.link.name}."
        )
    elif size and gpus_of(runs):
        expected = LINKS[gpu.peer] if gpu.peer else times.link
        bus_gb_s = wire_factor(times.gpus) * size / times.spans[size][0] / 1e3
        if bus_gb_s < DOWN * expected.gb_s:
            lines.append(
                f"{expected.name} has {number(expected.gb_s)} GB/s one way, and "
                f"{size_text(size)} reached {number(bus_gb_s)}: the link is DOWN or not "
                "used; see bench.doctor."
            )
    return lines
