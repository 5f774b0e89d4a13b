"""The first page of a site: did anything get worse, a card for each machine and benchmark, and what
changed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from reports.kit.chart import Chart, spark
from reports.kit.page import Banner, Card, Cell, Page, Row, Section
from reports.site import shared
from reports.site.fleet_page import FLEET
from reports.site.history_page import (
    WORST_FIRST,
    banner_of,
    event_section,
    leading,
    panel_chart,
    panels_of,
    standing,
)
from reports.store.observations import Entry
from reports.store.program import on_ranks
from reports.tables.sentences import (
    TOKEN_CALL_SIZE_BYTES,
    counted,
    describe,
    machine_name,
    some,
    start_time,
)
from reports.trends.changes import LEAST_BASE
from reports.trends.history import draw_series, standing_wrong
from reports.trends.series import Series, day_text
from reports.verdicts.page import ORDER

MOST_RUNS = 12  # with a page of their own for each machine and benchmark, the newest
PICTURE = "index.png"
MOST_EVENTS = 6  # on the page
TO_BEGIN = f"{on_ranks(2, 'allreduce')} --out results"

Pages = Mapping[str, Page]


def overview_page(store: shared.Store, pages: Pages) -> Page:
    """The overview of a site with these other pages, by file."""
    wrong = standing_wrong(store.runs)
    newest = [entry for entries in store.groups.values() for entry in entries[-MOST_RUNS:]]
    cards = [_card(store, key, entries, pages) for key, entries in store.groups.items()]
    cards.sort(key=lambda card: WORST_FIRST.index(card.word) if card.word in WORST_FIRST else -1)
    others = [page for file, page in pages.items() if not file.startswith(("run", "history"))]
    others.reverse()  # the newest first
    sections = [
        Section(
            "Wrong results that no correct run has followed",
            rows=[_run_row(entry, pages) for entry in wrong],
        ),
        Section(
            "Machines and benchmarks",
            cards=cards,
            charts=_trends(store) if len(cards) < 3 else [],
        ),
        Section(
            "Campaigns and other reports",
            rows=[
                {
                    "page": (page.title, page.file),
                    "verdict": page.banner.word,
                    "finding": page.banner.sentence,
                }
                for page in others
            ],
        ),
        *(event_section(each) for each in standing(store.history)[:MOST_EVENTS]),
        Section("Left out", store.left_out),
        Section(
            f"The newest {MOST_RUNS} runs of each machine and benchmark",
            rows=[_run_row(entry, pages) for entry in reversed(newest)],
            folded=True,
        ),
    ]
    banners = [
        replace(page.banner, facts=[*page.banner.facts, (page.title, page.file)]) for page in others
    ]
    if own := _banner(store, wrong):
        banners.insert(0, own)
    # The worst of all reports, the runs' own before others.
    banner = min(banners, key=lambda each: ORDER.index(each.role))
    # The picture shows what the banner says: the runs over time, or nothing.
    draw = _drawing(store) if banner is own and not wrong else None
    title = "Wiretax: all runs and their verdicts"
    return Page(title, banner, sections, file="index.html", picture=PICTURE, draw=draw)


def _drawing(store: shared.Store) -> Callable[[Any], None] | None:
    """Draws the worst change, or else the headline's case."""
    events = standing(store.history)
    keys = [shared.KEY(events[0].series)] if events else [*store.groups][-1:]
    series = _first(store, keys[0]) if keys else None
    return partial(draw_series, series=series) if series else None


def _banner(store: shared.Store, wrong: list[Entry]) -> Banner | None:
    """The answer of the runs; None for campaigns alone."""
    if wrong:
        last = wrong[-1]
        cases = some(list(map(describe, last.wrong)))
        where = f"{last.run.benchmark} on {machine_name(last.run)}"
        sentence = f"{where}: {cases}, and no correct run has followed."
        newest = start_time(last.run), shared.file_name("run", last.run.run_id)
        facts: list[Cell] = [[f"{counted(len(wrong), 'run')}, the last:", newest]]
        return Banner("WRONG RESULTS", sentence, facts)

    if store.campaigns and not store.runs:
        return None
    if store.history.runs:
        return banner_of(store.history)

    found = "No run is here yet."
    if store.runs:
        found = f"{counted(len(store.runs), 'run')}, but none that is complete and correct."
    left = f"0 of {LEAST_BASE + 1} runs until a change can be told. To measure one: {TO_BEGIN}"
    return Banner("Nothing to judge yet", found, [left], "unsure")


def _card(store: shared.Store, key: tuple[str, str], entries: list[Entry], pages: Pages) -> Card:
    """A machine and benchmark: the case that changed, or else the headline of its newest run."""
    run = entries[-1].run
    page, history = pages[shared.file_name("run", run.run_id)], shared.history_file(*key)
    figure = page.banner.word
    lines: list[Cell] = [page.banner.sentence, start_time(run)]
    status = shared.status_text(entries[-1])
    series, drawn = _first(store, key), ""
    if key in store.series and status == "complete":
        status = min((each.word for each in store.series[key]), key=WORST_FIRST.index)
        if series and (step := series.last_alarm):
            lines = [f"{page.banner.word}, {page.banner.sentence}"]
            place = f"{series.label} since {day_text(series.since(step))}"
            status, figure = step.word, f"{np.expm1(step.log_ratio[0]):+.1%} at {place}"
    nodes = {node for entry in entries for node in entry.run.nodes}
    if len(nodes) > 1:
        lines.append([counted(len(nodes), "node"), ("all nodes", FLEET)])
    if series and (drawn := spark(series.costs_us, series.steps)):
        lines.append(f"{series.label}, {counted(len(series.costs_us), 'run')}:")

    name = f"{key[1]} on {machine_name(run)}", history if history in pages else page.file
    return Card(name, figure, status, lines, drawn)


def _first(store: shared.Store, key: tuple[str, str]) -> Series | None:
    """The series of the worst change, or else of the headline, which several nodes have not."""
    own = store.series.get(key, [])
    found = [leading(event)[0] for event in standing(store.history) if event.series in own]
    if not found and len({each.node for each in own}) == 1:
        found = [min(own, key=_by_headline)]
    return next(iter(found), None)


def _trends(store: shared.Store) -> list[Chart]:
    """The case of the card of the newest machine and benchmark, beside the library, over time."""
    for key in [*store.groups][-1:]:
        first, panels = _first(store, key), panels_of(store.series.get(key, []))
        return [panel_chart(title, own) for title, own in panels.items() if first in own]
    return []


def _by_headline(series: Series) -> tuple[bool, ...]:
    """The headline's case is the first: an isolated call of `auto` at decode's size."""
    case = series.case
    return (
        case.size_bytes != TOKEN_CALL_SIZE_BYTES,
        case.mode != "isolated",
        case.algorithm != "auto",
    )


def _run_row(entry: Entry, pages: Pages) -> Row:
    run = entry.run
    file = shared.file_name("run", run.run_id)
    page = pages.get(file)
    return {
        "when": (start_time(run), file),
        "benchmark": run.benchmark,
        "figures": f"{page.banner.word}\n{page.banner.sentence}" if page else "-",
        "status": shared.status_text(entry),
        "machine": run.machine_id,
        "node": run.node or "-",
    }
