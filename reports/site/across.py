"""The pages about many runs: a campaign, the history, imported logs and a procurement."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from reports.advice.procurement import evaluate
from reports.imports.imported import Imported, read_imported
from reports.site import words
from reports.site.page import Cell, Page, Section, Table, table_section
from reports.site.run_page import fact_text
from reports.site.svg import Picture, draw_picture
from reports.tables.imported_table import render
from reports.tables.sentences import number, size_text
from reports.trends import history_command
from reports.trends.history import Event, Series, load
from reports.verdicts import forest, verdict_table
from reports.verdicts.cells import Comparison
from reports.verdicts.comparison import COMPARABLE, compare
from reports.verdicts.sides import Side, notes_of, read_sides
from reports.verdicts.verdict_table import label, shown

WORST_FIRST = ("worse", "better", "too few runs", "no change")
MOST_LOGS_CHARACTERS = 600_000  # of all logs together, so that the page stays below 1 MB
MOST_VALUES = 3  # of a fact on one side


def campaign_page(folder: Path) -> Page:
    """A campaign: its forest plot, a table for each comparison, and the differences between its
    variants. Raises ResultError for a campaign that cannot be read or compared."""
    variants = read_sides([str(folder)])
    comparisons = compare(variants, list(COMPARABLE))
    judged = [word for comparison in shown(comparisons) for word in comparison.cells.verdict]
    counts = Counter(judged)
    picture = Picture(
        "forest", "Ratio of each cell, variant over baseline, with its 95 % interval",
        f"{len(judged)} cells; right of 1 the variant is slower; the band is the margin. Each "
        "row's verdict and ratio stand beside it in words, and in the table below.", "cells-0")
    picture = draw_picture(picture, lambda target: forest.plot(comparisons, target))
    runs = [launch.result.run for side in variants for launch in side.launches]
    return Page(
        f"{folder.name}: {', '.join(map(label, variants[1:]))} against {label(variants[0])}",
        [f"{words.counts_text(counts)}; of {len(judged)} cells.",
         *(words.hide_folders(note, [folder]) for note in notes_of(variants))],
        [Section("Ratios", pictures=[picture]), *_comparisons(comparisons),
         _differences(variants)],
        words.how_to_reproduce(runs), counts=counts,
        runs=[msgspec.structs.replace(run, cases=[], environment={}, notes=[]) for run in runs])


def _comparisons(comparisons: Sequence[Comparison]) -> list[Section]:
    sections = []
    for place, comparison in enumerate(shown(comparisons)):
        heading = f"{label(comparison.variant)} against {label(comparison.baseline)}"
        rows = verdict_table.table_rows(comparison)
        table = Table(f"cells-{place}", f"Every cell: {heading}", list(rows[0]),
                      [list(row.values()) for row in rows], filters=["algorithm", "verdict"])
        sections.append(table_section(heading, table, verdict_table.sentences(comparison)))
    return sections


def _differences(variants: Sequence[Side]) -> Section:
    """The facts on machine, software and environment that are not the same on all sides."""
    values: dict[str, list[set[str]]] = defaultdict(lambda: [set() for _ in variants])
    for place, side in enumerate(variants):
        for launch in side.launches:
            run = launch.result.run
            facts = {**run.environment, "machine_id": run.machine_id,
                     "software_id": run.software_id, "version": run.version,
                     "command": words.command_without_seed(run)}
            for name, fact in facts.items():
                values[name][place].add(fact_text(fact))
    rows = [[name, *map(_some, by_side)] for name, by_side in values.items()
            if any(side != by_side[0] for side in by_side)]
    if not rows:
        return Section("What differs", ["Machine, software and environment are the same on all "
                                        "sides."])
    return table_section("What differs", Table(
        "differences", "Facts that are not the same on all sides",
        ["fact", *map(label, variants)], rows))


def _some(values: set[str]) -> str:
    more = f" and {len(values) - MOST_VALUES} more" if len(values) > MOST_VALUES else ""
    return ", ".join(sorted(values)[:MOST_VALUES]) + more or "-"


def history_page(folder: Path, page_of: Mapping[str, str]) -> Page:
    """The runs below `folder` as series, and the changes in them; `page_of` has the files of runs
    by run_id. Raises ResultError if no run can be used."""
    history = load(folder)
    too_few = "too few blocks"
    counts = Counter(series.word for series in history.series)
    counts += Counter({too_few: history.unjudged.total()})
    groups: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for series in history.series:
        groups[series.machine_id, series.benchmark][series.word] += 1
    for group, count in history.unjudged.items():
        groups[group][too_few] += count
    return Page(
        "History",
        [f"{len(history.runs)} runs, {len(history.series)} series: {words.counts_text(counts)}.",
         "Where nothing changes, 5 % of such histories have an alarm.",
         *(f"{words.hide_folders(line, [folder])}." for line in history.skipped)],
        [_changed_series(history.events),
         *(_event(place, event) for place, event in enumerate(history.events, 1)),
         _every_series(history.series, page_of)],
        words.how_to_reproduce(list(history.runs.values())), counts=counts, groups=dict(groups))


def _changed_series(events: Sequence[Event]) -> Section:
    if not events:
        return Section("Series that changed", ["No series changed."])
    picture = Picture("history", "Series that changed, a panel each",
                      "A mark for each run, the level of each stretch, and at each change a line "
                      "and the word worse or better.", "series")
    return Section("Series that changed", pictures=[
        draw_picture(picture, lambda target: history_command.plot(events, target))])


def _event(place: int, event: Event) -> Section:
    rows = [series.row(step) for series, step in event.changes]
    return table_section(
        f"Change {place}: {event.benchmark} on {event.machine_id}, first at {event.run}",
        Table(f"event-{place}", "The series of this change, the largest first",
              list(rows[0]), [list(row.values()) for row in rows]), event.sentences)


def _every_series(every: Sequence[Series], page_of: Mapping[str, str]) -> Section:
    rows: list[list[Cell]] = []
    for series in sorted(every, key=lambda series: WORST_FIRST.index(series.word)):
        last, last_us = list(series.costs_us.items())[-1]
        rows.append([series.label, series.benchmark, series.machine_id, str(len(series.costs_us)),
                     number(last_us), series.word,
                     (last, page_of[last]) if last in page_of else last])
    return table_section("Every series", Table(
        "series", "Every case over its runs",
        ["case", "benchmark", "machine", "runs", "last, us", "verdict", "last run"], rows,
        filters=["benchmark", "verdict"]))


def imported_page(paths: Sequence[Path]) -> Page:
    """Imported logs, a row for each and its full text. Raises ResultError for a log that cannot be
    read."""
    logs = [read_imported(path) for path in paths]
    table = Table("logs", "Every imported log",
                  ["log", "lines", "written by", "benchmark", "ranks", "sizes", "most busbw, GB/s",
                   "status"], list(map(_log_row, logs)))
    sections = [table_section("Logs", table)]
    for log in logs:
        origin = log.run.imported_from
        sections.append(Section(
            f"{origin.file}, {log.run.benchmark}, lines {origin.first_line} to {origin.last_line}",
            text=render(log)[: MOST_LOGS_CHARACTERS // len(logs)], folded=len(logs) > 1))
    commands = dict.fromkeys(" ".join(log.run.argv) for log in logs if log.run.argv)
    return Page(
        "Imported logs",
        ["Imported, never judged: another benchmark's figures, by its own rules."], sections,
        [("command", "python -m reports import FILE"),
         ("run ids", "\n".join(log.run.run_id for log in logs[:words.MOST_RUN_IDS])),
         ("command in the logs", "\n".join(commands) or "not in the logs")])


def _log_row(log: Imported) -> list[str]:
    origin = log.run.imported_from
    sizes = [case.size_bytes for case in log.cases if case.size_bytes is not None]
    rates = [case.bus_bw_gb_s for case in log.cases
             if case.bus_bw_gb_s is not None and case.status == "ok"]
    ranks = log.run.world.get("size")
    return [origin.file, f"{origin.first_line} to {origin.last_line}", origin.format,
            log.run.benchmark, "-" if ranks is None else str(ranks),
            f"{size_text(min(sizes))} to {size_text(max(sizes))}" if sizes else "-",
            number(max(rates, default=None)), log.end.status]


def procurement_page(spec: Path) -> Page:
    """Candidate machines side by side. Raises ResultError for a spec or a run that cannot be
    used."""
    procurement = evaluate(spec)
    runs = [f"{machine.name}: {', '.join(machine.run_ids[:words.MOST_RUN_IDS]) or 'none'}"
            for machine in procurement.machines]
    return Page(f"Procurement: {procurement.headline}", [f"From {procurement.title}."],
                reproduce=[("command", f"python -m reports procure {spec.name}"),
                           ("run ids", "\n".join(runs))],
                procurement=procurement)
