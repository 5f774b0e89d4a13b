"""The first page: the verdicts over all runs and campaigns, and a link to every other page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from reports.site import words
from reports.site.page import Cell, Page, Section, Table, table_section
from reports.site.store import Store
from reports.store.foreign import printable
from reports.store.order import places
from reports.store.schema import Result
from reports.tables.sentences import size_text, some
from reports.verdicts.sides import key_of

HISTORY = "history.html"
MOST_RUNS = 12  # with a page of their own for each machine and benchmark, the newest
MOST_NAMES = 40

# The runs of a machine and benchmark, oldest first; the group with the newest run is the last.
Groups = dict[tuple[str, str], list[Result]]
Pages = Mapping[str, Page]  # by file


def group_runs(results: Sequence[Result]) -> Groups:
    """Group runs, oldest first, by machine and benchmark."""
    groups: Groups = {}
    for result in results:
        key = result.run.machine_id, result.run.benchmark
        groups[key] = [*groups.pop(key, []), result]
    return groups


def overview_page(store: Store, groups: Groups, pages: Pages) -> Page:
    """The first page of a site with these other pages."""
    runs = [result.run for result in store.results]
    runs += [run for page in pages.values() for run in page.runs]
    place = places(runs)
    runs.sort(key=lambda run: place[run.run_id])
    wrong = wrong_results(groups)
    last_run = "none here was measured"
    if runs:
        last = runs[-1]
        last_run = f"{words.start_time(last)}: {last.benchmark} on {last.machine_id}"
    sections = [_wrong(wrong, pages), _machines(groups, pages), _campaigns(store, pages)]
    if store.left_out:
        sections.append(Section("Left out", [
            printable(words.hide_folders(sentence, store.private_folders))
            for sentence in store.left_out]))
    if any(len(results) > 1 for results in groups.values()):
        sections.append(_runs(groups, pages))
    return Page(
        "Wiretax: all runs and their verdicts", sections=sections, file="index.html",
        cards=[*_verdict_cards(groups, wrong, pages), ("last run", "", last_run)],
        reproduce=[*words.how_to_reproduce(runs), ("campaigns", _names(store.campaigns)),
                   ("imported logs", _names(store.imported))])


def _names(paths: Sequence[Path]) -> str:
    return "\n".join(printable(path.name) for path in paths[:MOST_NAMES])


def _run_link(text: str, result: Result, pages: Pages) -> Cell:
    """`text` with a link to the page of a run, if there is one."""
    file = words.file_name("run", result.run.run_id)
    return (text, file) if file in pages else text


def wrong_results(groups: Groups) -> list[Result]:
    """The runs with wrong results, newest first, which no correct run of the same machine and
    benchmark has followed."""
    wrong = []
    for results in groups.values():
        for result in reversed(results):
            if any(case.status == "wrong" for case in result.cases):
                wrong.append(result)
            elif result.complete:
                break
    return wrong


def _verdict_cards(groups: Groups, wrong: Sequence[Result],
                   pages: Pages) -> list[tuple[str, str, str]]:
    """A card for worse, better and unknown, which counts cases over runs and cells of campaigns."""
    series = _count_series(groups, wrong, pages)
    cells = sum((page.counts for file, page in pages.items() if file != HISTORY), Counter[str]())
    cards = []
    for word, verdicts in words.VERDICTS.items():
        total, sentences = 0, []
        for counts, noun in ((series, "cases over runs"), (cells, "cells of campaigns")):
            of_word = {name: count for name, count in counts.items()
                       if count and name.upper() in verdicts}
            count = sum(of_word.values())
            total += count
            reasons = ", ".join(f"{count} {name}" for name, count in of_word.items())
            if counts.total():
                sentences.append(f"{count} of {counts.total()} {noun}"
                                 + (f" ({reasons})" if set(of_word) - {word} else ""))
        cards.append((f"{total} {word}", word,
                      ", ".join(sentences) or "nothing here has a verdict"))
    return cards


def _count_series(groups: Groups, wrong: Sequence[Result], pages: Pages) -> Counter[str]:
    """The cases over runs by the last change of their series, by wrong results, or by the reason
    why they have no series."""
    history = pages.get(HISTORY, Page("History"))
    counts = Counter(history.counts)
    counts["WRONG"] = len({(result.run.machine_id, result.run.benchmark, key_of(case))
                           for result in wrong for case in result.cases if case.status == "wrong"})
    counts[words.NO_HISTORY] = sum(case.status not in ("wrong", "unsupported")
                             for group, results in groups.items() if group not in history.groups
                             for case in results[-1].cases)
    return counts


def _wrong(wrong: Sequence[Result], pages: Pages) -> Section:
    rows: list[list[Cell]] = []
    for result in wrong:
        cases = [f"{size_text(case.size_bytes)} {case.algorithm} {case.mode}"
                 for case in result.cases if case.status == "wrong"]
        rows.append([_run_link(words.start_time(result.run), result, pages),
                     words.status_text(result), result.run.benchmark, result.run.machine_id,
                     some(cases)])
    return table_section("Wrong results", Table(
        "wrong", "No correct run has followed these; each leads to its run",
        ["run", "status", "benchmark", "machine", "cases"], rows))


def _machines(groups: Groups, pages: Pages) -> Section:
    series = pages[HISTORY].groups if HISTORY in pages else {}
    rows: list[list[Cell]] = []
    for (machine, benchmark), results in reversed(groups.items()):
        last = results[-1]
        rows.append([_run_link(f"{machine} {benchmark}", last, pages), words.start_time(last.run),
                     str(len(results)), words.status_text(last), str(last.run.world["size"]),
                     words.counts_text(series.get((machine, benchmark), Counter())) or "-"])
    return table_section("Machines and benchmarks", Table(
        "machines", "Each leads to its newest run",
        ["machine and benchmark", "last run", "runs", "newest", "ranks", "series over runs"], rows))


def _campaigns(store: Store, pages: Pages) -> Section:
    rows: list[list[Cell]] = []
    for path in reversed(store.campaigns):
        file = words.file_name("compare", str(path))
        if file in pages:
            rows.append([(path.name, file), words.counts_text(pages[file].counts) or "-"])
        else:
            rows.append([path.name, "-"])
    return table_section("Campaigns", Table(
        "campaigns", "Each leads to its comparison", ["campaign", "cells"], rows))


def _runs(groups: Groups, pages: Pages) -> Section:
    newest = [result for results in groups.values() for result in results[-MOST_RUNS:]]
    rows: list[list[Cell]] = [
        [_run_link(words.start_time(result.run), result, pages), result.run.benchmark,
         result.run.machine_id, words.status_text(result), result.run.run_id]
        for result in reversed(newest)]
    return table_section("Runs", Table(
        "runs", f"The newest {MOST_RUNS} of each machine and benchmark",
        ["when", "benchmark", "machine", "status", "run id"], rows,
        filters=["benchmark", "machine"]))
