"""`card`: one picture of a run to share, 1200 x 630 pixels: the answer, a plot, and the command. It
does not name the machine."""

import argparse
import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.imports.imported import Imported, read_imported
from reports.site import shared
from reports.store.case import FUSED_BENCHMARKS, find_states
from reports.store.report_json import write_json
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.store.writing import write_named
from reports.tables import exposed_table, link, rows, sentences, steps
from reports.tables.command import command_of
from reports.tables.figure import COLOURS, dress, figure, styles_of
from reports.tables.headline import headline
from reports.tables.rows import token
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, number
from reports.tables.show import headline_of, imported_machine, imported_points

OURS = "ours"
INCHES, DOTS_PER_INCH = (12, 6.3), 100
WIDTH_PIXELS, LEAST_POINTS = 1130, 6  # of the card's text
OTHER_BAR = "#BBBBBB"

Lines = Mapping[str, Sequence[tuple[int, float]]]  # (size in bytes, value) by name
Bars = Mapping[str, tuple[float, str]]  # (value, colour) by name
Plot = tuple[str, Lines, Bars]  # the unit, and lines over sizes or bars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a run file, measured or imported")
    parser.add_argument("picture", metavar="OUT.png", type=Path, help="1200 x 630 pixels")


def card(arguments: argparse.Namespace) -> int:
    """Draw the card. Returns the exit status, 0. Raises ResultError for a file that is not a run,
    and for a picture that cannot be written."""
    if arguments.picture.suffix != ".png":
        raise ResultError(f"{arguments.picture} cannot be drawn: a card ends in .png")
    if is_imported(arguments.run):
        imported = read_imported(arguments.run)
        machine, command = imported_machine(imported), "the log does not say its command"
        source = f"imported from a log of {imported.run.imported_from.format}; no interval"
        faults, answers, plot = _imported_answer(imported)
        title = headline([imported], imported_points)
    else:
        result = read(arguments.run)
        machine, command = sentences.machine(result), command_of(result.run)
        source = (
            f"Wiretax {result.run.version}, {shared.start_time(result.run)}; [ ]: 95 % "
            "interval, this launch"
        )
        faults, (answers, plot) = sentences.opening(result), _answer(result)
        title = headline_of(result)
    texts = [*faults, title, *answers]
    draw(arguments.picture, [machine, *texts, command, source], bool(faults), plot)
    if arguments.json:
        write_json(
            "card",
            picture=arguments.picture,
            machine=machine,
            sentences=texts,
            reproduce=command,
            source=source,
            faults=faults,
        )
    return 0


def _answer(result: Result) -> tuple[list[str], Plot]:
    benchmark = result.run.benchmark
    if benchmark == link.BENCHMARK:
        gb_s = link.rates(result)["min"]
        lines = {name: list(gb_s[name].items()) for name in ("push", "pull") if name in gb_s}
        return (
            sorted(link.findings(result), key=lambda line: line.startswith("One pair")),
            ("GB/s of the slowest pair", lines, {}),
        )
    if benchmark in steps.BENCHMARKS:
        groups = steps.groups(result)
        title = steps.title(next(iter(groups[0].values())).case).partition(";")[0]
        bars = {
            form.name: (form.median_us / 1e3, steps.COLOURS.get(kind, OTHER_BAR))
            for kind, form in groups[0].items()
            if form.median_us
        }
        return (
            [line for group in groups for line in steps.verdict(result, group)],
            (f"ms a step, {title}", {}, bars),
        )
    if benchmark in FUSED_BENCHMARKS:
        shapes = [(cases[0], forms) for cases, forms in exposed_table.groups(result) if forms]
        bars = {
            form.name: (form.median_us, exposed_table.COLOURS.get(kind, OTHER_BAR))
            for _, forms in shapes[:1]
            for kind, form in forms.items()
            if form.median_us
        }
        return (
            [exposed_table.verdict(*shape) for shape in shapes],
            ("time, us, of the first shape", {}, bars),
        )
    return _against_library(result)


def _against_library(result: Result) -> tuple[list[str], Plot]:
    """The sentences and the plot of the run's first view: ours beside the library over sizes."""
    states = find_states(result.blocks)
    view = rows.views(result)[0]
    table = rows.default_rows(result, view, states)
    timed = [row for row in table if row.ours_us is not None or row.library_us is not None]
    if not timed:
        return [], ("", {}, {})
    # At decode's size, or at the smallest size.
    row = next((row for row in timed if row.size_bytes == TOKEN_CALL_SIZE_BYTES), timed[0])
    library = next((row.library.library or "library" for row in table if row.library), "library")
    times_us = {OURS: row.ours_us, library: row.library_us}
    times = ", ".join(f"{name} {number(us)}" for name, us in times_us.items() if us is not None)
    answer = f"{times} us at {row.label}"
    if row.ratio:
        ratio, low, high = row.ratio
        answer += ": no clear difference" + " (too few blocks)" * (low is None)
        if low and high and not low <= 1 <= high:
            answer = f"ours {ratio:.2f}x as fast as {library} at {row.label} [{low:.2f} {high:.2f}]"
    largest = timed[-1].ours or timed[-1].library
    assert largest
    busbw = _busbw_sentence(largest.bus_bw_gb_s, timed[-1].label, largest.share_of_bound)
    chained = rows.default_rows(result, ("chained", None), states)
    lines = {
        library: [(row.size_bytes, row.library_us) for row in table if row.library_us],
        OURS: [(row.size_bytes, row.ours_us) for row in table if row.ours_us],
    }
    bars = {
        f"{name}, {each.label}": (us, colour)
        for each in (timed[0], timed[-1])
        if each.skew
        for name, us, colour in (
            (library, each.library_us, "black"),
            (OURS, each.ours_us, COLOURS[0]),
        )
        if us
    }
    return (
        [answer, *busbw, *filter(None, [token(result, chained or table)])],
        (f"time, us, {view[0]}", {} if bars else lines, bars),
    )


def _busbw_sentence(busbw_gb_s: float | None, size: str, share: float | None = None) -> list[str]:
    bound = f", {share:.0%} of the bound" if share else ""
    return [f"busbw {number(busbw_gb_s)} GB/s at {size}{bound}."] if busbw_gb_s else []


def _imported_answer(imported: Imported) -> tuple[list[str], list[str], Plot]:
    """The faults, the sentences and the plot of an imported log."""
    run, end = imported.run, imported.end
    faults = [] if end.status == "complete" else [f"{end.status.upper()}: {end.reason}."]
    if any(case.status == "wrong" for case in imported.cases):
        faults.append("WRONG RESULTS.")
    timed = {
        case.size_bytes: case.time_us.mean
        for case in sorted(imported.cases, key=lambda case: not case.in_place)
        if case.size_bytes
        and case.status == "ok"
        and not case.suspect
        and case.time_us
        and case.time_us.mean
    }
    lines = {run.benchmark: sorted(timed.items())}
    return (faults, ["Imported: shown, never judged."], (f"time, us, {run.statistic}", lines, {}))


def draw(path: Path, texts: Sequence[str], is_faulty: bool, plot: Plot) -> None:
    """Write the card. `texts`, its description for screen readers too, are the machine, the answer,
    more sentences, the command and the source. Raises ResultError if it cannot be written."""
    file = io.BytesIO()
    with (
        warnings.catch_warnings(),
        figure(
            file,
            1,
            1,
            INCHES,
            margins=(0.62, 0.27, 0.97, 0.5),
            dpi=DOTS_PER_INCH,
            format="png",
            metadata={"Description": "\n".join(texts)},
        ) as (drawing, ((axes,),)),
    ):
        warnings.simplefilter("ignore")  # a letter without a glyph is an empty box
        machine, answer, *more, command, source = texts
        grey = "#444444"
        y = _write(drawing, (0.965, 0.07, WIDTH_PIXELS), [machine], 16, color=grey)
        y = _write(
            drawing,
            (y - 0.015, 0.2, WIDTH_PIXELS),
            [answer],
            25,
            weight="bold",
            color="#B3261E" if is_faulty else "black",
        )
        _write(drawing, (y - 0.02, y - 0.18, 590), more, 16)
        _write(drawing, (0.14, 0.085, WIDTH_PIXELS), [command], 15, family="monospace")
        _write(drawing, (0.055, 0.045, WIDTH_PIXELS), [source], 15, color=grey)
        axes.set_position((0.62, 0.25, 0.35, y - 0.34))
        _plot(axes, *plot)
    write_named(path, file.getvalue())


def _write(
    drawing: Any,
    box: tuple[float, float, float],
    paragraphs: Sequence[str],
    points: int,
    **style: Any,
) -> float:
    """Write text from the top of a box of (top, height, width in pixels) downwards, in letters of
    at most this size, small enough for the box; cut if even the smallest are too large. Returns the
    height of the next line."""
    y, most_height, width_pixels = box
    for size in range(points, LEAST_POINTS - 1, -1):
        size_pixels = size * DOTS_PER_INCH / 72
        letters = int(width_pixels / (0.56 * size_pixels))  # of mean width
        line_height = 1.33 * size_pixels / (INCHES[1] * DOTS_PER_INCH)
        lines = [line for text in paragraphs for line in textwrap.wrap(text, letters)]
        most_lines = int(most_height / line_height)
        if len(lines) <= most_lines:
            break
    else:
        lines = [*lines[: most_lines - 1], f"{lines[most_lines - 1]} ..."]
    for line in lines:
        text = drawing.text(0.035, y, line, va="top", fontsize=size, **style)
        _shrink(text, width_pixels)  # capitals are wide
        y -= line_height
    return y


def _shrink(text: Any, width_pixels: float) -> None:
    while text.get_window_extent().width > width_pixels and text.get_fontsize() > 2:
        text.set_fontsize(text.get_fontsize() - 1)


def _plot(axes: Any, unit: str, lines: Lines, bars: Bars) -> None:
    width_pixels = axes.bbox.width
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=13)
    # Ours has the colour of `auto`, and a transfer its own, as in the other pictures.
    keys = [
        ("auto", "copied") if name == OURS else (name if name in link.RATES else "library", "")
        for name in lines
    ]
    for (name, points), style in zip(lines.items(), styles_of(keys), strict=True):
        wide = style | {"markersize": 7, "linewidth": 2.6}
        axes.plot(*zip(*points, strict=True), label=textwrap.fill(name, 36), **wide)
    for row, (name, (value, colour)) in enumerate(bars.items()):
        axes.barh(row, value, color=colour, alpha=0.4)
        words = textwrap.fill(f"{name}: {number(value)}", 40)
        _shrink(
            axes.annotate(
                words,
                (0, row),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=14 - 2 * words.count("\n"),
            ),
            0.96 * width_pixels,
        )
    sizes = sorted({size for points in lines.values() for size, _ in points})
    if sizes:
        dress(axes, sizes, most_ticks=5)
        legend = axes.legend(
            title=unit,
            fontsize=14,
            title_fontsize=14,
            frameon=False,
            borderpad=0,
            alignment="left",
            loc="lower left",
            bbox_to_anchor=(0, 1.03),
        )
        for text in (legend.get_title(), *legend.texts):
            _shrink(text, 0.85 * width_pixels)
        left, bottom, width, height = axes.get_position().bounds
        height -= legend.get_window_extent().height / (INCHES[1] * DOTS_PER_INCH) - 0.04
        axes.set_position((left, bottom, width, height))
    elif bars:
        _shrink(axes.set_title(unit, fontsize=14, loc="left"), width_pixels)
        axes.set_yticks([])
        axes.invert_yaxis()
    else:
        axes.set_axis_off()
