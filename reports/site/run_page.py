"""The page of one run: its figures, its text, and a row for each of its cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.site import words
from reports.site.figures import Lines, draw_against_size, draw_iterations, legend, lines_in
from reports.site.page import Page, Section, Table, table_section
from reports.site.svg import Picture, draw_picture
from reports.store.case import find_states
from reports.store.result import ResultError, read
from reports.store.schema import Case, Result, Run
from reports.tables import sentences
from reports.tables.plot import own_picture
from reports.tables.sentences import number, size_text
from reports.tables.show import text
from reports.trends import fit_command
from reports.trends.crossovers import find_crossovers
from reports.trends.fit import fits_of
from reports.trends.fit_records import by_title

MOST_TEXT_CHARACTERS = 60_000
MOST_FACT_CHARACTERS = 500  # of a value of the environment


def run_page(path: Path, launches: Sequence[Path]) -> Page:
    """The page of a run; the fit uses `launches`, which ran the same command. Raises ResultError
    for a run that cannot be read or shown."""
    result = read(path)
    run = result.run
    states = find_states(result.blocks)
    lines = [f"Run of {words.start_time(run)}: {words.status_text(result)}",
             *sentences.opening(result), *sentences.link_lines(states), *run.notes]
    summary = " ".join(line if line.endswith(".") else f"{line}." for line in lines if line)
    has_own_picture = own_picture(result) is not None
    printed = Section("As the run printed it", text=text(result)[:MOST_TEXT_CHARACTERS],
                      folded=not has_own_picture)
    if has_own_picture:
        sections = [_own_picture(result), printed]
    else:
        drawn = lines_in(result)
        sections = [_time_and_bandwidth(result, drawn), printed,
                    _fits([read(launch) for launch in launches]), _iterations(result, drawn)]
    sections += [_link_states(result), _cells(result), _environment(run)]
    return Page(sentences.machine(result), [summary], sections, words.how_to_reproduce([run]))


def _own_picture(result: Result) -> Section:
    """The picture of a benchmark other than a sweep over sizes."""
    draw = own_picture(result)
    assert draw
    picture = Picture("own", sentences.machine(result),
                      "The figures stand in the text below and in the table of every cell.",
                      "cells")
    try:
        picture = draw_picture(picture, lambda target: draw(result, target))
    except ResultError as error:
        return Section("Nothing to draw", [words.hide_folders(str(error), [result.path.parent])])
    return Section("Picture", pictures=[picture])


def _time_and_bandwidth(result: Result, lines: Lines) -> Section:
    pictures = draw_against_size(result, lines)
    return Section("Time and bandwidth", [] if pictures else ["The run has no measured case."],
                   pictures, legend(pictures, lines))


def _fits(launches: Sequence[Result]) -> Section:
    """Start-up time and bandwidth of each algorithm, and the crossovers between algorithms."""
    heading = "Regimes and crossovers"
    try:
        fits = fits_of(launches)
    except ResultError as error:
        reason = words.hide_folders(str(error), [launches[0].path.parent])
        return Section(heading, [f"There is no fit: {reason}"])
    fitted = [fit for fit in fits if fit.regimes]
    if not fitted:
        reason = "no algorithm has five blocks at three sizes"
        return Section(heading, [f"There is no fit: {reason}."])
    lines = [f"time = alpha + size / beta, over {len(launches)} launches of this command on this "
             "machine and software."]
    crossovers = find_crossovers(fits)
    for members in by_title(fits).values():
        lines += [f"{members[0].mode}: {line}"
                  for line in fit_command.sentences(members, crossovers)]
    rows = [{"algorithm": fit.name, "mode": fit.mode, **fit_command.cells(regime)}
            for fit in fitted for regime in fit.regimes]
    picture = Picture("fits", "Fits: time against size, a line for each regime",
                      f"{len(fitted)} fits with {len(rows)} regimes; a bar marks the change from "
                      "one regime to the next. Logarithmic axes.", "fits")
    section = table_section(heading, Table(
        "fits", "Fits over these launches, with 95 % intervals", list(rows[0]),
        [list(row.values()) for row in rows]), lines)
    section.pictures = [draw_picture(picture, lambda target: fit_command.plot(fitted, target))]
    return section


def _iterations(result: Result, lines: Lines) -> Section:
    heading = "Iterations and stragglers"
    try:
        pictures, rows, slow_ranks = draw_iterations(result, lines)
    except ResultError as error:
        reason = words.hide_folders(str(error), [result.path.parent])
        return Section(heading, [f"The iterations cannot be shown: {reason}"])
    if not rows:
        return Section(heading, ["The run stored no single iterations."])
    section = table_section(heading, Table(
        "iterations", "Stored iterations, slowest rank",
        ["size", "algorithm", "iterations", "5 %, us", "median, us", "95 %, us", "longest, us",
         "arrival skew, us", "skew 95 %, us", "last, by rank", "median by rank, us"], rows),
        [*slow_ranks, "Arrival skew is the time from the first rank's arrival to the last rank's; "
         "last, by rank, is how often each rank took longest."])
    section.pictures = pictures
    return section


def _link_states(result: Result) -> Section:
    states = find_states(result.blocks)
    rows = [[f"{rtt_ns:.0f}", str(states.of_block.count(state)), f"{states.share(state):.0%}",
             "judged" if state == states.longest else "shown beside"]
            for state, rtt_ns in enumerate(states.rtt_ns)]
    changing = states.of_block.count(None)
    if changing:
        rows.append(["changing", str(changing), f"{changing / len(states.of_block):.0%}",
                     "left out"])
    return table_section("States of the link", Table(
        "link", "Round trip of a flag, before and after each block",
        ["round trip, ns", "blocks", "share", "figures"], rows))


def _cells(result: Result) -> Section:
    """A row for each case; a sentence has the columns in which all cases are equal."""
    cases = sorted(result.cases, key=lambda case: (case.mode != "isolated", case.size_bytes,
                                                   case.case))
    cells_of = [_case_cells(case) for case in cases]
    always = ("size", "algorithm", "mode", "status", "time, us [95 %]")
    columns, equal = [], []
    for name in cells_of[0] if cells_of else ():
        values = {row[name] for row in cells_of}
        if name in always or len(values) > 1:
            columns.append(name)
        elif values.isdisjoint(("-", "")):
            equal.append(f"{name} {min(values)}")
    return table_section("Every cell", Table(
        "cells", "Every cell; its number is a link to it", ["cell", *columns],
        [[(str(case.case), f"#case-{case.case}"), *(row[name] for name in columns)]
         for case, row in zip(cases, cells_of, strict=True)],
        [f"case-{case.case}" for case in cases],
        [name for name in ("algorithm", "mode") if len({row[name] for row in cells_of}) > 1]),
        [f"In every cell: {'; '.join(equal)}."] if equal else [])


def _case_cells(case: Case) -> dict[str, str]:
    """A case as text, by column."""
    reason = f": {case.reason}" if case.reason else ""
    share = case.share_of_bound
    return {
        "size": size_text(case.size_bytes), "algorithm": case.library or case.algorithm,
        "variant": case.variant, "mode": case.mode, "collective": case.collective,
        "shape": sentences.shape_text(case.shape), "type": f"{case.datatype} {case.redop}",
        "memory": case.memory, "place": "in place" if case.in_place else "out of place",
        "chosen": case.chosen or "-",
        "status": f"{case.status}{reason}{', suspect' if case.suspect else ''}",
        "time, us [95 %]": _interval(case.time_us), "total, us [95 %]": _interval(case.total_us),
        "p95, us": number(case.time_us.p95 if case.time_us else None),
        "exposed, us [95 %]": _interval(case.exposed_us),
        "busbw, GB/s": number(case.bus_bw_gb_s), "algbw, GB/s": number(case.alg_bw_gb_s),
        "bound, us": number(case.bound_us),
        "of bound": "-" if share is None else f"{share:.0%}",
        "wrong": "unchecked" if case.n_wrong is None else str(case.n_wrong)}


def _interval(summary: Any) -> str:
    if summary is None:
        return "-"
    if summary.ci_low is None:
        return number(summary.median)
    return f"{number(summary.median)} [{number(summary.ci_low)} {number(summary.ci_high)}]"


def _environment(run: Run) -> Section:
    rows = [[name, fact_text(fact), str(fact.get("source", "-")) if isinstance(fact, dict) else "-"]
            for name, fact in run.environment.items()]
    section = table_section("Environment", Table(
        "environment", "The machine and its software, as the run read them",
        ["name", "value", "source"], rows))
    section.folded = True
    return section


def fact_text(fact: Any) -> str:
    """The value of a fact of the environment."""
    value = fact.get("value") if isinstance(fact, dict) else fact
    return "-" if value is None else str(value)[:MOST_FACT_CHARACTERS]
