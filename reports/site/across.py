"""The pages about many runs: a campaign, the history, imported logs and a procurement."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from reports.advice.procurement import evaluate
from reports.imports.imported import Imported, read_imported
from reports.site import words
from reports.site.page import Page, Row, Section
from reports.site.run_page import fact_text
from reports.site.svg import draw_picture
from reports.store.schema import Run
from reports.tables.sentences import number, size_text, some
from reports.tables.show import imported_text
from reports.trends.history import Event, Series, load, plot
from reports.verdicts import forest, verdict_table
from reports.verdicts.cells import Comparison
from reports.verdicts.comparison import COMPARABLE, compare
from reports.verdicts.sides import Side, notes_of, read_sides
from reports.verdicts.verdict_table import label, shown

WORST_FIRST = ("worse", "better", "too few runs", "no change")


def campaign_page(folder: Path) -> Page:
    """A campaign: its forest plot, a table for each comparison, and the differences between its
    variants. Raises ResultError for a campaign that cannot be read or compared."""
    variants = read_sides([str(folder)])
    comparisons = compare(variants, list(COMPARABLE))
    tables = list(enumerate(shown(comparisons)))
    counts = Counter(word for _, comparison in tables for word in comparison.cells.verdict)
    picture = draw_picture(
        "forest", lambda target: forest.plot(comparisons, target),
        "Ratio of each cell, variant over baseline, with its 95 % interval",
        f"{counts.total()} cells; right of 1 the variant is slower; the band is the margin. Each "
        "row's verdict and ratio stand beside it in words, and in the table below.", "cells-0")
    runs = [launch.result.run for side in variants for launch in side.launches]
    return Page(
        f"{folder.name}: {', '.join(map(label, variants[1:]))} against {label(variants[0])}",
        [f"{words.counts_text(counts)}; of {counts.total()} cells.", *notes_of(variants)],
        [Section("Ratios", pictures=[picture]),
         *(_comparison(*table) for table in tables), _differences(variants)],
        words.how_to_reproduce(runs),
        verdicts={(runs[0].machine_id, runs[0].benchmark): counts},
        runs=[msgspec.structs.replace(run, cases=[], environment={}, notes=[]) for run in runs])


def _comparison(place: int, comparison: Comparison) -> Section:
    heading = f"{label(comparison.variant)} against {label(comparison.baseline)}"
    return Section(heading, verdict_table.sentences(comparison), table=f"cells-{place}",
                   caption=f"Every cell: {heading}", rows=verdict_table.table_rows(comparison),
                   filters=["algorithm", "verdict"])


def _differences(variants: Sequence[Side]) -> Section:
    """The facts on machine, software and environment that are not the same on all sides."""
    facts = [[_facts(launch.result.run) for launch in side.launches] for side in variants]
    rows: list[Row] = []
    for name in dict.fromkeys(name for side in facts for of_run in side for name in of_run):
        values = [sorted({of_run.get(name, "-") for of_run in side}) for side in facts]
        if any(of_side != values[0] for of_side in values):
            rows.append({"fact": name, **{label(side): some(of_side) for side, of_side
                                          in zip(variants, values, strict=True)}})
    same = "Machine, software and environment are the same on all sides."
    return Section("What differs", [] if rows else [same], table="differences",
                   caption="Facts that are not the same on all sides", rows=rows)


def _facts(run: Run) -> dict[str, str]:
    return {**{name: fact_text(fact) for name, fact in run.environment.items()},
            "machine_id": run.machine_id, "software_id": run.software_id, "version": run.version,
            "command": words.command_without_seed(run)}


def history_page(folder: Path) -> Page:
    """The runs below `folder` as series, and the changes in them. Raises ResultError if no run can
    be used."""
    history = load(folder)
    verdicts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for series in history.series:
        verdicts[series.machine_id, series.benchmark][series.word] += 1
    for group, count in history.unjudged.items():
        verdicts[group]["too few blocks"] += count
    page = Page(
        "History", reproduce=words.how_to_reproduce(list(history.runs.values())),
        verdicts=verdicts, sections=[
            _changed_series(history.events),
            *(_event(place, event) for place, event in enumerate(history.events, 1)),
            _every_series(history.series)])
    page.sentences = [f"{len(history.runs)} runs, {len(history.series)} series: "
                      f"{words.counts_text(page.counts)}.",
                      "Where nothing changes, 5 % of such histories have an alarm.",
                      *(f"{line}." for line in history.skipped)]
    return page


def _changed_series(events: Sequence[Event]) -> Section:
    if not events:
        return Section("Series that changed", ["No series changed."])
    return Section("Series that changed", pictures=[draw_picture(
        "history", lambda target: plot(events, target),
        "Series that changed, a panel each", "A mark for each run, the level of each stretch, and "
        "at each change a line and the word worse or better.", "series")])


def _event(place: int, event: Event) -> Section:
    return Section(
        f"Change {place}: {event.benchmark} on {event.machine_id}, first at {event.run}",
        event.sentences, table=f"event-{place}",
        caption="The series of this change, the largest first",
        rows=[series.row(step) for series, step in event.changes])


def _every_series(every: Sequence[Series]) -> Section:
    rows: list[Row] = []
    for series in sorted(every, key=lambda series: WORST_FIRST.index(series.word)):
        last, last_us = list(series.costs_us.items())[-1]
        rows.append({"case": series.label, "benchmark": series.benchmark,
                     "machine": series.machine_id, "runs": str(len(series.costs_us)),
                     "last, us": number(last_us), "verdict": series.word,
                     "last run": (last, words.file_name("run", last))})
    return Section("Every series", table="series", caption="Every case over its runs", rows=rows,
                   filters=["benchmark", "verdict"])


def imported_page(paths: Sequence[Path]) -> Page:
    """Imported logs, a row for each and its full text. Raises ResultError for a log that cannot be
    read."""
    logs = [read_imported(path) for path in paths]
    sections = [Section("Logs", table="logs", caption="Every imported log",
                        rows=list(map(_log_row, logs)))]
    for log in logs:
        origin = log.run.imported_from
        sections.append(Section(
            f"{origin.file}, {log.run.benchmark}, lines {origin.first_line} to {origin.last_line}",
            text=imported_text(log), folded=len(logs) > 1))
    commands = [" ".join(log.run.argv) for log in logs if log.run.argv]
    return Page(
        "Imported logs",
        ["Imported, never judged: another benchmark's figures, by its own rules."], sections,
        {"command": "python -m reports import FILE",
         "run ids": words.listing([log.run.run_id for log in logs], words.MOST_NAMES),
         "command in the logs": words.listing(commands) or "not in the logs"})


def _log_row(log: Imported) -> Row:
    origin = log.run.imported_from
    sizes = [case.size_bytes for case in log.cases if case.size_bytes is not None]
    rates = [case.bus_bw_gb_s for case in log.cases
             if case.bus_bw_gb_s is not None and case.status == "ok"]
    ranks = log.run.world.get("size")
    return {"log": origin.file, "lines": f"{origin.first_line} to {origin.last_line}",
            "written by": origin.format, "benchmark": log.run.benchmark,
            "ranks": "-" if ranks is None else str(ranks),
            "sizes": f"{size_text(min(sizes))} to {size_text(max(sizes))}" if sizes else "-",
            "most busbw, GB/s": number(max(rates, default=None)), "status": log.end.status}


def procurement_page(spec: Path) -> Page:
    """Candidate machines side by side. Raises ResultError for a spec or a run that cannot be
    used."""
    procurement = evaluate(spec)
    runs = [f"{machine.name}: {words.listing(machine.run_ids, words.MOST_NAMES, ', ') or 'none'}"
            for machine in procurement.machines]
    return Page(f"Procurement: {procurement.headline}", [f"From {procurement.title}."],
                reproduce={"command": f"python -m reports procure {spec.name}",
                           "run ids": "\n".join(runs)},
                procurement=procurement)
