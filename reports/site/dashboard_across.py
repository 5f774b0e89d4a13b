"""The dashboard's pages about many runs at once: their history, what was imported, and what is to be bought."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from reports.advice.procurement import evaluate
from reports.imports.imported import Imported, read_imported
from reports.site import dashboard_figures
from reports.site.dashboard_pages import MOST_ROWS, Cell, Page, Section, Table, how_made, without_place
from reports.tables.imported_table import render
from reports.tables.sentences import number, size_text
from reports.trends import history, history_plot
from reports.trends.events import find_events, word_of

WORST_FIRST = ("worse", "better", "too few runs", "no change")
MOST_IMPORTED_TEXT = 600_000  # characters of all logs together, so that the page stays below 1 MB


def of_history(folder: Path, file: str, name: str, page_of: Mapping[str, str]) -> Page:
    """The runs below `folder` as series, and where they change; `page_of` has the pages of runs. Raises ResultError
    where nothing can be told."""
    found = history.load(folder)
    events = find_events(found)
    words = [word_of(series, events) for series in found.series]
    counts = Counter(words) + Counter({"too few blocks": found.unjudged.total()})
    page = Page(file, name, "History", [f"{len(found.runs)} runs, {len(found.series)} series: "
                                        f"{', '.join(f'{word} {n}' for word, n in counts.items())}.",
                                        "Where nothing changes, 5 % of such histories have an alarm.",
                                        *(f"{without_place(line, folder)}." for line in found.skipped)],
                counts=counts)
    for series, word in zip(found.series, words, strict=True):
        page.groups.setdefault((series.machine_id, series.benchmark), Counter())[word] += 1
    for group, n in found.unjudged.items():
        page.groups.setdefault(group, Counter())["too few blocks"] += n
    if events:
        page.sections.append(Section("Series that changed", pictures=[dashboard_figures.picture(
            lambda target: history_plot.plot(events, target), "history", "Series that changed, a panel each",
            "A mark a run, the level of each stretch, and at each change a line and the word worse or better.",
            "series")]))
    else:
        page.sections.append(Section("Series that changed", ["No series changed."]))
    for place, event in enumerate(events, 1):
        its: list[list[Cell]] = [[change.series.label, change.word, *change.figures,
                                  f"{change.series.times[change.first]:%Y-%m-%d}"] for change in event.changes]
        page.sections.append(Section(
            f"Change {place}: {event.benchmark} on {event.machine_id}, first at {event.run}",
            [f"It lies between {event.low} and {event.high}, at 95 %.",
             *(f"Changed there: {line}" for line in event.recorded or ["nothing that was recorded"])],
            table=Table(f"event-{place}", "The series of this change, the largest first",
                        ["case", "verdict", "before, us", "after, us", "change [95 %]", "first run after"],
                        its[:MOST_ROWS])))
    rows: list[list[Cell]] = [
        [series.label, series.benchmark, series.machine_id, str(len(series.run_ids)), number(series.values[-1]),
         word, (series.run_ids[-1], page_of[series.run_ids[-1]]) if series.run_ids[-1] in page_of
         else series.run_ids[-1]]
        for word, series in sorted(zip(words, found.series, strict=True), key=lambda one: WORST_FIRST.index(one[0]))]
    page.sections.append(Section("Every series", [f"{len(rows) - MOST_ROWS} more series do not fit here."]
                                 * (len(rows) > MOST_ROWS), table=Table(
        "series", "Every case over its runs", ["case", "benchmark", "machine", "runs", "last, us", "verdict",
                                               "last run"], rows[:MOST_ROWS], filters=["benchmark", "verdict"])))
    page.reproduce = how_made(list(found.runs.values()))
    return page


def of_imported(paths: Sequence[Path], file: str, name: str) -> Page:
    """What each imported log said, in a row and in full. Raises ResultError for one that cannot be read."""
    found = [read_imported(path) for path in paths]
    page = Page(file, name, "Imported logs", ["Imported, never judged: another benchmark's figures, by its own rules."])
    table = Table("logs", "Every imported log", ["log", "lines", "written by", "benchmark", "ranks", "sizes",
                                                 "most busbw, GB/s", "status"], [_row(one) for one in found])
    page.sections.append(Section("What was imported", table=table))
    share = MOST_IMPORTED_TEXT // max(len(found), 1)
    page.sections += [Section(f"{one.run.imported_from.file}, {one.run.benchmark}, lines "
                              f"{one.run.imported_from.first_line} to {one.run.imported_from.last_line}",
                              text=render(one)[:share], folded=len(found) > 1) for one in found]
    page.reproduce = [("command", "python -m reports import FILE"),
                      ("run ids", "\n".join(one.run.run_id for one in found[:40])),
                      ("command in the logs", "\n".join(dict.fromkeys(" ".join(one.run.argv) for one in found
                                                                      if one.run.argv)) or "not said")]
    return page


def _row(one: Imported) -> list[str]:
    origin, sizes = one.run.imported_from, [case.size_bytes for case in one.cases if case.size_bytes is not None]
    rates = [case.bus_bw_gb_s for case in one.cases if case.bus_bw_gb_s is not None and case.status == "ok"]
    ranks = one.run.world.get("size")
    return [origin.file, f"{origin.first_line} to {origin.last_line}", origin.format, one.run.benchmark,
            "-" if ranks is None else str(ranks),
            f"{size_text(min(sizes))} to {size_text(max(sizes))}" if sizes else "-", number(max(rates, default=None)),
            one.end.status]


def of_procurement(spec: Path, file: str, name: str) -> Page:
    """Candidate machines side by side. Raises ResultError for a spec or a run that cannot be used."""
    found = evaluate(spec)
    page = Page(file, name, f"Procurement: {found.headline}", [f"From {found.title}."], procurement=found)
    page.reproduce = [("command", f"python -m reports procure {spec.name}"),
                      ("run ids", "\n".join(f"{machine.name}: {', '.join(machine.run_ids[:40]) or 'none'}"
                                            for machine in found.machines))]
    return page
