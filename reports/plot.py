"""A run as a picture: time and busbw against size, one line an algorithm, the library in black, the bound dashed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.case import bus_factor
from reports.result import ResultError
from reports.rows import cost_us, shown_cases
from reports.schema import Case, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart by readers with any colour vision; black is the library's.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"]
MARKERS = ["o", "^", "D", "v", "P", "X", "*"]
DASHES: list[Any] = ["-", (0, (8, 1.5)), "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (12, 2)), "-"]
REGIMES = [(16384, "left", "latency-bound:\ndecode, 16 KB"), (33554432, "right", "bandwidth-bound:\nprefill, 32 MB")]

Style = dict[str, Any]


def plot(result: Result, path: Path) -> None:
    """Draw the run into `path`, an .svg or .png file: time in microseconds and busbw in GB/s.

    Raises ResultError for another suffix, a run with nothing to draw, or a file that cannot be written.
    """
    if path.suffix not in (".svg", ".png"):
        raise ResultError(f"{path} cannot be drawn: a picture ends in .svg or .png")
    mode = "isolated" if shown_cases(result, "isolated") else "chained"
    cases = [case for case in shown_cases(result, mode) if cost_us(case) is not None and case.size_bytes > 0]
    if not cases:
        raise ResultError(f"{result.path} has no measured case to draw")
    import matplotlib

    matplotlib.use("Agg")
    # Words stay words in an .svg: found by a search, read by a screen reader.
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    figure, (times, bandwidths) = pyplot.subplots(1, 2, figsize=(13, 5.8), layout="constrained")
    factor = bus_factor(cases[0].collective, result.run.world["size"])
    styles = cycle(zip(COLOURS, MARKERS, DASHES, strict=True))
    for label, line in _lines(cases).items():
        style = {"label": label} | _style(line, styles)
        sizes = [case.size_bytes for case in line]
        _draw(times, sizes, [_cost_interval(case) for case in line], style)
        if factor:
            _draw(bandwidths, sizes, [_busbw_interval(case, factor) for case in line], style)
    _draw_bound(times, bandwidths, cases, factor)

    consumed = any(case.consume_us for case in cases)
    times.set_ylabel("time, us: collective + reading its result" if consumed else "time of one call, us")
    bandwidths.set_ylabel("busbw, GB/s: collective alone")
    if not factor:
        bandwidths.text(0.5, 0.5, "busbw means nothing with one rank", ha="center", transform=bandwidths.transAxes,
                        bbox={"facecolor": "white", "edgecolor": "none"})
    for axes in (times, bandwidths):
        _dress(axes, sorted({case.size_bytes for case in cases}))
    figure.suptitle(_title(result, cases, mode))
    handles, labels = times.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7), frameon=False)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        pyplot.close(figure)


def _lines(cases: list[Case]) -> dict[str, list[Case]]:
    """The cases by the name of their line, library and `auto` first, smallest size first."""
    lines: dict[str, list[Case]] = {}
    first = {"library": 0, "auto": 1}
    variants = {(case.algorithm, case.variant) for case in cases}
    for case in sorted(cases, key=lambda case: (first.get(case.algorithm, 2), case.size_bytes)):
        several = sum(algorithm == case.algorithm for algorithm, _ in variants) > 1
        name = case.library or case.algorithm
        lines.setdefault(f"{name} {case.variant}" if several else name, []).append(case)
    return lines


def _style(line: list[Case], others: Iterator[tuple[str, str, Any]]) -> Style:
    if line[0].algorithm == "library":
        return {"color": "black", "marker": "s", "linewidth": 2.2, "markersize": 5, "zorder": 4}
    if line[0].algorithm == "auto":
        # auto runs one of the others, so its line lies under theirs.
        return {"color": "#F0C808", "linewidth": 7, "alpha": 0.55, "zorder": 1,
                "marker": "s" if len(line) == 1 else None, "markersize": 11, "markeredgewidth": 0}
    colour, marker, dashes = next(others)
    return {"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 1.6, "markersize": 5, "zorder": 3}


def _cost_interval(case: Case) -> tuple[float, float, float]:
    summary = case.total_us or case.time_us
    assert summary
    low, high = summary.ci_low, summary.ci_high
    return summary.median, summary.median if low is None else low, summary.median if high is None else high


def _busbw_interval(case: Case, factor: float) -> tuple[float, float, float]:
    assert case.time_us
    ends = (case.time_us.median, case.time_us.ci_high, case.time_us.ci_low)
    middle, low, high = (case.size_bytes * factor / (end or case.time_us.median) / 1e3 for end in ends)
    return middle, low, high


def _draw(axes: Axes, sizes: list[int], intervals: list[tuple[float, float, float]], style: Style) -> None:
    middle, low, high = zip(*intervals, strict=True)
    axes.plot(sizes, middle, **style)
    axes.fill_between(sizes, low, high, color=style["color"], alpha=0.25, linewidth=0, zorder=2)


def _draw_bound(times: Axes, bandwidths: Axes, cases: list[Case], factor: float) -> None:
    """The lowest bound of any algorithm at each size: what the machine's own parts allow."""
    bounds: dict[int, float] = {}
    for case in sorted(cases, key=lambda case: case.size_bytes):
        if case.bound_us:
            bounds[case.size_bytes] = min(case.bound_us, bounds.get(case.size_bytes, case.bound_us))
    if bounds:
        style: Style = {"color": "#444444", "linestyle": "--", "linewidth": 1.2, "label": "bound (collective alone)",
                        "marker": "_" if len(bounds) == 1 else None, "markersize": 14}
        times.plot(list(bounds), list(bounds.values()), **style)
        if factor:
            bandwidths.plot(list(bounds), [size * factor / us / 1e3 for size, us in bounds.items()], **style)


def _dress(axes: Axes, sizes: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    shown = sizes[:: 1 + (len(sizes) - 1) // 13]
    axes.set_xticks(shown, [_tick(size) for size in shown])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.14)
    ticks = _decade_ticks(*axes.get_ylim())
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(True, alpha=0.25)
    axes.set_xlabel("size, bytes")
    for size, side, name in REGIMES:
        if sizes[0] <= size <= sizes[-1]:
            axes.axvline(size, color="#888888", linestyle=":", linewidth=1, zorder=0)
            axes.annotate(name, (size, 0.98), xycoords=axes.get_xaxis_transform(), ha=side, va="top", fontsize=9,
                          xytext=(5 if side == "left" else -5, 0), textcoords="offset points", color="#444444")


def _decade_ticks(low: float, high: float) -> list[float]:
    """Round values within the axis, closer together where it spans less."""
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high / low < 20 else (1, 2, 5) if high / low < 1e3 else (1,)
    ticks = [step * 10.0**power for power in range(-6, 13) for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def _tick(size_bytes: int) -> str:
    for unit, name in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.3g}{name}" if size_bytes < 100 * unit else f"{size_bytes / unit:.0f}{name}"
    return str(size_bytes)


def _title(result: Result, cases: list[Case], mode: str) -> str:
    run, case = result.run, cases[0]
    ranks = run.world.get("ranks", [])
    device = f" on {ranks[0].get('device')} {ranks[0].get('arch', '')}".rstrip() if ranks else ""
    library = next((f", against {case.library}" for case in cases if case.library), "")
    place = ", in place" if case.in_place else ""
    unfinished = "" if result.complete else " (INCOMPLETE)"
    size = run.world["size"]
    return (f"{run.benchmark}: {size} {'rank' if size == 1 else 'ranks'}{device}{library}; "
            f"{case.datatype} {case.redop}, {mode}{place}{unfinished}")
