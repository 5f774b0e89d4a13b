"""`card`: one picture of a run to share, 1200 x 630 pixels: the answer, a plot, and the command.

The sentences also stand in the run's table. The card does not name the machine.
"""

from __future__ import annotations

import argparse
import io
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reports.imports.imported import Imported, read_imported
from reports.site import words
from reports.store.case import FUSED_BENCHMARKS, find_states
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.store.writing import write_named
from reports.tables import exposed_table, imported_table, link, rows, sentences, steps
from reports.tables.figure import COLOURS, dress, figure, styles_of
from reports.tables.forms import Form
from reports.tables.sentences import TOKEN_CALL_SIZE_BYTES, number, size_text
from reports.tables.summary import token

NOTHING = "Nothing was measured."
OURS = "ours"
MOST_BARS = 6
INCHES, DOTS_PER_INCH = (12, 6.3), 100


@dataclass
class Card:
    """The words of a card and its plot: lines over sizes in bytes, or bars. `sentences` starts with
    the answer."""

    sentences: Sequence[str]
    unit: str = ""
    lines: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=dict)
    machine: str = ""
    command: str = "the log does not say its command"
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
    path = arguments.run
    draw(arguments.picture, imported_card(read_imported(path)) if is_imported(path)
         else measured_card(read(path)))
    return 0


def measured_card(result: Result) -> Card:
    """The card of a measured run."""
    made, faults = _answer(result), sentences.opening(result)
    made.sentences, made.is_faulty = [*faults, *made.sentences], bool(faults)
    made.machine = sentences.machine(result)
    made.command = words.command_of(result.run)
    made.source = (f"Wiretax {result.run.version}, {words.start_time(result.run)}; [ ]: 95 % "
                   "interval, this launch")
    return made


def imported_card(imported: Imported) -> Card:
    """The card of an imported log."""
    run, end = imported.run, imported.end
    faults = [] if end.status == "complete" else [f"{end.status.upper()}: {end.reason}."]
    if any(case.status == "wrong" for case in imported.cases):
        faults.append("WRONG RESULTS.")
    timed = {case.size_bytes: (case.time_us.mean, case.bus_bw_gb_s)
             for case in sorted(imported.cases, key=lambda case: not case.in_place)
             if case.size_bytes and case.status == "ok" and not case.suspect
             and case.time_us and case.time_us.mean}
    answers = []
    if timed:
        small = TOKEN_CALL_SIZE_BYTES if TOKEN_CALL_SIZE_BYTES in timed else min(timed)
        answers = [f"{run.benchmark}: {number(timed[small][0])} us at {size_text(small)}",
                   *_busbw_sentence(timed[max(timed)][1], size_text(max(timed)))]
    times_us = [(size, us) for size, (us, _) in sorted(timed.items())]
    return Card([*faults, *answers, "Imported: shown, never judged."], f"us, {run.statistic}",
                {run.benchmark: times_us} if timed else {}, is_faulty=bool(faults),
                machine=imported_table.machine(imported),
                source=f"imported from a log of {run.imported_from.format}; no interval")


def _answer(result: Result) -> Card:
    """The sentences and the plot for the kind of benchmark."""
    if result.run.benchmark == link.BENCHMARK:
        findings = sorted(link.findings(result), key=lambda line: line.startswith("One pair"))
        gb_s = link.rates(result)["min"]
        lines = {name: list(gb_s[name].items()) for name in ("push", "pull") if name in gb_s}
        return Card(findings, "GB/s of the slowest pair", lines)
    if result.run.benchmark in steps.BENCHMARKS:
        groups = steps.groups(result)
        title = steps.title(next(iter(groups[0].values())).case).partition(";")[0]
        verdicts = [line for group in groups for line in steps.verdict(result, group)]
        return Card(verdicts, f"ms a step, {title}", bars=_bars(groups[0].values(), 1e3))
    if result.run.benchmark in FUSED_BENCHMARKS:
        shapes = [(cases[0], forms) for cases, forms in exposed_table.groups(result) if forms]
        return Card([exposed_table.verdict(case, forms) for case, forms in shapes],
                    "us of the first shape", bars=_bars(shapes[0][1].values(), 1) if shapes else {})
    return _size_answer(result)


def _bars(forms: Iterable[Form], unit_us: float) -> dict[str, float]:
    """The median of each form, in units of `unit_us` microseconds."""
    medians_us = {form.name: form.median_us for form in forms}
    return {name: us / unit_us for name, us in medians_us.items() if us is not None}


def _size_answer(result: Result) -> Card:
    """Ours beside the library over sizes, in the run's first view."""
    states = find_states(result.blocks)
    views = rows.views(result) or [("isolated", None)]
    table = rows.default_rows(result, views[0], states)
    chained = rows.default_rows(result, ("chained", None), states)
    timed = [row for row in table if row.ours_us is not None or row.library_us is not None]
    if not timed:
        return Card([NOTHING])
    largest = timed[-1].ours or timed[-1].library
    assert largest
    answers = [_ratio_sentence(timed), *_busbw_sentence(
        largest.bus_bw_gb_s, timed[-1].label, largest.share_of_bound)]
    library = next((row.library.library or "library" for row in table if row.library), "library")
    lines = {library: [(row.size_bytes, row.library_us) for row in table if row.library_us],
             OURS: [(row.size_bytes, row.ours_us) for row in table if row.ours_us]}
    return Card([*answers, *filter(None, [token(result, chained or table)])],
                f"us, {views[0][0]}", lines)


def _ratio_sentence(timed: Sequence[rows.Row]) -> str:
    """Ours against the library at decode's size, or at the smallest size."""
    row = next((row for row in timed if row.size_bytes == TOKEN_CALL_SIZE_BYTES), timed[0])
    library, size = row.library and row.library.library, row.label
    ratio, low, high = row.ratio or (None, None, None)
    if ratio and low and high and not low <= 1 <= high:
        return f"ours {ratio:.2f}x as fast as {library} at {size} [{low:.2f} {high:.2f}]"
    times_us = {OURS: row.ours_us, library or "library": row.library_us}
    times = ", ".join(f"{name} {number(us)}" for name, us in times_us.items() if us is not None)
    few = " (too few blocks)" if low is None else ""
    return f"{times} us at {size}" + (f": no clear difference{few}" if ratio else "")


def _busbw_sentence(busbw_gb_s: float | None, size: str, share: float | None = None) -> list[str]:
    bound = f", {share:.0%} of the bound" if share else ""
    return [f"busbw {number(busbw_gb_s)} GB/s at {size}{bound}."] if busbw_gb_s else []


def draw(path: Path, card: Card) -> None:
    """Write the card. Its words are also its description, for a screen reader. Raises ResultError
    if it cannot be written."""
    file = io.BytesIO()
    answer, *more = card.sentences or [NOTHING]
    description = "\n".join([card.machine, answer, *more, card.command, card.source])
    with warnings.catch_warnings(), figure(
            file, 1, 1, INCHES, dpi=DOTS_PER_INCH, format="png",
            metadata={"Description": description}) as (drawing, ((axes,),)):
        warnings.simplefilter("ignore")  # a letter without a glyph is an empty box
        drawing.set_layout_engine("none")
        grey = "#444444"
        _write(drawing, 0.965, [card.machine], 1, fontsize=16, color=grey)
        y = _write(drawing, 0.9, [answer], 4, fontsize=25 if len(answer) < 150 else 19,
                   weight="bold", color="#B3261E" if card.is_faulty else "black")
        _write(drawing, y - 0.02, more, 10, 590, fontsize=16)
        _write(drawing, 0.14, [card.command], 2, fontsize=15, family="monospace")
        _write(drawing, 0.055, [card.source], 1, fontsize=15, color=grey)
        axes.set_position((0.62, 0.27, 0.35, y - 0.36))
        _plot(axes, card)
    write_named(path, file.getvalue())


def _write(drawing: Any, y: float, paragraphs: Sequence[str], most_lines: int,
           width_pixels: int = 1130, **style: Any) -> float:
    """Write text at height `y`, cut to its lines. Returns the height of the next line."""
    size_pixels = style["fontsize"] * DOTS_PER_INCH / 72
    letters = int(width_pixels / (0.56 * size_pixels))  # of mean width
    lines = [line for text in paragraphs for line in textwrap.wrap(text, letters)]
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], f"{lines[most_lines - 1]} ..."]
    for line in lines:
        text = drawing.text(0.035, y, line, va="top", **style)
        while text.get_window_extent().width > width_pixels:  # capitals are wide
            text.set_fontsize(text.get_fontsize() - 1)
        y -= 1.33 * size_pixels / (INCHES[1] * DOTS_PER_INCH)
    return y


def _plot(axes: Any, card: Card) -> None:
    axes.set_title(card.unit, fontsize=14, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    lines = {name: points for name, points in card.lines.items() if points}
    names = ["library" if OURS in lines and name != OURS else name for name in lines]
    for (name, points), style in zip(lines.items(), styles_of(names), strict=True):
        wide = style | {"markersize": 7, "linewidth": 2.6}
        axes.plot(*zip(*points, strict=True), label=name[:20], **wide)
    if lines:
        sizes = sorted({size for points in lines.values() for size, _ in points})
        dress(axes, sizes, most_ticks=5)
        axes.legend(fontsize=14, frameon=False, loc="lower right")
    for row, (name, value) in enumerate(list(card.bars.items())[:MOST_BARS]):
        axes.barh(row, value, color=COLOURS[row], alpha=0.4)
        axes.annotate(f" {name[:24]}: {number(value)}", (0, row), va="center", fontsize=14)
    if card.bars:
        axes.set_yticks([])
        axes.invert_yaxis()
    if not lines and not card.bars:
        axes.set_axis_off()
    axes.tick_params(labelsize=13)
