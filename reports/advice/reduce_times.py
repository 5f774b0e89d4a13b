"""What an all-reduce takes, by its size: from runs of `bench.allreduce`, or where there is none from a link's figures.

Up to 512 KiB the mean of a chain of dependent calls counts, which is what a decode step pays; above, the collective and
the reading of its result (`total_us`). Of a run that has it `auto` counts, else the library, each in its faster
variant. Sizes that were not measured are read off the alpha-beta fit (`fit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reports.advice import specs
from reports.advice.serving import Span, link_all_reduce_us, sure, wire_factor
from reports.advice.specs import Gpu, Link
from reports.imports.imported import Imported
from reports.store.foreign import printable
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.store.stats import median_interval
from reports.tables.figure import interval_us
from reports.tables.rows import cost_us
from reports.tables.sentences import machine, number, opening, size_text
from reports.trends.fit import fits_of, predict_us
from reports.trends.fit_records import Fit

CHAINED_UP_TO = 512 << 10
LARGE = 1 << 20  # from here on a time tells a bandwidth
DOWN = 0.5  # of a link's bandwidth: less than that, and the link is called out


@dataclass
class Times:
    """All-reduces over `gpus` ranks: `at` their measured times in microseconds by size in bytes, `fits` for sizes in
    between and beyond; where `at` is empty, they come from `link`. `words` say in a line where they are from, `notes`
    what to know of them."""

    gpus: int
    words: str
    link: Link
    at: dict[int, Span] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __call__(self, size_bytes: float) -> Span:
        """Microseconds of an all-reduce of so many bytes, with its interval. Without a fit they lie on a line between
        sizes, in logarithms; below the smallest they are the smallest's. Beyond the largest they grow as bytes do, or,
        where that is too small to tell a bandwidth, by what the link's figures say of the bytes that are more."""
        if not self.at:
            base_us = float(specs.tables()["latency"]["all_reduce_us"])
            return sure(link_all_reduce_us(self.link, base_us, self.gpus, size_bytes))
        if size_bytes in self.at:
            return self.at[int(size_bytes)]
        sizes = sorted(self.at)
        if sizes[-1] < min(size_bytes, LARGE):
            more_us = wire_factor(self.gpus) * (size_bytes - sizes[-1]) / self.link.gb_s / 1e3
            return self.at[sizes[-1]].times(1, plus=more_us)
        if by_fit := self._by_fit(size_bytes):
            value, low, high = min(by_fit, key=lambda found: found[0])
            return Span(value, value if low is None else low, value if high is None else high)
        if size_bytes >= sizes[-1]:
            return self.at[sizes[-1]].times(size_bytes / sizes[-1])
        size = max(size_bytes, sizes[0])
        return Span(*(float(np.exp(np.interp(np.log(size), np.log(sizes), np.log([self.at[s][end] for s in sizes]))))
                      for end in range(3)))

    def _by_fit(self, size_bytes: float) -> list[tuple[float, float | None, float | None]]:
        mode = "chained" if size_bytes <= CHAINED_UP_TO else "isolated"
        return [found for fit in self.fits if fit.mode == mode and (found := predict_us(fit, size_bytes))[0] > 0]

    def how(self, size_bytes: int) -> str:
        """Whence a size that was not measured has its time, as words behind it."""
        if not self.at or size_bytes in self.at:
            return ""
        if max(self.at) < min(size_bytes, LARGE):
            return f", ASSUMED from {size_text(max(self.at))} on"
        return " by the fit" if self._by_fit(size_bytes) else " between sizes that were measured"

    def bus_gb_s(self) -> tuple[int, float] | None:
        """The largest size that was measured, where it is 1 MiB or more, and its bus bandwidth in GB/s."""
        size = max(self.at, default=0)
        return (size, wire_factor(self.gpus) * size / self.at[size].value / 1e3) if size >= LARGE else None


def assumed(link: Link, gpus: int) -> Times:
    """Times by a link's figures, marked as what they are."""
    return Times(gpus, f"ASSUMED, not measured: {link.name}, {number(link.gb_s)} GB/s one way "
                       f"({number(link.both_ways_gb_s)} both ways; {link.source})", link)


def measured(results: Sequence[Result], gpus: int, link: Link) -> Times:
    """Times by runs of `bench.allreduce` on one machine. Raises ResultError for runs of another collective, another
    number of ranks or several machines, and for such as have wrong results or none."""
    for result in results:
        check(result, gpus)
    if len({result.run.machine_id for result in results}) > 1:
        raise ResultError(f"{results[0].path} and the other runs are of several machines")
    types = dict.fromkeys(case.datatype for result in results for case in result.cases if counts(case))
    datatype = min(types, key=lambda name: name not in ("float16", "bfloat16"), default="")  # as activations are
    cases = [[case for case in result.cases if counts(case) and case.datatype == datatype] for result in results]
    kinds = [{case.algorithm for case in of_run} for of_run in cases]
    algorithm = next((name for name in ("auto", "library") if all(name in kind for kind in kinds)), None)
    if algorithm is None:
        raise ResultError(f"{results[0].path} has no all-reduce of auto or of a library that was measured")
    at, single, trips_ns = dict[int, Span](), list[int](), list[float]()
    for size in sorted({case.size_bytes for of_run in cases for case in of_run if case.algorithm == algorithm}):
        found = [_at(of_run, algorithm, size) for of_run in cases]
        if variants := set.intersection(*(set(by_variant) for by_variant in found)):
            best = min(([of_run[name] for of_run in found] for name in variants),
                       key=lambda chosen: np.median([*map(_cost_us, chosen)]))
            at[size] = _span(best)
            trips_ns += [case.link_rtt_ns.median if case.link_rtt_ns else 1.0 for case in best]
            if size <= CHAINED_UP_TO and any(case.mode != "chained" for case in best):
                single.append(size)
    launches = f"{len(results)} launches" if len(results) > 1 else f"run {results[0].run.run_id}, this launch"
    library = next((case.library for of_run in cases for case in of_run if case.algorithm == "library"), None)
    name = algorithm if algorithm == "auto" else printable(library or "the library")
    said = [f"No chain of dependent calls was measured at {' and '.join(map(size_text, single[:2]))}: single calls "
            "stand for it, which are faster than what a decode step pays."] * bool(single)
    said += [*small(at, link), *(line for result in results for line in opening(result))]
    fits = [fit for fit in fits_of(results) if fit.regimes and fit.algorithm == algorithm and not fit.shape
            and not fit.in_place and fit.collective == "all_reduce" and fit.datatype == datatype]
    away = [abs(np.log((fit.link_rtt_ns or 1.0) / np.median(trips_ns))) for fit in fits]  # from the state of `at`
    near = [fit for fit, distance in zip(fits, away, strict=True) if distance == min(away)]
    return Times(gpus, f"measured: {name}, {datatype}, {launches}; {machine(results[0])}", link, at, near, said)


def small(at: Mapping[int, Span], link: Link) -> list[str]:
    """What to know where nothing was measured that tells a bandwidth."""
    largest = max(at, default=0)
    return [f"Nothing above {size_text(largest)} was measured: what larger all-reduces take, as those of prefill, is "
            f"ASSUMED by the bandwidth of {link.name}."] * (largest < LARGE)


def printed(imported: Imported, gpus: int, link: Link) -> Times:
    """Times as an imported log prints them: means of single calls, without an interval, of sums of 16 bits where there
    are such, out of place where there is one. Raises ResultError for a log of another collective or number of ranks,
    and for one with wrong results."""
    times = Times(gpus, f"imported from {imported.run.imported_from.file}, one launch", link)
    cases = [case for case in imported.cases if case.collective == "all_reduce" and case.redop in (None, "sum")]
    if imported.end.status == "failed" or any(case.status == "wrong" for case in cases):
        raise ResultError(f"{imported.path} is of a run that failed or had wrong results: its times say nothing")
    known = [case for case in cases if case.time_us and case.time_us.mean and case.size_bytes and not case.suspect]
    datatype = min((case.datatype for case in known), key=lambda name: name not in ("float16", "bfloat16"), default="")
    for case in sorted(known, key=lambda case: case.in_place):
        if case.datatype == datatype and case.size_bytes and case.time_us and case.time_us.mean:
            times.at.setdefault(case.size_bytes, sure(case.time_us.mean))
    if not times.at:
        raise ResultError(f"{imported.path} has no all-reduce that can be used")
    if (size := imported.run.world["size"]) not in (None, gpus):
        raise ResultError(f"{imported.path} is a run of {size} ranks, not of {gpus} (--gpus)")
    if imported.end.status != "complete":
        times.notes.append(f"INCOMPLETE: {imported.end.reason}.")
    times.words += f", {datatype or 'of unknown type'}"
    times.notes += small(times.at, link)
    times.notes += ["The log does not say how many ranks it is of."] * (size is None)
    times.notes.append("The log prints means of single calls, not of dependent ones, which a decode step waits for; "
                       "imported, it is shown and never judged.")
    return times


def check(result: Result, gpus: int) -> None:
    """Raises ResultError for a run that is not of all-reduces over so many ranks."""
    if not any(case.collective == "all_reduce" for case in result.cases):
        what = result.cases[0].collective if result.cases else "nothing"
        raise ResultError(f"{result.path} is a run of {what}, not of all_reduce")
    ranks = result.run.world["size"]
    if ranks != gpus:
        raise ResultError(f"{result.path} is a run of {ranks} ranks, not of {gpus} (--gpus)")
    if wrong := [case for case in result.cases if case.status == "wrong"]:
        raise ResultError(f"{result.path} has wrong results ({wrong[0].algorithm}): its times say nothing")


def counts(case: Case) -> bool:
    """Whether a case is a plain all-reduce, lossless and out of place, that was measured."""
    return (case.collective == "all_reduce" and (cost_us(case) or 0) > 0 and case.size_bytes > 0 and not case.shape
            and not case.in_place
            and case.redop == "sum" and (case.snr_db is None or case.algorithm == "auto"))


def _at(cases: Sequence[Case], algorithm: str, size_bytes: int) -> dict[str, Case]:
    """The case of each variant at this size: up to 512 KiB that of a chain, above it that of single calls, where there
    is one, else the other."""
    found = sorted(cases, key=lambda case: (case.mode == "chained") == (size_bytes <= CHAINED_UP_TO))
    return {case.variant: case for case in found if (case.algorithm, case.size_bytes) == (algorithm, size_bytes)}


def _cost_us(case: Case) -> float:
    return cost_us(case) or 0.0  # `counts` has seen that there is one


def _span(cases: Sequence[Case]) -> Span:
    """Over launches their median, with its interval from six on and the range of fewer; of one its own interval."""
    if len(cases) == 1:
        return Span(*interval_us(cases[0].total_us or cases[0].time_us).tolist())
    medians = [*map(_cost_us, cases)]
    middle, low, high = median_interval(medians)
    return Span(middle, min(medians) if low is None else low, max(medians) if high is None else high)


def gpus_of(results: Sequence[Result | Imported]) -> list[str]:
    """The names of the ranks' GPUs, as far as they are known."""
    ranks: list[Mapping[str, Any]] = [rank for result in results for rank in result.run.world.get("ranks", [])]
    return [printable(str(rank["gpu"])) for rank in ranks if rank.get("gpu")]


def other_hardware(results: Sequence[Result | Imported], gpu: Gpu) -> str | None:
    """That the ranks were not on this GPU, in a sentence; None where they were, or it is not known."""
    if any(rank.get("device") == "cpu" for result in results for rank in result.run.world.get("ranks", [])):
        return ("The times are of ranks on CPU cores: all of this is arithmetic about GPUs over a link that was "
                "measured elsewhere.")
    kind = gpu.name.partition("-")[0]
    others = [name for name in gpus_of(results) if kind not in "".join(filter(str.isalnum, name.lower()))]
    return f"The times are of {others[0]}, not of {gpu.name}." if others else None


def doubts(times: Times, results: Sequence[Result | Imported], gpu: Gpu) -> list[str]:
    """What speaks against taking these times for those of this GPU's link."""
    other, named = other_hardware(results, gpu), bool(gpus_of(results))
    said = [*times.notes, *([other] if other else [])]
    peer = specs.link(gpu.peer) if gpu.peer else None
    if peer and not results and times.link.gb_s < peer.gb_s:
        said.append(f"The GPUs' own link, {peer.name} ({number(peer.gb_s)} GB/s one way), is taken to be DOWN or not "
                    f"there, as --link {times.link.name} says.")
    if (bus := times.bus_gb_s()) and named:
        expected = peer or times.link
        if bus[1] < DOWN * expected.gb_s:
            said.append(f"{expected.name} has {number(expected.gb_s)} GB/s one way, and {size_text(bus[0])} reached "
                        f"{number(bus[1])}: the link is DOWN, not bridged, or not used; look at bench.doctor.")
    return said
