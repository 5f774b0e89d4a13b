"""The section about single iterations: their distribution, and ranks that are slow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reports.site.figures import PANEL_INCHES, lines_of_view
from reports.site.page import Row, Section
from reports.site.svg import Picture, draw_svg
from reports.store.samples import read_samples
from reports.store.schema import Case, Result
from reports.tables.figure import Line, figure, round_ticks
from reports.tables.rows import views
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, number, size_text

ECDF_POINTS = 41
SLOW_RANK_RATIO = 1.05  # of a rank's median time to the median of the other ranks

Times = NDArray[Any]  # of a case, shape (ranks, iterations), in microseconds


def iterations(heading: str, result: Result, lines: Sequence[Line]) -> Section:
    """The stored iterations at decode's size and at the largest: a picture for each size and a row
    for each case. Raises ResultError for samples that cannot be read."""
    first = lines_of_view(result, lines, views(result)[0]) if lines else []
    sizes = sorted({case.size_bytes for line in first for case in line.cases if case.samples})
    pictures: list[Picture] = []
    rows: list[Row] = []
    sentences: list[str] = []
    if sizes:
        small = min(sizes, key=lambda size: abs(size - TOKEN_CALL_SIZE_BYTES))
        sizes = list(dict.fromkeys([small, sizes[-1]]))
    for size in sizes:
        times_us: dict[int, Times] = {}
        for place, line in enumerate(first):
            for case in line.cases:
                samples = _read(result, case) if case.size_bytes == size else None
                if samples is not None:
                    times_us[place] = samples
                    rows.append({"size": size_text(size), "algorithm": line.name,
                                 **_cells(case, samples)})
        if times_us:
            pictures.append(_draw(f"ecdf{len(pictures)}", size, times_us, lines))
            sentences += _slow_ranks(size, list(times_us.values()))
    if not rows:
        return Section(heading, ["The run stored no single iterations."])
    return Section(heading, [
        *(sentences or [f"No rank takes more than {SLOW_RANK_RATIO:.2f}x the others' time at these "
                        "sizes."]),
        "Arrival skew is the time from the first rank's arrival to the last rank's; last, by rank, "
        "is how often each rank took longest."],
        pictures, table="iterations", caption="Stored iterations, slowest rank", rows=rows)


def _read(result: Result, case: Case) -> Times | None:
    """The times of a case, or None without valid samples."""
    samples = read_samples(result, case)
    if samples is None or not len(samples):
        return None
    ranks, counts = np.unique(samples[:, 1], return_counts=True)
    if len(set(counts.tolist())) > 1:
        return None
    # The sort is stable and keeps the order of iterations within a block and rank.
    by_rank = samples[np.lexsort((samples[:, 0], samples[:, 1]))]
    times_us = by_rank[:, 2].reshape(len(ranks), -1).astype(float)
    return times_us if np.isfinite(times_us).all() and (times_us > 0).all() else None


def _cells(case: Case, times_us: Times) -> Row:
    slowest_us = times_us.max(axis=0)
    low, middle, high, longest = (number(float(us))
                                  for us in np.percentile(slowest_us, [5, 50, 95, 100]))
    skew = case.arrival_skew_us
    last = np.bincount(times_us.argmax(axis=0), minlength=len(times_us)) / len(slowest_us)
    return {"iterations": str(len(slowest_us)), "5 %, us": low, "median, us": middle,
            "95 %, us": high, "longest, us": longest,
            "arrival skew, us": number(skew.median if skew else None),
            "skew 95 %, us": number(skew.p95 if skew else None),
            "last, by rank": " ".join(f"{share:.0%}" for share in last),
            "median by rank, us": " ".join(number(float(us))
                                           for us in np.median(times_us, axis=1))}


def _slow_ranks(size_bytes: int, times_us: Sequence[Times]) -> list[str]:
    """A sentence for each rank whose median time is well above the other ranks'."""
    ratios: dict[int, list[float]] = defaultdict(list)
    for times in times_us:
        for rank in range(len(times)) if len(times) > 1 else ():
            others = np.median(np.delete(times, rank, axis=0))
            ratios[rank].append(float(np.median(times[rank]) / others))
    medians = {rank: float(np.median(of_rank)) for rank, of_rank in ratios.items()}
    return [f"Rank {rank} is slow at {size_text(size_bytes)}: {ratio:.2f}x the others' time, in "
            "the median of the algorithms."
            for rank, ratio in medians.items() if ratio > SLOW_RANK_RATIO]


def _draw(name: str, size_bytes: int, times_us: Mapping[int, Times],
          lines: Sequence[Line]) -> Picture:
    """The cumulative distribution of the iterations of each line."""
    shares = np.linspace(0, 1, ECDF_POINTS)

    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, PANEL_INCHES) as (drawing, ((axes,),)):
            for place, times in times_us.items():
                style = lines[place].style | {"linewidth": 1.6, "markersize": 5}
                axes.plot(np.quantile(times.max(axis=0), shares), shares, drawstyle="steps-post",
                          markevery=8, **style, label=lines[place].name, gid=f"line{place}")
            axes.set_xscale("log")
            round_ticks(axes.xaxis)
            axes.minorticks_off()
            axes.grid(True, alpha=0.25)
            axes.set_xlabel("time of an iteration, its slowest rank, us")
            axes.set_ylabel("part of the iterations")
            axes.tick_params(labelsize=8)
            handles, labels = axes.get_legend_handles_labels()
            drawing.legend(handles, labels, loc="outside lower center",
                           ncols=3 if max(map(len, labels)) < 26 else 1, frameon=False, fontsize=8)

    title = f"Iterations at {size_text(size_bytes)}: the part that took no longer"
    description = (f"{len(times_us)} lines, each from its fastest iteration to its slowest; the "
                   "further left, the faster, and the steeper, the steadier. Logarithmic "
                   "horizontal axis.")
    return Picture(title, "iterations", draw_svg(name, draw, title, description))
