"""The pages about many runs: the overview, campaigns, the history, imported logs, procurements."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from reports.advice.procurement import evaluate, procure_page
from reports.imports.imported import read_imported
from reports.site import shared
from reports.site.fleet_page import FLEET
from reports.site.run_page import fact_text
from reports.store.case import key_of
from reports.store.observations import Entry
from reports.store.result import places, read
from reports.tables.command import command_without_seed
from reports.tables.page import CLASSES, NO_HISTORY, Page, Row, Section, draw_picture
from reports.tables.sentences import describe, number, some
from reports.tables.show import headline_of, imported_text
from reports.trends.history import History, closing, headline
from reports.trends.history_figure import plot
from reports.trends.series import Event, Series
from reports.verdicts.comparison import compare
from reports.verdicts.regress import sections_of
from reports.verdicts.sides import COMPARABLE, Side, label, notes_of, read_sides

HISTORY = "history.html"
MOST_RUNS = 12  # with a page of their own for each machine and benchmark, the newest
WORST_FIRST = ("worse", "better", "noisy", "too early", "steady")
MOST_SERIES, MOST_EVENTS = 300, 40  # on a page
MOST_MARKS = 120  # runs of a series in its row, the newest


def overview_page(store: shared.Store, others: Sequence[Page]) -> Page:
    """The first page of a site with these other pages."""
    pages, groups = {page.file: page for page in others}, store.groups
    history = pages.pop(HISTORY, Page("History"))
    # No complete and correct run of the same machine and benchmark has followed these.
    wrong = list[Entry]()
    for entries in groups.values():
        last = takewhile(lambda run: shared.status_text(run) != "complete", reversed(entries))
        wrong += [entry for entry in last if shared.status_text(entry) != "incomplete"]
    runs = [entry.run for entry in store.runs]
    runs += [run for page in others for run in page.runs]
    place = places(runs)
    runs.sort(key=lambda run: place[run.run_id])
    last_run = "none here was measured"
    if runs:
        last_run = f"{shared.start_time(runs[-1])}: {runs[-1].benchmark} on {runs[-1].machine_id}"
    reproduce = shared.how_to_reproduce(runs)
    for name, paths in (("campaigns", store.campaigns), ("imported logs", store.imported)):
        reproduce[name] = shared.listing([path.name for path in paths], shared.MOST_NAMES)
    # Cases by the last change of their series, by wrong results, or by their lack of a series.
    series = history.counts
    series["WRONG"] = len(
        {
            (entry.run.machine_id, entry.run.benchmark, key_of(case))
            for entry in wrong
            for case in entry.wrong
        }
    )
    series[NO_HISTORY] = sum(
        status not in ("wrong", "unsupported")
        for group, entries in groups.items()
        if group not in history.verdicts
        for status in entries[-1].statuses
    )
    cells = sum((page.counts for page in pages.values()), Counter[str]())
    cards = _cards({"cases over runs": series, "cells of campaigns": cells})
    newest = [f"The newest run: {headline_of(read(entry.path))}" for entry in store.runs[-1:]]
    if FLEET in pages:
        newest += [f"The fleet: {sentence}" for sentence in pages[FLEET].sentences[:1]]
    return Page(
        "Wiretax: all runs and their verdicts",
        newest,
        _tables(store, pages, history, wrong),
        reproduce,
        [*cards, ("last run", "", last_run)],
        file="index.html",
    )


def _cards(counts_of: Mapping[str, Counter[str]]) -> list[tuple[str, str, str]]:
    cards = []
    for word in dict.fromkeys(CLASSES.values()):
        total, sentences = 0, []
        for noun, counts in counts_of.items():
            of_word = Counter(
                {
                    name: count
                    for name, count in counts.items()
                    if count and CLASSES.get(name.upper()) == word
                }
            )
            reasons = f" ({shared.counts_text(of_word)})" if of_word.keys() - {word} else ""
            total += of_word.total()
            if counts.total():
                sentences.append(f"{of_word.total()} of {counts.total()} {noun}{reasons}")
        cards.append(
            (f"{total} {word}", word, ", ".join(sentences) or "nothing here has a verdict")
        )
    return cards


def _tables(
    store: shared.Store, pages: Mapping[str, Page], history: Page, wrong: Sequence[Entry]
) -> list[Section]:
    groups, machines, campaigns = store.groups, list[Row](), list[Row]()
    for key, entries in reversed(groups.items()):
        run, counts = entries[-1].run, history.verdicts.get(key, Counter())
        machines.append(
            {
                "machine and benchmark": (" ".join(key), shared.file_name("run", run.run_id)),
                "last run": shared.start_time(run),
                "runs": str(len(entries)),
                "newest": shared.status_text(entries[-1]),
                "ranks": str(run.world["size"]),
                "series over runs": shared.counts_text(counts) or "-",
            }
        )
    for path in reversed(store.campaigns):
        file = shared.file_name("compare", str(path))
        campaigns.append(
            {"campaign": (path.name, file), "cells": shared.counts_text(pages[file].counts) or "-"}
        )
    of_nodes: dict[tuple[str, str | None], Counter[str]] = defaultdict(Counter)
    for series in store.history.series if store.history else ():
        of_nodes[series.machine_id, series.node][series.word] += 1
    nodes: list[Row] = [
        {
            "node": (node, shared.file_name("node", f"{machine_id} {node}")),
            "machine": machine_id,
            "runs": str(len(entries)),
            "last run": shared.start_time(entries[-1].run),
            "newest": shared.status_text(entries[-1]),
            "series over runs": shared.counts_text(of_nodes[machine_id, node]) or "-",
        }
        for (machine_id, node), entries in store.nodes.items()
    ]
    newest = [entry for entries in groups.values() for entry in entries[-MOST_RUNS:]]
    return [
        Section(
            "Wrong results that no correct run has followed",
            table="wrong",
            rows=list(map(_run_row, wrong)),
        ),
        Section("Machines and benchmarks", table="machines", rows=machines),
        Section("Nodes", table="nodes", rows=nodes),
        Section("Campaigns", table="campaigns", rows=campaigns),
        Section("Left out", store.left_out),
        Section(
            f"The newest {MOST_RUNS} runs of each machine and benchmark",
            table="runs",
            rows=list(map(_run_row, reversed(newest))),
            filters=["benchmark", "machine"],
        ),
    ]


def _run_row(entry: Entry) -> Row:
    run = entry.run
    node = {"node": run.node} if run.node else {}
    return {
        "when": (shared.start_time(run), shared.file_name("run", run.run_id)),
        "benchmark": run.benchmark,
        "machine": run.machine_id,
        **node,
        "status": f"{shared.status_text(entry)}\n{some(list(map(describe, entry.wrong)))}",
        "run id": run.run_id,
    }


def campaign_page(folder: Path) -> Page:
    """A campaign: its comparisons, and the differences between its variants. Raises ResultError."""
    variants = read_sides([str(folder)])
    comparisons = compare(variants, list(COMPARABLE))
    counts = Counter(word for each in comparisons for word in each.cells.verdict)
    runs = [launch.result.run for side in variants for launch in side.launches]
    return Page(
        f"{folder.name}: {', '.join(map(label, variants[1:]))} against {label(variants[0])}",
        [
            *(each.headline for each in comparisons),
            f"{shared.counts_text(counts)}; of {counts.total()} cells.",
            *notes_of(variants),
        ],
        [*sections_of(comparisons), _differences(variants)],
        shared.how_to_reproduce(runs),
        verdicts={(runs[0].machine_id, runs[0].benchmark): counts},
        runs=runs,
    )


def _differences(variants: Sequence[Side]) -> Section:
    """The facts on machine, software and environment that are not the same on all sides."""
    runs = [(label(side), launch.result.run) for side in variants for launch in side.launches]
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
    """The series of many runs, and their changes."""
    verdicts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for series in history.series:
        verdicts[series.machine_id, series.benchmark][series.word] += 1
    counts = shared.counts_text(sum(verdicts.values(), Counter()))
    page = _series_page("History", history, history.series, history.events)
    page.sentences = [
        headline(history),
        f"By verdict: {counts}.",
        *(f"{line.rstrip('.')}." for line in closing(history)),
        *page.sentences,
    ]
    page.reproduce = shared.how_to_reproduce(list(history.runs.values()))
    page.verdicts = verdicts
    return page


def node_page(history: History | None, node: str, entries: Sequence[Entry]) -> Page:
    """A node: its series, their changes, and its newest runs."""
    series, events = [], []
    if history:
        machine_id = entries[0].run.machine_id
        series = [
            each for each in history.series if (each.machine_id, each.node) == (machine_id, node)
        ]
        events = [
            event
            for event in history.events
            if (event.series.machine_id, event.series.node) == (machine_id, node)
        ]
    counts = shared.counts_text(Counter(each.word for each in series))
    page = _series_page(f"Node {node}", history, series, events)
    page.sentences = [f"By verdict: {counts or 'no series'}.", *page.sentences]
    rows = list(map(_run_row, reversed(entries[-shared.MOST_NAMES :])))
    page.sections = [*page.sections, Section("Newest runs", table="runs", rows=rows)]
    page.reproduce = shared.how_to_reproduce([entry.run for entry in entries])
    return page


def _series_page(
    title: str, history: History | None, series: Sequence[Series], events: Sequence[Event]
) -> Page:
    """The changes of these series, and a row for each; with many, of the first by verdict."""
    sentences = []
    worst = sorted(series, key=lambda each: WORST_FIRST.index(each.word))
    if len(series) > MOST_SERIES or len(events) > MOST_EVENTS:
        sentences = [
            f"Shown are the first {min(len(series), MOST_SERIES)} of {len(series)} series "
            f"and the {min(len(events), MOST_EVENTS)} largest of {len(events)} changes; "
            "the page of a node has all of its own."
        ]
    rows: list[Row] = []
    for each in worst[:MOST_SERIES]:
        last = each.run_ids[-1]
        node = {"node": each.node} if each.node else {}
        rows.append(
            {
                "case": each.label,
                "benchmark": each.benchmark,
                "machine": each.machine_id,
                **node,
                "runs": str(len(each.costs_us)),
                "each run": sparkline(each),
                "last, us": number(float(each.costs_us[-1])),
                "verdict": each.word,
                "last run": (last, shared.file_name("run", last)),
            }
        )
    if rows and len({*map(len, rows)}) > 1:  # runs from before nodes had labels
        rows = [{"node": "-", **row} if "node" not in row else row for row in rows]
    sections = [Section("Series that changed", ["No series changed."])]
    if events:
        sections = [
            Section(
                "Series that changed",
                pictures=[
                    draw_picture(
                        "history",
                        lambda target: plot(events, target),
                        "Series that changed, a panel each",
                        "A mark for each run, the level of each stretch, "
                        "and at each change a line and the word worse or better.",
                        "series",
                    )
                ],
            )
        ]
    for place, event in enumerate(events[:MOST_EVENTS], 1):
        heading = f"Change {place} on {event.headline}"
        where = f"{event.series.benchmark} on {event.machine}, first at {event.run}."
        sections.append(
            Section(
                heading,
                [where, *event.sentences],
                table=f"event-{place}",
                rows=[each.row(step) for each, step in event.changes],
            )
        )
    sections.append(
        Section(
            "Every series" if len(rows) == len(series) else "The first series",
            table="series",
            rows=rows,
            filters=["benchmark", "verdict"],
        )
    )
    return Page(title, sentences, sections)


def sparkline(series: Series) -> Markup:
    """A mark for each run of a series, and a line before the first run after each change."""
    logs = np.log(series.costs_us)[-MOST_MARKS:]
    low, high = logs.min(), max(logs.max(), logs.min() + 0.02)
    marks = "".join(
        f"M{place} {24 * (high - log) / (high - low):.1f}h0"
        for place, log in enumerate(logs.tolist())
    )
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


def imported_page(paths: Sequence[Path]) -> Page:
    """The text of imported logs. Raises ResultError for an unusable log."""
    logs = [read_imported(path) for path in paths]
    sections = []
    for log in logs:
        run, origin = log.run, log.run.imported_from
        heading = f"{origin.file}, {run.benchmark}, lines {origin.first_line} to {origin.last_line}"
        sections.append(
            Section(f"{heading}: {log.end.status}", text=imported_text(log), folded=len(logs) > 1)
        )
    return Page(
        "Imported logs",
        ["Imported, never judged: another benchmark's figures, by its own rules."],
        sections,
        {
            "command": "python -m reports import FILE",
            "run ids": shared.listing([log.run.run_id for log in logs], shared.MOST_NAMES),
        },
    )


def procurement_page(spec: Path) -> Page:
    """Candidate machines side by side. Raises ResultError for an unusable spec or run."""
    return procure_page(evaluate(spec), f"python -m reports procure {spec.name}")
