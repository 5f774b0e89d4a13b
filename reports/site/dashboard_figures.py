"""The dashboard's pictures: what matplotlib draws, as an SVG inside a page.

Within a page a picture has no size, no prolog and no metadata, its ids are its own, its colours are the page's
variables, so that light and dark need no second drawing, and each mark of a line knows the case that it stands for.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import IO, Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from reports.store.case import bus_factor, late_us
from reports.store.samples import read_samples
from reports.store.schema import Case, Result
from reports.tables.figure import (
    COLOURS,
    DASHES,
    MARKERS,
    Style,
    draw_line,
    dress,
    figure,
    interval_us,
    lines_of,
    style_of,
)
from reports.tables.rows import View, cost_us, shown_cases, views
from reports.tables.sentences import number, shape_words, size_text

SHAPES = [*MARKERS, "<", ">", "p", "h", "8"]  # more than colours: two lines that share a colour differ in shape
OF_AUTO = ["d", "H", "1", "2"]
NAME_LENGTH = 36  # of a foreign name, what a picture has room for
MOST_VIEWS = 4
PANEL_INCHES = (5.6, 4.1)
PANEL_MARGINS = (0.14, 0.12, 0.92, 0.985)  # given, since to find them takes as long as to draw
SCALES = {"log": "logarithmic", "linear": "linear"}
ECDF_POINTS = 41
SMALL_BYTES = 16384  # decode's size; the other of a picture of iterations is the largest
SLOW_RANK = 1.05  # a rank whose median is this many times the others' is named

# What a picture is drawn in, and the page's variable for it; both schemes' values stand in dashboard.css.
VARIABLES = {"#000000": "currentColor", "#ffffff": "var(--page)", "#f0c808": "var(--gold)"}
VARIABLES |= {f"#{grey}": "var(--muted)" for grey in ("333333", "444444", "555555", "6f6f6f", "777777", "808080",
                                                      "888888", "b0b0b0", "cccccc")}
VARIABLES |= {f"#{grey}": "var(--band)" for grey in ("bbbbbb", "dddddd")}
VARIABLES |= {colour.lower(): f"var(--line{number})" for number, colour in enumerate(COLOURS)}

Draw = Callable[[IO[str]], None]


@dataclass
class Picture:
    """`scale` names the vertical axis where there is another drawing with the other one; `values` is the id of the
    table that has what is drawn."""

    title: str
    description: str
    svg: Markup
    values: str
    scale: str = ""


@dataclass
class Toggle:
    """A line's number and name, and a little of it as an SVG, for the legend that shows and hides it."""

    line: int
    name: str
    svg: Markup


def picture(draw: Draw, name: str, title: str, description: str, values: str, scale: str = "",
            marks: Mapping[int, Sequence[int]] | None = None) -> Picture:
    """What `draw` draws, within a page. `marks` has by a line's number the case of each of its marks, in order."""
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "savefig.transparent": True, "savefig.format": "svg"}):
        draw(drawn)
    head, _, body = drawn.getvalue().partition("<svg")[2].partition(">")
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Words are escaped, so that only a tag has a `<`: they stay as they are.
    body = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], name), body)
    body = re.sub(r">\s+<", "><", body)
    body = re.sub(r'<g( clip-path="[^"]*")?>(<use [^>]* style="([^"]*)"/>(?:<use [^>]* style="\3"/>)*)</g>',
                  _styled_once, body)
    for line, cases in (marks or {}).items():
        body = _with_cases(body, f'id="{name}-line{line}"', cases)
    body = re.sub(rf'id="{name}-(?:line|band)(\d+)"', r'\g<0> data-line="\1"', body)
    box = re.search(r'viewBox="([^"]*)"', head)
    assert box
    width = float(box[1].split()[2])
    svg = (f'<svg role="img" viewBox="{box[1]}" aria-labelledby="{name}-t {name}-d" style="--drawn: {width:.0f}px">'
           f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(description)}</desc>{body}')
    return Picture(title, description, Markup(svg), values, scale)


def _tag(tag: str, name: str) -> str:
    """A tag with the picture's own ids, the page's colours, and a tenth of a point as the finest place."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"#[0-9a-f]{6}\b", lambda colour: VARIABLES.get(colour[0], colour[0]), tag)
    tag = re.sub(r"font-family: 'DejaVu Sans',[^;\"]*;? ?", "", tag)  # the page's own
    tag = re.sub(r'(?<=[ "(-])(\d+\.\d)\d+(?=[ "),\n])', r"\1", tag) if "opacity" not in tag or " d=" in tag else tag
    return tag.replace("\n", " ")


def _styled_once(group: re.Match[str]) -> str:
    """Marks that all look the same, with their style on what holds them."""
    style = f' style="{group[3]}"'
    return f"<g{group[1] or ''}{style}>{group[2].replace(style, '')}</g>"


def _with_cases(body: str, group: str, cases: Sequence[int]) -> str:
    """The marks of a line, in order, with the numbers of their cases."""
    start = body.find(group)
    found = list(re.finditer(r"<use ", body[start:]))[: len(cases)] if start >= 0 else []
    for mark, case in reversed(list(zip(found, cases, strict=False))):
        body = f'{body[:start + mark.start()]}<use data-case="{case}" {body[start + mark.end():]}'
    return body


@dataclass
class Lines:
    """What is drawn of a run: its views, each with its cases; of each case its line, and of each line its name and its
    style, the same in every picture."""

    views: list[tuple[View, list[Case]]]
    line_of: dict[int, int]
    names: list[str]
    styles: list[Style]


def lines_in(result: Result) -> Lines:
    """The lines of a run."""
    by_view = [(view, [case for case in shown_cases(result, view) if cost_us(case) is not None and case.size_bytes > 0])
               for view in views(result)[:MOST_VIEWS]]
    found = lines_of([case for _, cases in by_view for case in cases])
    rest, golden = cycle(zip(cycle(COLOURS), SHAPES, cycle(DASHES), strict=False)), cycle(OF_AUTO)
    styles = []
    for cases in found.values():
        styles.append(style_of(cases[0].algorithm, len(cases), rest))
        if cases[0].algorithm == "auto":
            styles[-1] |= {"linewidth": 4, "alpha": 1, "marker": next(golden), "markersize": 8, "markeredgewidth": 1}
    line_of = {case.case: line for line, cases in enumerate(found.values()) for case in cases}
    return Lines([(view, cases) for view, cases in by_view if cases], line_of,
                 [name if len(name) <= NAME_LENGTH else f"{name[:NAME_LENGTH]}..." for name in found], styles)


def against_size(result: Result, lines: Lines) -> list[Picture]:
    """Time and busbw against size of each view, with either vertical axis."""
    pictures = []
    for place, (view, cases) in enumerate(lines.views):
        by_line: dict[int, list[Case]] = {}
        for case in sorted(cases, key=lambda case: case.size_bytes):
            by_line.setdefault(lines.line_of[case.case], []).append(case)
        factor = 0 if late_us(view[1]) else bus_factor(cases[0].collective, result.run.world["size"])
        said = ", ".join([view[0], *shape_words(view[1])])
        for quantity in ("time", "busbw") if factor else ("time",):
            pictures += [_lines(by_line, lines.styles, factor * (quantity == "busbw"), scale,
                                f"{quantity}{place}{scale}", said) for scale in SCALES]
    return pictures


def _lines(lines: Mapping[int, list[Case]], styles: Sequence[Style], factor: float, scale: str, name: str,
           view: str) -> Picture:
    """Time in microseconds, or with a factor busbw in GB/s, against size: a line each, its interval as a band."""
    every = [case for cases in lines.values() for case in cases]
    bounds = dict(sorted(((case.size_bytes, case.bound_us) for case in every if case.bound_us), reverse=True))
    ends = [np.array([]), *(_figures(case, factor) for case in every)]
    what = "busbw, GB/s: collective alone" if factor else "time of one call, us"
    if not factor and any(case.consume_us for case in every):
        what = "time, us: collective + reading its result"

    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, PANEL_INCHES, margins=PANEL_MARGINS) as (_, ((axes,),)):
            for line, cases in lines.items():
                draw_line(axes, [case.size_bytes for case in cases], [_figures(case, factor) for case in cases],
                          styles[line], line)
            if bounds:
                shown = [size * factor / us / 1e3 if factor else us for size, us in bounds.items()]
                axes.plot(list(bounds), shown, color="#444444", linestyle="--", linewidth=1.2,
                          marker="_" if len(bounds) == 1 else None, gid="bound")
                axes.annotate("bound", (max(bounds), shown[0]), xytext=(6, 0), textcoords="offset points", fontsize=8,
                              color="#444444", va="center", annotation_clip=False)
            axes.set_ylabel(what)
            dress(axes, sorted({case.size_bytes for case in every}), scale)
            axes.tick_params(labelsize=8)

    low, high = (number(float(end)) for end in (np.concatenate(ends).min(), np.concatenate(ends).max()))
    sizes = sorted({case.size_bytes for case in every})
    description = (f"{len(lines)} lines over {len(sizes)} sizes from {size_text(sizes[0])} to {size_text(sizes[-1])}; "
                   f"the figures go from {low} to {high}; {SCALES[scale]} vertical axis. Dashed: the bound of the "
                   "machine's own measured parts.")
    return picture(draw, name, f"{what}, against size, {view}", description, "cells", scale,
                   {line: [case.case for case in cases] for line, cases in lines.items()})


def _figures(case: Case, factor: float) -> NDArray[np.float64]:
    """What is drawn of a case and the ends of its interval."""
    if factor:
        return case.size_bytes * factor / 1e3 / np.maximum(interval_us(case.time_us), 1e-9)
    return interval_us(case.total_us or case.time_us)


def legend(pictures: Sequence[Picture], lines: Lines) -> list[Toggle]:
    """A toggle a line, with its dash and its mark as the first picture that has it draws them."""
    toggles = []
    for line, name in enumerate(lines.names):
        own = re.compile(rf'-line{line}" data-line="\d+">.*?</g>\s*</g>', re.DOTALL)
        group, svg = next(filter(None, (own.search(drawn.svg) for drawn in pictures)), None), ""
        if group and (stroke := re.search(r'<path d="[^"]*" clip-path="[^"]*" style="([^"]*)"', group[0])):
            mark, use = re.search(r'<path id="([^"]*)"', group[0]), re.search(r'<g[^>]* style="([^"]*)"><use', group[0])
            at = f'<use href="#{mark[1]}" x="22" y="8" style="{use[1]}"/>' if mark and use else ""
            svg = (f'<svg class="swatch" viewBox="0 0 44 16" aria-hidden="true"><path d="M 0 8 L 44 8" '
                   f'style="{stroke[1]}"/>{at}</svg>')
        toggles.append(Toggle(line, name, Markup(svg)))
    return toggles


def iterations(result: Result, case: Case) -> NDArray[Any] | None:
    """Time in microseconds of each iteration that was kept, (ranks, iterations), None where there is none. Raises
    ResultError for samples that are not what they should be."""
    rows = read_samples(result, case)
    if rows is None or not len(rows):
        return None
    ranks, counts = np.unique(rows[:, 1], return_counts=True)
    if len(set(counts.tolist())) > 1:
        return None
    # Stable: a rank's iterations stay in order within a block, so the nth of each rank is the same iteration.
    each = rows[np.lexsort((rows[:, 0], rows[:, 1]))].reshape(len(ranks), -1, rows.shape[1])
    return each[:, :, 2].astype(float) if np.isfinite(each[:, :, 2]).all() and (each[:, :, 2] > 0).all() else None


def of_iterations(result: Result, lines: Lines) -> tuple[list[Picture], list[list[str]], list[str]]:
    """Of decode's size and the largest: the part of the iterations that took no longer, as a picture each; as rows of a
    table the iterations and each rank's part in them; and sentences that name a slow rank."""
    cases = [case for case in (lines.views[0][1] if lines.views else []) if case.samples]
    sizes = sorted({case.size_bytes for case in cases})
    pictures: list[Picture] = []
    rows: list[list[str]] = []
    slow: dict[tuple[int, int], list[float]] = {}
    for size in dict.fromkeys([min(sizes, key=lambda size: abs(size - SMALL_BYTES)), sizes[-1]] if sizes else []):
        found: dict[int, NDArray[Any]] = {}
        for case in [case for case in cases if case.size_bytes == size]:
            if (each := iterations(result, case)) is None:
                continue
            found[lines.line_of[case.case]] = slowest = each.max(axis=0)
            skew = case.arrival_skew_us
            last = np.bincount(each.argmax(axis=0), minlength=len(each)) / len(slowest)
            rows.append([size_text(size), lines.names[lines.line_of[case.case]], str(len(slowest)),
                         *(number(float(q)) for q in np.percentile(slowest, [5, 50, 95, 100])),
                         number(skew.median if skew else None), number(skew.p95 if skew else None),
                         " ".join(f"{share:.0%}" for share in last),
                         " ".join(number(float(median)) for median in np.median(each, axis=1))])
            for rank in range(len(each)) if len(each) > 1 else ():
                others_us = float(np.median(np.delete(each, rank, axis=0)))
                slow.setdefault((size, rank), []).append(float(np.median(each[rank])) / others_us)
        if found:
            pictures.append(_ecdf(size, found, lines, len(pictures)))
    named = [f"Rank {rank} is slow at {size_text(size)}: {np.median(ratios):.2f}x the others' time, in the median "
             "of the algorithms." for (size, rank), ratios in slow.items() if np.median(ratios) > SLOW_RANK]
    even = [f"No rank takes more than {SLOW_RANK:.2f}x the others' time at these sizes."] * (bool(slow) and not named)
    return pictures, rows, named + even


def _ecdf(size_bytes: int, times_us: Mapping[int, NDArray[Any]], lines: Lines, place: int) -> Picture:
    """A line each, from its fastest iteration to its slowest."""
    shares = np.linspace(0, 1, ECDF_POINTS)

    def draw(target: IO[str]) -> None:
        with figure(target, 1, 1, PANEL_INCHES) as (made, ((axes,),)):
            for line, each in times_us.items():
                style = lines.styles[line] | {"linewidth": 1.6, "markersize": 5, "label": lines.names[line]}
                axes.plot(np.quantile(each, shares), shares, drawstyle="steps-post", markevery=8, **style,
                          gid=f"line{line}")
            axes.set_xscale("log")
            low, high = np.quantile(np.concatenate(list(times_us.values())), [0, 1])
            steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if high < 10 * low else (1, 2, 5)
            ticks = [tick for power in range(-6, 13) for step in steps
                     if low / 1.1 <= (tick := step * 10.0**power) <= high * 1.1]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.grid(True, alpha=0.25)
            axes.set_xlabel("time of an iteration, its slowest rank, us")
            axes.set_ylabel("part of the iterations")
            axes.tick_params(labelsize=8)
            handles, labels = axes.get_legend_handles_labels()
            made.legend(handles, labels, loc="outside lower center", ncols=3 if max(map(len, labels)) < 26 else 1,
                        frameon=False, fontsize=8)

    return picture(draw, f"ecdf{place}", f"Iterations at {size_text(size_bytes)}: the part that took no longer",
                   f"{len(times_us)} lines, each from its fastest iteration to its slowest; the further left, the "
                   "faster, and the steeper, the steadier. Logarithmic horizontal axis.", "iterations")
