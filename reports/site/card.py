"""`card`: one picture of a run to be shared, 1200 x 630 pixels: the answer first, a small plot, the machine without its
name, and the command. It says what the table says and nothing more."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reports.imports.imported import Imported, read_imported
from reports.store import exposed
from reports.store.case import find_states
from reports.store.exposed import costs_in, shapes
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.store.writing import write_named
from reports.tables import exposed_table, link, steps
from reports.tables.figure import COLOURS, DASHES, MARKERS, figure
from reports.tables.rows import Row, default_rows, views
from reports.tables.sentences import label, machine, number, opening, size_text, stopped_first, tick_text, token

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = "ours"
BARS = 6  # what there is room for
Points = Mapping[str, Sequence[tuple[float, float]]]  # of a line, by its name: (size in bytes, value)
Said = tuple[list[str], str, Points]  # sentences, the answer first; what the plot shows; its lines, or bars of size 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `card` takes."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run file, measured or imported")
    parser.add_argument("picture", metavar="OUT.png", type=Path, help="1200 x 630 pixels")


def card(arguments: argparse.Namespace) -> int:
    """Draws the card; the exit status, 0. Raises ResultError for what is no run and what cannot be written."""
    if arguments.picture.suffix != ".png":
        raise ResultError(f"{arguments.picture} cannot be drawn: a card ends in .png")
    if is_imported(arguments.run):
        _draw_imported(read_imported(arguments.run), arguments.picture)
        return 0
    result = read(arguments.run)
    run, date = result.run, re.match(r"\d{4}-\d\d-\d\d", result.run.run_id)
    faults = [*opening(result), *filter(None, [stopped_first(result)])]
    words = shlex.join(run.argv).replace("'<path>'", "<path>")
    draw(arguments.picture, faults, *_said(result), machine(result),
         f"mpirun -n {run.world['size']} python -m bench.{run.benchmark} {words}",
         f"Wiretax {run.version}, {date[0] if date else 'no date'}; [ ]: 95 % interval, this launch")
    return 0


def _draw_imported(imported: Imported, picture: Path) -> None:
    run, world = imported.run, imported.run.world
    faults = [] if imported.end.status == "complete" else [f"{imported.end.status.upper()}: {imported.end.reason}."]
    faults += ["WRONG RESULTS."] if any(case.status == "wrong" for case in imported.cases) else []
    timed = {case.size_bytes: (case.time_us.mean, case.bus_bw_gb_s)
             for case in sorted(imported.cases, key=lambda case: not case.in_place)
             if case.size_bytes and case.status == "ok" and not case.suspect and case.time_us and case.time_us.mean}
    said = []
    if timed:
        first, last = 16384 if 16384 in timed else min(timed), max(timed)
        said = [f"{run.benchmark}: {number(timed[first][0])} us at {size_text(first)}"]
        said += [f"busbw {number(timed[last][1])} GB/s at {size_text(last)}."] if timed[last][1] is not None else []
    lines = {run.benchmark: [(size, us) for size, (us, _) in sorted(timed.items())]} if timed else {}
    on = " and ".join(filter(None, dict.fromkeys(rank["gpu"] for rank in world["ranks"])))
    draw(picture, faults, [*said, "Imported: shown, never judged."], f"us, {run.statistic}", lines,
         f"{run.benchmark}: {world['size'] or 'unknown'} ranks on {on or 'machines that the log does not name'}",
         "the log does not say its command", f"imported from a log of {run.imported_from.format}; no interval")


def _said(result: Result) -> Said:
    states = find_states(result.blocks)
    costs = costs_in(result.blocks, states.of_block, states.longest)
    if link.is_of(result):
        said = sorted(link.findings(result), key=lambda sentence: sentence.startswith("One pair"))
        return said, "GB/s of the slowest pair", _link_points(result)
    if steps.is_of(result):
        kinds = [{case.algorithm: case for case in steps.best(cases, costs)} for cases in shapes(result)]
        bars = {name: [(0.0, float(np.median([*costs[case.case].values()])) / 1e3)]
                for name, case in kinds[0].items() if costs.get(case.case)}
        where = steps.title(next(iter(kinds[0].values()))).partition(";")[0]
        return [said for of in kinds for said in steps.verdict(result, of, costs)], f"ms a step, {where}", bars
    if exposed.is_of(result):
        found = [(cases[0], forms) for cases in shapes(result) if (forms := exposed.forms(cases, costs))]
        bars = {form.name: [(0.0, float(np.median([form.costs[turn] for turn in form.rounds])))]
                for _, forms in found[:1] for form in forms}
        return [exposed_table.verdict(*one) for one in found], "us of the first shape", bars
    first, *more = views(result) or [("isolated", None)]
    rows = default_rows(result, first, states)
    chained = default_rows(result, ("chained", None), states) if ("chained", None) in more else rows
    library = next((row.library.library or "library" for row in rows if row.library), "library")
    lines = {library: [(row.size_bytes, row.library_us) for row in rows if row.library_us],
             OURS: [(row.size_bytes, row.ours_us) for row in rows if row.ours_us]}
    said = [*_answers(rows), *filter(None, [token(result, chained)] if result.run.world["size"] > 1 else [])]
    return said, f"us, {first[0]}", {name: line for name, line in lines.items() if line}


def _answers(rows: Sequence[Row]) -> list[str]:
    """What the table says of a token's size, or the smallest, and of the largest."""
    timed = [row for row in rows if row.ours_us is not None or row.library_us is not None]
    if not timed:
        return ["Nothing was measured."]
    first = next((row for row in timed if row.size_bytes == 16384), timed[0])
    if first.ratio and first.library:
        ratio, low, high = first.ratio
        if low is not None and high is not None and not low <= 1 <= high:
            said = [f"ours {ratio:.2f}x as fast as {first.library.library} at {label(first)} [{low:.2f} {high:.2f}]"]
        else:
            few = " (too few blocks)" if low is None else ""
            said = [f"ours {number(first.ours_us)}, {first.library.library} {number(first.library_us)} us at "
                    f"{label(first)}: not told apart{few}"]
    else:
        us, who = (first.ours_us, "ours") if first.ours_us is not None else (first.library_us, "library")
        said = [f"{who} {number(us)} us at {label(first)}"]
    last = timed[-1].ours or timed[-1].library
    if last and last.bus_bw_gb_s:
        bound = f", {last.share_of_bound:.0%} of the bound" if last.share_of_bound else ""
        said.append(f"busbw {number(last.bus_bw_gb_s)} GB/s at {label(timed[-1])}{bound}.")
    return said


def _link_points(result: Result) -> Points:
    lines: dict[str, dict[int, float]] = {}
    for name in ("push", "pull"):
        for case in link.measured(result, name):
            least = lines.setdefault(name, {})
            least[case.size_bytes] = min(case.alg_bw_gb_s or 0.0, least.get(case.size_bytes, np.inf))
    return {name: sorted(least.items()) for name, least in lines.items()}


def draw(path: Path, faults: Sequence[str], sentences: Sequence[str], unit: str, points: Points, machine: str,
         command: str, about: str) -> None:
    """The card, whole or not at all. Raises ResultError where it cannot be written."""
    drawn = io.BytesIO()
    answer, *more = [*faults, *sentences] or ["Nothing was measured."]
    about_it = {"Description": "\n".join([machine, answer, *more, command, about])}  # for who cannot see the picture
    with warnings.catch_warnings(), figure(drawn, 1, 1, (12, 6.3), dpi=100, format="png",
                                           metadata=about_it) as (made, ((axes,),)):
        warnings.simplefilter("ignore")  # a letter that the font lacks is an empty box
        made.set_layout_engine("none")

        def put(text: Sequence[str] | str, width: int, most: int, y: float, size: float, room: int = 1130,
                **style: str) -> float:
            """At most so many lines of so many letters and pixels; where the next line goes."""
            lines = [line for one in ([text] if isinstance(text, str) else text) for line in textwrap.wrap(one, width)]
            lines = [*lines[: most - 1], f"{lines[most - 1]} ..."] if len(lines) > most else lines
            for line in lines:
                said = made.text(0.035, y, line, fontsize=size, va="top", **style)
                while said.get_window_extent().width > room:  # capitals, say
                    said.set_fontsize(said.get_fontsize() - 1)
                y -= size * 1.85 / 630
            return y

        put(machine, 92, 1, 0.965, 16, color="#444444")
        size, width = (25, 56) if len(answer) < 150 else (19, 74)
        y = put(answer, width, 4, 0.9, size, weight="bold", color="#B3261E" if faults else "black")
        put(more, 50, 10, y - 0.02, 16, room=590)
        put(command, 100, 2, 0.14, 15, family="monospace")
        put(about, 110, 1, 0.055, 15, color="#444444")
        axes.set_position((0.62, 0.27, 0.35, y - 0.36))
        _plot(axes, unit, points)
    write_named(path, drawn.getvalue())


def _plot(axes: Axes, unit: str, points: Points) -> None:
    """Lines over sizes, or bars where there are none."""
    axes.tick_params(labelsize=13)
    axes.set_title(unit, fontsize=14, loc="left")
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    if not points:
        axes.set_axis_off()
    elif not any(size for line in points.values() for size, _ in line):
        for row, (name, ((_, value),)) in enumerate(list(points.items())[:BARS]):
            axes.barh(row, value, color=COLOURS[row], alpha=0.4)
            axes.annotate(f" {name[:24]}: {number(value)}", (0, row), va="center", fontsize=14)
        axes.set_yticks([])
        axes.invert_yaxis()
    else:
        library = next(iter(points)) if OURS in points and len(points) > 1 else None
        for name, line, *style in zip(points, points.values(), COLOURS, MARKERS, DASHES, strict=False):
            colour, marker, dashes = style if name != library else ("black", "s", "-")
            axes.plot(*zip(*line, strict=True), label=name[:20], linewidth=2.6, markersize=7, color=colour,
                      marker=marker, linestyle=dashes)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        parts = (1, 2, 5) if high < 30 * low else (1,)
        values = [part * 10.0**power for power in range(-6, 13) for part in parts if low <= part * 10.0**power <= high]
        axes.set_yticks(values, [f"{value:g}" for value in values])
        ticks = sorted({size for line in points.values() for size, _ in line})
        shown = ticks[:: max(1, -(-len(ticks) // 4))]
        axes.set_xticks(shown, [tick_text(int(size)) for size in shown])
        axes.minorticks_off()
        axes.grid(True, alpha=0.25)
        axes.legend(fontsize=14, frameon=False)
