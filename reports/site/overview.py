"""The first page of a site: did anything get worse, a card for each machine and benchmark, and what
changed."""

from collections import Counter
from collections.abc import Mapping, Sequence

from reports.kit.chart import LEAST_MARKS, Chart, spark
from reports.kit.page import Banner, Card, Cell, Page, Row, Section
from reports.site import shared
from reports.site.history_page import WORST_FIRST, banner_of, event_section, panel_chart, standing
from reports.store.observations import Entry
from reports.store.program import on_ranks
from reports.tables.figure import can_draw
from reports.tables.sentences import (
    TOKEN_CALL_SIZE_BYTES,
    counted,
    describe,
    machine_name,
    some,
    start_time,
)
from reports.trends.history import standing_wrong
from reports.trends.series import Series

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
        *map(event_section, standing(store.history)[:MOST_EVENTS]),
        Section(
            "Campaigns and other reports",
            rows=[
                {
                    "page": (page.title, page.file),
                    "verdict": page.banner.word,
                    "finding": page.banner.sentence,
                }
                for page in reversed(others)
            ],
        ),
        Section("Left out", store.left_out),
        Section(
            f"The newest {MOST_RUNS} runs of each machine and benchmark",
            rows=[_run_row(entry, pages) for entry in reversed(newest)],
            folded=True,
        ),
    ]
    title, banner = "Wiretax: all runs and their verdicts", _banner(store, wrong, pages)
    return Page(title, banner, sections, file="index.html", picture=PICTURE if can_draw() else "")


def _banner(store: shared.Store, wrong: list[Entry], pages: Pages) -> Banner:
    if wrong:
        last = wrong[-1]
        cases = some(list(map(describe, last.wrong)))
        where = f"{last.run.benchmark} on {machine_name(last.run)}"
        sentence = f"{where}: {cases}, and no correct run has followed."
        facts = [f"{counted(len(wrong), 'run')}, the last of {start_time(last.run)}."]
        return Banner("WRONG RESULTS", sentence, facts)

    if store.campaigns and not store.runs:
        return pages[shared.file_name("compare", str(store.campaigns[-1]))].banner
    if store.history.runs:
        return banner_of(store.history)

    content: dict[str, Sequence[object]] = {
        "run": [run for run in store.runs if not run.left_out],
        "failed run": [run for run in store.runs if run.left_out],
    }
    found = [counted(len(items), name) for name, items in content.items() if items]
    return Banner(
        "Nothing to judge yet",
        f"{' and '.join(found)}, but no complete and correct run.",
        [f"To measure one: {TO_BEGIN}"],
        "unsure",
    )


def _card(store: shared.Store, key: tuple[str, str], entries: list[Entry], pages: Pages) -> Card:
    """A machine and benchmark: the headline of its newest run, and how its headline case went."""
    run = entries[-1].run
    page, history = pages[shared.file_name("run", run.run_id)], shared.history_file(*key)
    figure, unit = page.banner.word, ""
    if figure[:1].isdigit():
        figure, _, unit = figure.partition(" ")

    machine = f"{page.title.partition(': ')[2]} ({run.machine_id})"
    lines: list[Cell] = [page.banner.sentence, machine]
    series = store.series.get(key, [])
    headline, drawn = min(series, key=_by_headline, default=None), ""
    if headline and (drawn := spark(headline.costs_us, headline.steps)):
        lines.append(f"{headline.label}, {counted(len(headline.costs_us), 'run')}:")

    words = Counter(each.word for each in series)
    status = shared.status_text(entries[-1])
    if status == "complete":  # then any change, or else the most frequent word
        status = max(
            words, key=lambda word: (word == "worse", word == "better", words[word]), default=""
        )

    file = history if history in pages else page.file
    return Card((key[1], file), figure, unit, status, lines, drawn)


def _trends(store: shared.Store) -> list[Chart]:
    """The headline case of the newest machine and benchmark, beside the library, over time."""
    series = [each for key in [*store.groups][-1:] for each in store.series.get(key, [])]
    first = min(series, key=_by_headline, default=None)
    if not first or len(first.run_ids) < LEAST_MARKS:
        return []

    like = [each for each in series if (each.panel, each.node) == (first.panel, first.node)]
    return [panel_chart(first.panel, like)]


def _by_headline(series: Series) -> tuple[bool, bool, bool, bool, int]:
    """The headline's case is the first: an isolated call of `auto` at decode's size."""
    case = series.case
    return (
        case.size_bytes != TOKEN_CALL_SIZE_BYTES,
        case.mode != "isolated",
        case.algorithm != "auto",
        bool(case.library),
        case.size_bytes,
    )


def _run_row(entry: Entry, pages: Pages) -> Row:
    run = entry.run
    file = shared.file_name("run", run.run_id)
    page = pages.get(file)
    status = f"{shared.status_text(entry)}\n{some(list(map(describe, entry.wrong)))}"
    return {
        "when": (start_time(run), file),
        "benchmark": run.benchmark,
        "figures": f"{page.banner.word}\n{page.banner.sentence}" if page else "-",
        "status": status,
        "machine": run.machine_id,
        "node": run.node or "-",
    }
