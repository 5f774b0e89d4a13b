"""The first page of a site: did anything get worse, a card for each machine and benchmark, and what
changed."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from operator import itemgetter

import numpy as np

from reports.kit.chart import LEAST_MARKS, spark
from reports.kit.page import Banner, Card, Cell, Page, Row, Section, command_after
from reports.site.fleet_page import TOO_FEW_NODES
from reports.site.history_page import (
    MOST_TAILS,
    TOO_EARLY,
    WORST_FIRST,
    banner_of,
    event_sections,
    missing,
    newest,
    panel_chart,
    part_of,
)
from reports.site.shared import Store, file_name, history_file, status_text
from reports.site.tail_events import tail_text
from reports.tables.sentences import (
    IMPORT,
    TOKEN_CALL_SIZE_BYTES,
    counted,
    describe,
    machine_name,
    some,
    start_time,
    to_repeat,
)
from reports.trends.history import History, draw_series
from reports.trends.series import Series
from reports.verdicts.verdict_pages import ORDER
from wiretax.common.grouped import grouped
from wiretax.common.program import on_ranks
from wiretax.record.observations import Entry
from wiretax.record.result import time_of

MOST_RUNS = 12  # with a page of their own for each machine and benchmark, the newest
PICTURE = "index.png"
MOST_EARLY_CARDS = 8  # of more cards, those of a machine that are too early share a line
MOST_CHARTS = 6  # on the page, of changes or else of machines and benchmarks

Pages = Mapping[str, Page]


def overview_page(store: Store, pages: Pages) -> Page:
    """The overview of a site with these other pages, by file."""
    newest = [entry for entries in store.groups.values() for entry in entries[-MOST_RUNS:]]
    cards, early = _cards(store, pages)
    others = [page for file, page in pages.items() if not file.startswith(("run", "history"))]
    others.reverse()  # the newest first
    events = store.history.standing
    # Where nothing changed, the case of each headline shows how steady it is.
    keys = [] if events else [*store.groups][-MOST_CHARTS:]
    charts = [
        panel_chart(f"{lead.label}, {lead.place}", [lead])
        for key in keys
        if (lead := _first(part_of(store.history, key))) and len(lead.run_ids) >= LEAST_MARKS
    ]
    sections = [
        Section(
            "Wrong results that no correct run has followed",
            rows=[_run_row(entry, pages) for entry in store.history.wrong],
        ),
        Section("Machines and benchmarks", cards=cards, charts=charts),
        Section("Too early to tell a change", early),
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
        *event_sections([*events, *store.history.tails][:MOST_CHARTS]),
        Section("Left out", store.left_out),
        Section(
            f"The newest {MOST_RUNS} runs of each machine and benchmark",
            rows=[_run_row(entry, pages) for entry in reversed(newest)],
            folded=True,
        ),
    ]
    banners = [
        replace(page.banner, facts=[*page.banner.facts, (page.title, page.file)])
        for page in others
        if page.banner.word != TOO_FEW_NODES
    ]
    if own := _banner(store):
        if own.word == TOO_EARLY:  # it finds nothing: what others find comes first
            banners.append(own)
        else:
            banners.insert(0, own)
    # The worst of all reports, the runs' own before others.
    banner = min(banners, key=lambda each: ORDER.index(each.role))
    # The picture shows what the banner says: the case that changed, or nothing.
    is_found = events and banner is own and not store.history.wrong
    draw = partial(draw_series, series=events[0].series) if is_found else None
    title = "Wiretax: all runs and their verdicts"
    return Page(title, banner, sections, file="index.html", picture=PICTURE, draw=draw)


def _banner(store: Store) -> Banner | None:
    """The answer of the runs; None for campaigns alone."""
    if wrong := store.history.wrong:
        last, own = [*wrong.items()][-1]
        cases = some(list(map(describe, own)))
        where = f"{last.run.benchmark} on {machine_name(last.run)}"
        sentence = f"{where}: {cases}, and no correct run has followed."
        newest_wrong = start_time(last.run), file_name("run", last.run.run_id)
        facts: list[Cell] = [
            [f"{counted(len(wrong), 'run')}, the last:", newest_wrong],
            command_after(*to_repeat(last.run, "Next, to repeat it")),
        ]
        return Banner("WRONG RESULTS", sentence, facts)

    if store.contents.campaigns and not store.runs:
        return None
    if store.history.runs:
        banner = banner_of(store.history)
        if banner.word == TOO_EARLY and len(store.groups) > 1:
            banner.sentence = "The cards say how many runs each machine and benchmark lacks."
        return banner

    found = "No run is here yet."
    if store.runs:
        found = f"{counted(len(store.runs), 'run')}, but none that is complete and correct."
    todo = [
        f"{missing(store.history)} To measure one: {on_ranks(2, 'allreduce')} --out results",
        f"To read what another harness printed: {IMPORT} LOG",
    ]
    return Banner(TOO_EARLY, found, todo)


def _cards(store: Store, pages: Pages) -> tuple[list[Card], list[Cell]]:
    """The cards by machine, the newest first, and of each machine a line on what is too early to
    judge."""
    cards, lines = dict[tuple[str, str], Card](), list[Cell]()
    for keys in grouped(reversed(store.groups), itemgetter(0)).values():
        early = list[str | tuple[str, str]]()
        for key in keys:
            card = _card(store, key, store.groups[key], pages)
            if card.word == TOO_EARLY.lower() and len(store.groups) > MOST_EARLY_CARDS:
                runs = missing(part_of(store.history, key)).partition(" until")[0]
                early += [(key[1], card.name[1]), f"({runs})"]
            else:
                cards[key] = card
        if early:
            lines.append([f"{_machine(store, keys[0])}:", *early])

    has_groups = len({machine for machine, _ in cards}) < len(cards)
    for key, card in cards.items():
        card.group = _machine(store, key) if has_groups else ""
    return [*cards.values()], lines


def _machine(store: Store, key: tuple[str, str]) -> str:
    return machine_name(store.groups[key][-1].run)


def _card(store: Store, key: tuple[str, str], entries: list[Entry], pages: Pages) -> Card:
    """A machine and benchmark: the case that changed, or else the headline of its newest run."""
    run, status = entries[-1].run, status_text(entries[-1])
    page, history = pages[file_name("run", run.run_id)], history_file(*key)
    figure, when = page.banner.word, start_time(run)
    lines: list[Cell] = [page.banner.sentence]
    part = part_of(store.history, key)
    series = _first(part)
    if part.series and status == "complete":
        if not run.imported_from:
            when = newest(part)
        status = min((each.word for each in part.series), key=WORST_FIRST.index)
        if series and (step := series.last_alarm):
            place = f"{series.label} since {time_of(series.run_ids[step.first]):%-d %b %Y}"
            lines.insert(0, place)
            status, figure = step.word, f"{np.expm1(step.log_ratio[0]):+.1%}"
        elif status == TOO_EARLY.lower():
            lines.append(missing(part))
    lines += [*map(tail_text, part.tails[:MOST_TAILS]), when]
    if series and (drawn := spark(series.costs_us, series.steps)):
        lines += [f"{series.label}, {counted(len(series.costs_us), 'run')}:", drawn]

    name = f"{key[1]} on {machine_name(run)}", history if history in pages else page.file
    return Card(name, figure, status, lines)


def _first(history: History) -> Series | None:
    """The series of the worst change, or else of the headline, which several nodes have not."""
    if events := history.standing:
        return events[0].series
    if len({each.node for each in history.series}) != 1:
        return None

    return min(
        history.series,
        key=lambda each: (
            each.case.size_bytes != TOKEN_CALL_SIZE_BYTES,
            each.case.mode != "isolated",
            each.case.algorithm != "auto",
            bool(each.case.library),
        ),
    )


def _run_row(entry: Entry, pages: Pages) -> Row:
    run = entry.run
    file = file_name("run", run.run_id)
    page = pages.get(file)
    return {
        "when": (start_time(run), file),
        "benchmark": run.benchmark,
        "figures": f"{page.banner.word}\n{page.banner.sentence}" if page else "-",
        "status": status_text(entry),
        "machine": run.machine_id,
        "node": run.node or "-",
    }
