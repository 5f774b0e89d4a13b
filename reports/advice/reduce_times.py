"""All-reduce times by message size: from runs, from an imported log or from a link's figures.

Up to 512 KiB the time is the mean of a chain of dependent calls, which a decode step pays; above
it, a single call and the reading of its result (`total_us`). `auto` counts if all runs have it,
otherwise the library, in the faster variant. Fits predict the sizes that no run measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reports.advice import specs
from reports.advice.serving import Span, exact, link_all_reduce_us, wire_factor
from reports.advice.specs import Gpu, Link
from reports.imports.imported import Imported, ImportedCase
from reports.store.foreign import printable
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.store.stats import median_interval
from reports.tables.figure import interval_us
from reports.tables.rows import cost_us
from reports.tables.sentences import machine, number, opening, size_text
from reports.trends.fit import fits_of, predict_us
from reports.trends.fit_records import Fit

CHAINED_UP_TO = 512 << 10  # bytes
LARGE = 1 << 20  # bytes; the time of a smaller message says little about bandwidth
DOWN = 0.5  # share of a link's bandwidth below which the link counts as down
HALF_TYPES = "float16", "bfloat16"  # the types of activations


@dataclass
class Times:
    """All-reduce times over `gpus` ranks; call it with a message size in bytes.

    `spans` has the measured times in microseconds by size; `fits` predict other sizes. Without
    `spans`, all times come from `link`. `source` describes the origin in one line.
    """

    gpus: int
    source: str
    link: Link
    spans: dict[int, Span] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __call__(self, size_bytes: float) -> Span:
        """Microseconds, with an interval.

        Without a fit, times are linear between sizes, in logarithms, and constant below the
        smallest. Beyond the largest they grow with the bytes; if the largest is too small to
        show a bandwidth, the bytes beyond it take the time of the link.
        """
        if not self.spans:
            base_us = float(specs.tables()["latency"]["all_reduce_us"])
            return exact(link_all_reduce_us(self.link, base_us, self.gpus, size_bytes))
        if size_bytes in self.spans:
            return self.spans[int(size_bytes)]
        sizes = sorted(self.spans)
        largest = self.spans[sizes[-1]]
        if self._is_beyond(size_bytes):
            more_bytes = wire_factor(self.gpus) * (size_bytes - sizes[-1])
            return largest.times(1, plus=more_bytes / self.link.gb_s / 1e3)
        predictions = self._predictions(size_bytes)
        if predictions:
            return min(predictions, key=lambda span: span.value)
        if size_bytes >= sizes[-1]:
            return largest.times(size_bytes / sizes[-1])
        logs_us = np.log([self.spans[size] for size in sizes]).T
        at = np.log(max(size_bytes, sizes[0]))
        return Span(*(float(np.exp(np.interp(at, np.log(sizes), ends))) for ends in logs_us))

    def _is_beyond(self, size_bytes: float) -> bool:
        """Whether this size shows a bandwidth and all measured sizes are too small for it."""
        return max(self.spans) < min(size_bytes, LARGE)

    def _predictions(self, size_bytes: float) -> list[Span]:
        mode = "chained" if size_bytes <= CHAINED_UP_TO else "isolated"
        predictions = (predict_us(fit, size_bytes) for fit in self.fits if fit.mode == mode)
        return [Span(value, value if low is None else low, value if high is None else high)
                for value, low, high in predictions if value > 0]

    def origin(self, size_bytes: int) -> str:
        """A suffix for a time that was not measured at this size; empty otherwise."""
        if not self.spans or size_bytes in self.spans:
            return ""
        if self._is_beyond(size_bytes):
            return f", ASSUMED from {size_text(max(self.spans))} on"
        return " by the fit" if self._predictions(size_bytes) else " between measured sizes"


def from_link(link: Link, gpus: int) -> Times:
    """Times of a link's figures, marked as ASSUMED."""
    return Times(gpus, f"ASSUMED, not measured: {link.name}, {number(link.gb_s)} GB/s one way "
                       f"({number(link.both_ways_gb_s)} both ways; {link.source})", link)


def from_runs(results: Sequence[Result], gpus: int, link: Link) -> Times:
    """Times of runs of `bench.allreduce` on one machine. Raises ResultError for runs of another
    collective, number of ranks or machine, and for runs with wrong results or none."""
    for result in results:
        check_run(result, gpus)
    if len({result.run.machine_id for result in results}) > 1:
        raise ResultError(f"{results[0].path} and the other runs are of several machines")
    datatype = _activation_type(case.datatype for result in results for case in result.cases
                                if is_plain(case))
    launches = [[case for case in result.cases if is_plain(case) and case.datatype == datatype]
                for result in results]
    algorithm = _algorithm(launches)
    if algorithm is None:
        raise ResultError(f"{results[0].path} has no measured all-reduce of auto or of a library")
    sizes = {case.size_bytes for cases in launches for case in cases if case.algorithm == algorithm}
    best = {size: _fastest_variant(launches, algorithm, size) for size in sorted(sizes)}
    best = {size: cases for size, cases in best.items() if cases}
    library = next((case.library for cases in launches for case in cases if case.library), None)
    name = algorithm if algorithm == "auto" else printable(library or "the library")
    count = (f"{len(results)} launches" if len(results) > 1
             else f"run {results[0].run.run_id}, this launch")
    times = Times(gpus, f"measured: {name}, {datatype}, {count}; {machine(results[0])}", link)
    times.spans = {size: _span(cases) for size, cases in best.items()}
    times.fits = _fits(results, best)
    single = [size_text(size) for size, cases in best.items() if size <= CHAINED_UP_TO
              and any(case.mode != "chained" for case in cases)]
    if single:
        times.notes.append(f"No chain of dependent calls was measured at {' and '.join(single[:2])}"
                           ": single calls replace it, faster than the calls of a decode step.")
    times.notes += _size_notes(times)
    times.notes += [line for result in results for line in opening(result)]
    return times


def _activation_type(types: Iterable[str | None]) -> str | None:
    """The first 16-bit type, otherwise the first type."""
    return min(dict.fromkeys(types), key=lambda name: name not in HALF_TYPES, default=None)


def _algorithm(launches: Sequence[Sequence[Case]]) -> str | None:
    common = set.intersection(*({case.algorithm for case in cases} for cases in launches))
    return next((name for name in ("auto", "library") if name in common), None)


def _fastest_variant(launches: Sequence[Sequence[Case]], algorithm: str,
                     size_bytes: int) -> list[Case]:
    """The case of each launch, of the variant with the lowest median; empty if no variant is in
    all launches. A case in the mode that fits the size counts before one in the other mode."""
    by_launch = []
    for cases in launches:
        ordered = sorted(cases, key=lambda case: (
            (case.mode == "chained") == (size_bytes <= CHAINED_UP_TO)))
        by_launch.append({case.variant: case for case in ordered
                          if (case.algorithm, case.size_bytes) == (algorithm, size_bytes)})
    variants = set.intersection(*(set(by_variant) for by_variant in by_launch))
    choices = [[by_variant[name] for by_variant in by_launch] for name in variants]
    return min(choices, default=[],
               key=lambda cases: np.median([cost_us(case) or 0.0 for case in cases]))


def _fits(results: Sequence[Result], best: Mapping[int, Sequence[Case]]) -> list[Fit]:
    """The fits of these cases' algorithm and type, in the nearest state of the link."""
    cases = [case for same_size in best.values() for case in same_size]
    if not cases:
        return []
    fits = [fit for fit in fits_of(results) if fit.regimes and not fit.shape and not fit.in_place
            and (fit.algorithm, fit.collective, fit.datatype)
            == (cases[0].algorithm, "all_reduce", cases[0].datatype)]
    trip_ns = np.median([case.link_rtt_ns.median if case.link_rtt_ns else 1.0 for case in cases])
    distances = [abs(np.log((fit.link_rtt_ns or 1.0) / trip_ns)) for fit in fits]
    return [fit for fit, distance in zip(fits, distances, strict=True)
            if distance == min(distances)]


def _span(cases: Sequence[Case]) -> Span:
    """One launch: its interval. Several: the median with its interval, from six launches on, or
    with the range."""
    if len(cases) == 1:
        return Span(*interval_us(cases[0].total_us or cases[0].time_us).tolist())
    medians = [cost_us(case) or 0.0 for case in cases]
    median, low, high = median_interval(medians)
    return Span(median, min(medians) if low is None else low,
                max(medians) if high is None else high)


def _size_notes(times: Times) -> list[str]:
    """A note if no measured size shows a bandwidth."""
    largest = max(times.spans, default=0)
    if largest >= LARGE:
        return []
    return [f"Nothing above {size_text(largest)} was measured: larger all-reduces, as in prefill, "
            f"are ASSUMED to have the bandwidth of {times.link.name}."]


def from_log(log: Imported, gpus: int, link: Link) -> Times:
    """Times of an imported log: means of single calls without an interval, 16-bit types and
    out-of-place cases first. Raises ResultError for a log of another collective or number of ranks,
    and for one with wrong results."""
    sums = [case for case in log.cases
            if case.collective == "all_reduce" and case.redop in (None, "sum")]
    if log.end.status == "failed" or any(case.status == "wrong" for case in sums):
        raise ResultError(f"{log.path} has a run that failed or had wrong results: its times say "
                          "nothing")
    cases = [case for case in sums if _mean_us(case) and case.size_bytes and not case.suspect]
    if not cases:
        raise ResultError(f"{log.path} has no all-reduce that can be used")
    size = log.run.world["size"]
    if size not in (None, gpus):
        raise ResultError(f"{log.path} is a run of {size} ranks, not of {gpus} (--gpus)")
    datatype = _activation_type(case.datatype for case in cases)
    times = Times(gpus, f"imported from {log.run.imported_from.file}, one launch, "
                        f"{datatype or 'of unknown type'}", link)
    for case in sorted(cases, key=lambda case: case.in_place):
        if case.datatype == datatype:
            times.spans.setdefault(case.size_bytes or 0, exact(_mean_us(case)))
    if log.end.status != "complete":
        times.notes.append(f"INCOMPLETE: {log.end.reason}.")
    times.notes += _size_notes(times)
    if size is None:
        times.notes.append("The log does not state its number of ranks.")
    times.notes.append("The log prints means of single calls, not of dependent calls, which a "
                       "decode step waits for; imported, it is shown and never judged.")
    return times


def _mean_us(case: ImportedCase) -> float:
    return case.time_us.mean or 0.0 if case.time_us else 0.0


def check_run(result: Result, gpus: int) -> None:
    """Raises ResultError unless the run has correct all-reduces over `gpus` ranks."""
    if not any(case.collective == "all_reduce" for case in result.cases):
        collective = result.cases[0].collective if result.cases else "nothing"
        raise ResultError(f"{result.path} is a run of {collective}, not of all_reduce")
    ranks = result.run.world["size"]
    if ranks != gpus:
        raise ResultError(f"{result.path} is a run of {ranks} ranks, not of {gpus} (--gpus)")
    for case in result.cases:
        if case.status == "wrong":
            raise ResultError(f"{result.path} has wrong results ({case.algorithm}): its times say "
                              "nothing")


def is_plain(case: Case) -> bool:
    """Whether a case is a measured sum, lossless (or of `auto`) and out of place."""
    return (case.collective == "all_reduce" and case.redop == "sum" and case.size_bytes > 0
            and not case.shape and not case.in_place and (cost_us(case) or 0) > 0
            and (case.snr_db is None or case.algorithm == "auto"))


def gpus_of(results: Sequence[Result | Imported]) -> list[str]:
    """The GPU names of all ranks that have one."""
    ranks: list[Mapping[str, Any]] = [
        rank for result in results for rank in result.run.world.get("ranks", [])]
    return [printable(str(rank["gpu"])) for rank in ranks if rank.get("gpu")]


def other_hardware(results: Sequence[Result | Imported], gpu: Gpu) -> str | None:
    """A sentence if the ranks ran on something else than this GPU; None otherwise."""
    ranks = [rank for result in results for rank in result.run.world.get("ranks", [])]
    if any(rank.get("device") == "cpu" for rank in ranks):
        return ("The times come from ranks on CPU cores: all of this is arithmetic about GPUs over "
                "a link that was measured elsewhere.")
    series = gpu.name.partition("-")[0]
    others = [name for name in gpus_of(results)
              if series not in "".join(filter(str.isalnum, name.lower()))]
    return f"The times come from {others[0]}, not from {gpu.name}." if others else None


def warnings(times: Times, results: Sequence[Result | Imported], gpu: Gpu) -> list[str]:
    """The reasons why these times may not apply to this GPU's link."""
    lines = [*times.notes, *filter(None, [other_hardware(results, gpu)])]
    peer = specs.link(gpu.peer) if gpu.peer else None
    if peer and not results and times.link.gb_s < peer.gb_s:
        lines.append(f"The GPUs' own link, {peer.name} ({number(peer.gb_s)} GB/s one way), is "
                     f"taken to be DOWN or missing, as --link {times.link.name} says.")
    size = max(times.spans, default=0)
    if size >= LARGE and gpus_of(results):
        expected = peer or times.link
        bus_gb_s = wire_factor(times.gpus) * size / times.spans[size].value / 1e3
        if bus_gb_s < DOWN * expected.gb_s:
            lines.append(f"{expected.name} has {number(expected.gb_s)} GB/s one way, and "
                         f"{size_text(size)} reached {number(bus_gb_s)}: the link is DOWN, not "
                         "bridged, or not used; see bench.doctor.")
    return lines
