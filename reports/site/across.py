"""The pages about many runs: the overview, campaigns, the history, procurements."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from reports.advice.procurement import evaluate, procure_page
from reports.site import shared
from reports.site.fleet_page import FLEET
from reports.site.page import Page, Row, Section, draw_picture
from reports.site.run_page import fact_text
from reports.store.observations import Entry
from reports.store.result import read
from reports.tables.command import command_without_seed
from reports.tables.sentences import describe, number, some
from reports.tables.show import headline_of
from reports.trends.history import History, closing, headline
from reports.trends.history_figure import plot
from reports.trends.series import Series
from reports.verdicts import render
from reports.verdicts.judge import compare
from reports.verdicts.regress import sections_of
from reports.verdicts.sides import COMPARABLE, Side, notes_of, read_sides

HISTORY = "history.html"
MOST_RUNS = 12  # with a page of their own for each machine and benchmark, the newest
WORST_FIRST = ("worse", "better", "noisy", "too early", "steady")
MOST_SERIES, MOST_EVENTS = 300, 40  # on a page
MOST_MARKS = 120  # runs of a series in its row, the newest


def overview_page(store: shared.Store, pages: Mapping[str, Page]) -> Page:
    """The first page of a site with these other pages, by file."""
    newest = [f"The newest run: {headline_of(read(entry.path))}" for entry in store.runs[-1:]]
    for name, file in (("The history", HISTORY), ("The fleet", FLEET)):
        if file in pages:
            newest += [f"{name}: {sentence}" for sentence in pages[file].sentences[:1]]

    counts = _series_counts(store)
    if counts:
        newest.append(f"Series over runs: {shared.counts_text(sum(counts.values(), Counter()))}.")

    return Page(
        "Wiretax: all runs and their verdicts",
        newest,
        _tables(store, pages, counts),
        file="index.html",
    )


def _series_counts(store: shared.Store) -> dict[tuple[str, str], Counter[str]]:
    """The series by verdict, for each machine and benchmark."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for series in store.history.series if store.history else ():
        counts[series.machine_id, series.benchmark][series.word] += 1

    return counts


def _tables(
    store: shared.Store,
    pages: Mapping[str, Page],
    counts: Mapping[tuple[str, str], Counter[str]],
) -> list[Section]:
    # No complete and correct run of the same machine and benchmark has followed these.
    wrong, machines = list[Entry](), list[Row]()
    for key, entries in reversed(store.groups.items()):
        last = takewhile(lambda run: shared.status_text(run) != "complete", reversed(entries))
        wrong += [entry for entry in last if shared.status_text(entry) != "incomplete"]
        run = entries[-1].run
        machines.append(
            {
                "machine and benchmark": (" ".join(key), shared.file_name("run", run.run_id)),
                "last run": shared.start_time(run),
                "runs": str(len(entries)),
                "newest": shared.status_text(entries[-1]),
                "ranks": str(run.world["size"]),
                "series over runs": shared.counts_text(counts.get(key, Counter())),
            }
        )

    files = [(path.name, shared.file_name("compare", str(path))) for path in store.campaigns]
    campaigns: list[Row] = [
        {"campaign": (name, file), "cells": shared.counts_text(pages[file].counts)}
        for name, file in reversed(files)
    ]
    newest = [entry for entries in store.groups.values() for entry in entries[-MOST_RUNS:]]
    return [
        Section(
            "Wrong results that no correct run has followed",
            table="wrong",
            rows=list(map(_run_row, wrong)),
        ),
        Section("Machines and benchmarks", table="machines", rows=machines),
        Section("Campaigns", table="campaigns", rows=campaigns),
        Section("Left out", store.left_out),
        Section(
            f"The newest {MOST_RUNS} runs of each machine and benchmark",
            table="runs",
            rows=list(map(_run_row, reversed(newest))),
        ),
    ]


def _run_row(entry: Entry) -> Row:
    run = entry.run
    return {
        "when": (shared.start_time(run), shared.file_name("run", run.run_id)),
        "benchmark": run.benchmark,
        "machine": run.machine_id,
        "node": run.node or "-",
        "status": f"{shared.status_text(entry)}\n{some(list(map(describe, entry.wrong)))}",
        "run id": run.run_id,
    }


def campaign_page(folder: Path) -> Page:
    """A campaign: its comparisons, and the differences between its variants. Raises ResultError."""
    variants = read_sides([str(folder)])
    comparisons = compare(variants, list(COMPARABLE))
    names = ", ".join(side.label for side in variants[1:])
    counts = Counter(word for each in comparisons for word in each.cells.verdict)
    return Page(
        f"{folder.name}: {names} against {variants[0].label}",
        [
            *map(render.headline, comparisons),
            f"{shared.counts_text(counts)}; of {counts.total()} cells.",
            *notes_of(variants),
        ],
        [*sections_of(comparisons), _differences(variants)],
        counts=counts,
    )


def _differences(variants: Sequence[Side]) -> Section:
    """The facts on machine, software and environment that are not the same on all sides."""
    runs = [(side.label, launch.run) for side in variants for launch in side.launches]
    facts = pd.DataFrame(
        [
            {
                **{name: fact_text(fact) for name, fact in run.environment.items()},
                "machine_id": run.machine_id,
                "software_id": run.software_id,
                "version": run.version,
                "command": command_without_seed(run),
                "side": side,
            }
            for side, run in runs
        ]
    )
    values = facts.fillna("-").groupby("side", sort=False).agg(frozenset)
    rows = [
        {
            "fact": str(name),
            **{str(side): some(sorted(texts)) for side, texts in values[name].items()},
        }
        for name in values
        if values[name].nunique() > 1
    ]
    same = "Machine, software and environment are the same on all sides."
    return Section("What differs", [] if rows else [same], table="differences", rows=rows)


def history_page(history: History) -> Page:
    """The series of many runs and their changes; with many, the first by verdict."""
    series, events = history.series, history.events
    counts = Counter(each.word for each in series)
    sentences = [headline(history), *(f"{line.rstrip('.')}." for line in closing(history))]
    sentences.append(f"By verdict: {shared.counts_text(counts)}.")

    if len(series) > MOST_SERIES or len(events) > MOST_EVENTS:
        sentences.append(
            f"Shown are the first {min(len(series), MOST_SERIES)} of {len(series)} series "
            f"and the {min(len(events), MOST_EVENTS)} largest of {len(events)} changes; "
            "`python -m reports history --json` has all."
        )

    sections = [Section("Series that changed", ["No series changed."])]
    if events:
        picture = draw_picture(
            "history",
            lambda target: plot(events, target),
            "Series that changed, a panel each",
            "series",
        )
        sections = [Section("Series that changed", pictures=[picture])]

    for place, event in enumerate(events[:MOST_EVENTS], 1):
        where = f"{event.series.benchmark} on {event.machine}, first at {event.run}."
        sections.append(
            Section(
                f"Change {place} on {event.headline}",
                [where, *event.sentences],
                table=f"event-{place}",
                rows=[each.row(step) for each, step in event.changes],
            )
        )

    worst = sorted(series, key=lambda each: WORST_FIRST.index(each.word))
    rows = list(map(_series_row, worst[:MOST_SERIES]))
    sections.append(Section("Series, the worst first", table="series", rows=rows))
    return Page("History", sentences, sections)


def _series_row(series: Series) -> Row:
    last = series.run_ids[-1]
    return {
        "case": series.label,
        "benchmark": series.benchmark,
        "machine": series.machine_id,
        "node": series.node or "-",
        "runs": str(len(series.costs_us)),
        "each run": sparkline(series),
        "last, us": number(float(series.costs_us[-1])),
        "verdict": series.word,
        "last run": (last, shared.file_name("run", last)),
    }


def sparkline(series: Series) -> Markup:
    """A mark for each run of a series, and a line before the first run after each change."""
    logs = np.log(series.costs_us)[-MOST_MARKS:]
    low, high = logs.min(), max(logs.max(), logs.min() + 0.02)
    heights = 24 * (high - logs) / (high - low)
    marks = "".join(f"M{place} {height:.1f}h0" for place, height in enumerate(heights))
    hidden = len(series.costs_us) - len(logs)
    lines = "".join(
        f'<path class="{step.word}" d="M{step.first - hidden - 0.5} -2v28"/>'
        for step in series.steps
        if step.first > hidden
    )
    return Markup(
        f'<svg class="spark" aria-hidden="true" viewBox="-2 -2 {len(logs) + 3} 28" '
        f'preserveAspectRatio="none">{lines}<path d="{marks}"/></svg>'
    )


def procurement_page(spec: Path) -> Page:
    """Candidate machines side by side. Raises ResultError for an unusable spec or run."""
    return procure_page(evaluate(spec), spec)
