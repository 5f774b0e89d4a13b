"""A run as a picture: time and busbw against size, one line an algorithm, the library in black, the bound dashed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from reports.store import exposed
from reports.store.case import bus_factor, late_us
from reports.store.result import ResultError
from reports.store.schema import Case, Result
from reports.tables import link, steps
from reports.tables.figure import (
    COLOURS,
    DASHES,
    MARKERS,
    Style,
    draw_line,
    figure,
    interval_us,
    kind_of,
    lines_of,
    style_of,
)
from reports.tables.rows import cost_us, shown_cases, views
from reports.tables.sentences import shape_words, tick_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REGIMES = [(16384, "left", "latency-bound:\ndecode, 16 KB"), (33554432, "right", "bandwidth-bound:\nprefill, 32 MB")]


def own_picture(result: Result) -> Callable[[Result, Path | IO[Any]], None] | None:
    """What draws a run that is no sweep over sizes; None for one that is."""
    if link.is_of(result):
        from reports.tables.link_plot import draw as draw_link

        return draw_link
    if exposed.is_of(result):
        from reports.tables.exposed_plot import draw as draw_exposed

        return draw_exposed
    if steps.is_of(result):
        from reports.tables.steps_plot import draw as draw_steps

        return draw_steps
    if any(case.routing for case in result.cases):
        from reports.tables.routed_plot import draw as draw_routed

        return draw_routed
    return None


def plot(result: Result, path: Path | IO[Any]) -> None:
    """Draw the run into `path`, an .svg or .png file or a stream: time in microseconds and busbw in GB/s.

    Raises ResultError for another suffix, a run with nothing to draw, or a file that cannot be written.
    """
    kind_of(path)
    if draw := own_picture(result):
        return draw(result, path)
    (mode, shape), *_ = views(result) or [("isolated", None)]
    cases = [case for case in shown_cases(result, (mode, shape)) if cost_us(case) is not None and case.size_bytes > 0]
    if not cases:
        raise ResultError(f"{result.path} has no measured case to draw")
    with figure(path, 1, 2, (13, 5.8)) as (made, ((times, bandwidths),)):
        factor = 0 if late_us(shape) else bus_factor(cases[0].collective, result.run.world["size"])
        styles = cycle(zip(COLOURS, MARKERS, DASHES, strict=True))
        for label, line in lines_of(cases).items():
            style = {"label": label} | style_of(line[0].algorithm, len(line), styles)
            sizes = [case.size_bytes for case in line]
            draw_line(times, sizes, [interval_us(case.total_us or case.time_us) for case in line], style)
            if factor:
                busbws = [case.size_bytes * factor / 1e3 / interval_us(case.time_us) for case in line]
                draw_line(bandwidths, sizes, busbws, style)
        _draw_bound(times, bandwidths, cases, factor)

        consumed = any(case.consume_us for case in cases)
        times.set_ylabel("time, us: collective + reading its result" if consumed else "time of one call, us")
        bandwidths.set_ylabel("busbw, GB/s: collective alone")
        if not factor:
            alone = "a late rank" if late_us(shape) else "one rank"
            bandwidths.text(0.5, 0.5, f"busbw means nothing with {alone}", ha="center", transform=bandwidths.transAxes,
                            bbox={"facecolor": "white", "edgecolor": "none"})
        for axes in (times, bandwidths):
            dress(axes, sorted({case.size_bytes for case in cases}))
        made.suptitle(_title(result, cases, ", ".join([mode, *shape_words(shape)])))
        handles, labels = times.get_legend_handles_labels()
        made.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7), frameon=False)


def _draw_bound(times: Axes, bandwidths: Axes, cases: list[Case], factor: float) -> None:
    """The lowest bound of any algorithm at each size: what the machine's own parts allow."""
    every = [(case.size_bytes, case.bound_us) for case in cases if case.bound_us]
    if bounds := dict(sorted(every, reverse=True)):  # of a size the last, which is the lowest
        style: Style = {"color": "#444444", "linestyle": "--", "linewidth": 1.2, "label": "bound (collective alone)",
                        "marker": "_" if len(bounds) == 1 else None, "markersize": 14}
        times.plot(list(bounds), list(bounds.values()), **style)
        if factor:
            bandwidths.plot(list(bounds), [size * factor / us / 1e3 for size, us in bounds.items()], **style)


def dress(axes: Axes, sizes: list[int], scale: str = "log") -> None:
    """Round values, room above, and the two ends of the range named; `scale` is the vertical axis's."""
    axes.set_xscale("log", base=2)
    axes.set_yscale(scale)
    shown = sizes[:: 1 + (len(sizes) - 1) // 13]
    axes.set_xticks(shown, [tick_text(size) for size in shown])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    low, high = axes.get_ylim()
    if scale == "log":
        high *= (high / low) ** 0.14
        axes.set_ylim(low, high)
        # Round values, closer together where the axis spans less.
        steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high / low < 20 else (1, 2, 5) if high / low < 1e3 else (1,)
        ticks = [tick for power in range(-6, 13) for step in steps if low <= (tick := step * 10.0**power) <= high]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    else:
        axes.set_ylim(0, high * 1.14)
    axes.grid(True, alpha=0.25)
    axes.set_xlabel("size, bytes")
    for size, side, name in REGIMES:
        if sizes[0] <= size <= sizes[-1]:
            axes.axvline(size, color="#888888", linestyle=":", linewidth=1, zorder=0)
            axes.annotate(name, (size, 0.98), xycoords=axes.get_xaxis_transform(), ha=side, va="top", fontsize=9,
                          xytext=(5 if side == "left" else -5, 0), textcoords="offset points", color="#444444")


def _title(result: Result, cases: list[Case], view: str) -> str:
    run, case = result.run, cases[0]
    ranks = run.world.get("ranks", [])
    device = f" on {ranks[0].get('device')} {ranks[0].get('arch', '')}".rstrip() if ranks else ""
    library = next((f", against {case.library}" for case in cases if case.library), "")
    place = ", in place" if case.in_place else ""
    unfinished = "" if result.complete else " (INCOMPLETE)"
    size = run.world["size"]
    return (f"{run.benchmark}: {size} {'rank' if size == 1 else 'ranks'}{device}{library}; "
            f"{case.datatype} {case.redop}, {view}{place}{unfinished}")
