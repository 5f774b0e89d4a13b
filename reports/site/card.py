"""`card`: one picture of a run to share, 1200 x 630 pixels: the answer, a plot, and the command.

The sentences also stand in the run's table. The card does not name the machine.
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reports.imports.imported import Imported, read_imported
from reports.site.figures import round_values
from reports.store.case import find_states
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.store.writing import write_named
from reports.tables import exposed_table, link, rows, sentences, steps
from reports.tables.figure import COLOURS, DASHES, MARKERS, figure
from reports.tables.forms import Form
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, number, size_text

NOTHING = "Nothing was measured."
OURS = "ours"
MOST_BARS = 6
INCHES, DOTS_PER_INCH = (12, 6.3), 100

Points = Mapping[str, Sequence[tuple[float, float]]]  # by line: (bytes, value); a bar has 0


@dataclass
class Card:
    """The words of a card and its plot. `sentences` starts with the answer."""

    sentences: Sequence[str]
    unit: str
    points: Points
    machine: str = ""
    command: str = ""
    source: str = ""
    is_faulty: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `card`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run file, measured or imported")
    parser.add_argument("picture", metavar="OUT.png", type=Path, help="1200 x 630 pixels")


def card(arguments: argparse.Namespace) -> int:
    """Draw the card. Returns the exit status, 0. Raises ResultError for a file that is not a run,
    and for a picture that cannot be written."""
    if arguments.picture.suffix != ".png":
        raise ResultError(f"{arguments.picture} cannot be drawn: a card ends in .png")
    if is_imported(arguments.run):
        draw(arguments.picture, imported_card(read_imported(arguments.run)))
    else:
        draw(arguments.picture, measured_card(read(arguments.run)))
    return 0


def measured_card(result: Result) -> Card:
    """The card of a measured run."""
    run = result.run
    faults = sentences.opening(result)
    date = re.match(r"\d{4}-\d\d-\d\d", run.run_id)
    words = shlex.join(run.argv).replace("'<path>'", "<path>")
    answer = _answer(result)
    return replace(
        answer, sentences=[*faults, *answer.sentences], is_faulty=bool(faults),
        machine=sentences.machine(result),
        command=f"mpirun -n {run.world['size']} python -m bench.{run.benchmark} {words}",
        source=f"Wiretax {run.version}, {date[0] if date else 'no date'}; [ ]: 95 % interval, "
        "this launch")


def imported_card(imported: Imported) -> Card:
    """The card of an imported log."""
    run, world, end = imported.run, imported.run.world, imported.end
    faults = []
    if end.status != "complete":
        faults.append(f"{end.status.upper()}: {end.reason}.")
    if any(case.status == "wrong" for case in imported.cases):
        faults.append("WRONG RESULTS.")
    timed = {case.size_bytes: (case.time_us.mean, case.bus_bw_gb_s)
             for case in sorted(imported.cases, key=lambda case: not case.in_place)
             if case.size_bytes and case.status == "ok" and not case.suspect
             and case.time_us and case.time_us.mean}
    answers = []
    if timed:
        small = TOKEN_CALL_SIZE_BYTES if TOKEN_CALL_SIZE_BYTES in timed else min(timed)
        answers.append(f"{run.benchmark}: {number(timed[small][0])} us at {size_text(small)}")
        busbw_gb_s = timed[max(timed)][1]
        if busbw_gb_s is not None:
            answers.append(f"busbw {number(busbw_gb_s)} GB/s at {size_text(max(timed))}.")
    points = {run.benchmark: [(size, us) for size, (us, _) in sorted(timed.items())]}
    gpus = " and ".join(filter(None, dict.fromkeys(rank["gpu"] for rank in world["ranks"])))
    return Card(
        [*faults, *answers, "Imported: shown, never judged."], f"us, {run.statistic}",
        points if timed else {}, is_faulty=bool(faults),
        machine=f"{run.benchmark}: {world['size'] or 'unknown'} ranks on "
        f"{gpus or 'machines that the log does not name'}",
        command="the log does not say its command",
        source=f"imported from a log of {run.imported_from.format}; no interval")


def _answer(result: Result) -> Card:
    """The sentences and the plot for the kind of benchmark."""
    if link.is_of(result):
        findings = sorted(link.findings(result), key=lambda line: line.startswith("One pair"))
        return Card(findings, "GB/s of the slowest pair", _link_points(result))
    if steps.is_of(result):
        groups = steps.groups(result)
        title = steps.title(next(iter(groups[0].values())).case).partition(";")[0]
        verdicts = [line for group in groups for line in steps.verdict(result, group)]
        return Card(verdicts, f"ms a step, {title}", _bars(groups[0].values(), 1e3))
    if exposed_table.is_of(result):
        shapes = [(cases[0], forms) for cases, forms in exposed_table.groups(result) if forms]
        return Card([exposed_table.verdict(case, forms) for case, forms in shapes],
                    "us of the first shape", _bars(shapes[0][1].values(), 1) if shapes else {})
    return _size_answer(result)


def _bars(forms: Iterable[Form], unit_us: float) -> Points:
    """The median of each form, in units of `unit_us` microseconds."""
    medians_us = {form.name: exposed_table.median_us(form) for form in forms}
    return {name: [(0.0, us / unit_us)] for name, us in medians_us.items() if us is not None}


def _link_points(result: Result) -> Points:
    """The bandwidth of the slowest pair at each size."""
    lines: dict[str, dict[int, float]] = {}
    for name in ("push", "pull"):
        for case in link.measured(result, name):
            slowest = lines.setdefault(name, {})
            slowest[case.size_bytes] = min(case.alg_bw_gb_s or 0.0,
                                           slowest.get(case.size_bytes, np.inf))
    return {name: sorted(slowest.items()) for name, slowest in lines.items()}


def _size_answer(result: Result) -> Card:
    """Ours beside the library over sizes, in the run's first view."""
    states = find_states(result.blocks)
    views = rows.views(result) or [("isolated", None)]
    table = rows.default_rows(result, views[0], states)
    chained = table
    if ("chained", None) in views[1:]:
        chained = rows.default_rows(result, ("chained", None), states)
    timed = [row for row in table if row.ours_us is not None or row.library_us is not None]
    lines: list[str | None] = [NOTHING]
    if timed:
        lines = [_ratio_sentence(timed), _busbw_sentence(timed)]
    if result.run.world["size"] > 1:
        lines.append(sentences.token(result, chained))
    library = next((row.library.library or "library" for row in table if row.library), "library")
    points = {library: [(row.size_bytes, row.library_us) for row in table if row.library_us],
              OURS: [(row.size_bytes, row.ours_us) for row in table if row.ours_us]}
    return Card([line for line in lines if line], f"us, {views[0][0]}",
                {name: line for name, line in points.items() if line})


def _ratio_sentence(table: Sequence[rows.Row]) -> str:
    """Ours against the library at decode's size, or at the smallest size."""
    row = next((row for row in table if row.size_bytes == TOKEN_CALL_SIZE_BYTES), table[0])
    size = sentences.label(row)
    if not (row.ratio and row.library):
        us, name = (row.library_us, "library") if row.ours_us is None else (row.ours_us, OURS)
        return f"{name} {number(us)} us at {size}"
    ratio, low, high = row.ratio
    if low is None or high is None or low <= 1 <= high:
        few = " (too few blocks)" if low is None else ""
        return (f"ours {number(row.ours_us)}, {row.library.library} {number(row.library_us)} us "
                f"at {size}: no clear difference{few}")
    return f"ours {ratio:.2f}x as fast as {row.library.library} at {size} [{low:.2f} {high:.2f}]"


def _busbw_sentence(table: Sequence[rows.Row]) -> str | None:
    """The bus bandwidth at the largest size."""
    case = table[-1].ours or table[-1].library
    if not case or not case.bus_bw_gb_s:
        return None
    bound = f", {case.share_of_bound:.0%} of the bound" if case.share_of_bound else ""
    return f"busbw {number(case.bus_bw_gb_s)} GB/s at {sentences.label(table[-1])}{bound}."


class Room(NamedTuple):
    """The space for a text: letters a line, lines, and the width in pixels."""

    letters: int
    lines: int
    width_pixels: int = 1130


def draw(path: Path, card: Card) -> None:
    """Write the card. Its words are also its description, for a screen reader. Raises ResultError
    if it cannot be written."""
    file = io.BytesIO()
    answer, *more = card.sentences or [NOTHING]
    words = {"Description": "\n".join([card.machine, answer, *more, card.command, card.source])}
    with warnings.catch_warnings(), figure(file, 1, 1, INCHES, dpi=DOTS_PER_INCH, format="png",
                                           metadata=words) as (drawing, ((axes,),)):
        warnings.simplefilter("ignore")  # a letter without a glyph is an empty box
        drawing.set_layout_engine("none")
        grey = "#444444"
        _write(drawing, 0.965, [card.machine], Room(92, 1), fontsize=16, color=grey)
        fontsize, letters = (25, 56) if len(answer) < 150 else (19, 74)
        y = _write(drawing, 0.9, [answer], Room(letters, 4), fontsize=fontsize, weight="bold",
                   color="#B3261E" if card.is_faulty else "black")
        _write(drawing, y - 0.02, more, Room(50, 10, 590), fontsize=16)
        _write(drawing, 0.14, [card.command], Room(100, 2), fontsize=15, family="monospace")
        _write(drawing, 0.055, [card.source], Room(110, 1), fontsize=15, color=grey)
        axes.set_position((0.62, 0.27, 0.35, y - 0.36))
        _plot(axes, card.unit, card.points)
    write_named(path, file.getvalue())


def _write(drawing: Any, y: float, paragraphs: Sequence[str], room: Room, **style: Any) -> float:
    """Write text at height `y`, cut to its room. Returns the height of the next line."""
    lines = [line for text in paragraphs for line in textwrap.wrap(text, room.letters)]
    if len(lines) > room.lines:
        lines = [*lines[: room.lines - 1], f"{lines[room.lines - 1]} ..."]
    for line in lines:
        text = drawing.text(0.035, y, line, va="top", **style)
        while text.get_window_extent().width > room.width_pixels:  # capitals are wide
            text.set_fontsize(text.get_fontsize() - 1)
        y -= style["fontsize"] * 1.85 / (INCHES[1] * DOTS_PER_INCH)
    return y


def _plot(axes: Any, unit: str, points: Points) -> None:
    """Lines over sizes, or bars if the points have no size."""
    axes.tick_params(labelsize=13)
    axes.set_title(unit, fontsize=14, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if not points:
        axes.set_axis_off()
    elif any(size for line in points.values() for size, _ in line):
        _plot_lines(axes, points)
    else:
        for row, (name, ((_, value),)) in enumerate(list(points.items())[:MOST_BARS]):
            axes.barh(row, value, color=COLOURS[row], alpha=0.4)
            axes.annotate(f" {name[:24]}: {number(value)}", (0, row), va="center", fontsize=14)
        axes.set_yticks([])
        axes.invert_yaxis()


def _plot_lines(axes: Any, points: Points) -> None:
    """Lines on logarithmic axes, the library's in black."""
    library = next(iter(points)) if OURS in points and len(points) > 1 else None
    for (name, line), *style in zip(points.items(), COLOURS, MARKERS, DASHES, strict=False):
        colour, marker, dashes = ("black", "s", "-") if name == library else style
        axes.plot(*zip(*line, strict=True), label=name[:20], linewidth=2.6, markersize=7,
                  color=colour, marker=marker, linestyle=dashes)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    values = round_values(low, high, (1, 2, 5) if high < 30 * low else (1,))
    axes.set_yticks(values, [f"{value:g}" for value in values])
    sizes = sorted({size for line in points.values() for size, _ in line})
    sizes = sizes[:: max(1, -(-len(sizes) // 4))]
    axes.set_xticks(sizes, [sentences.tick_text(int(size)) for size in sizes])
    axes.minorticks_off()
    axes.grid(True, alpha=0.25)
    axes.legend(fontsize=14, frameon=False)
