"""The first page: the verdicts over all runs and campaigns, and a link to every other page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from reports.site import words
from reports.site.page import Page, Row, Section
from reports.site.store import Store
from reports.store.foreign import printable
from reports.store.order import places
from reports.store.schema import Result
from reports.tables.sentences import size_text
from reports.verdicts.sides import key_of
from reports.verdicts.verdict_table import some

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


def overview_page(store: Store, pages: Pages) -> Page:
    """The first page of a site with these other pages."""
    groups = group_runs(store.results)
    runs = [result.run for result in store.results]
    runs += [run for page in pages.values() for run in page.runs]
    place = places(runs)
    runs.sort(key=lambda run: place[run.run_id])
    wrong = wrong_results(groups)
    last_run = "none here was measured"
    if runs:
        last_run = f"{words.start_time(runs[-1])}: {runs[-1].benchmark} on {runs[-1].machine_id}"
    newest = [result for results in groups.values() for result in results[-MOST_RUNS:]]
    sections = [
        Section("Wrong results", table="wrong", rows=[_wrong_row(run, pages) for run in wrong],
                caption="No correct run has followed these; each leads to its run"),
        Section("Machines and benchmarks", table="machines", caption="Each leads to its newest run",
                rows=[_machine_row(group, pages) for group in reversed(groups.values())]),
        Section("Campaigns", table="campaigns", caption="Each leads to its comparison",
                rows=[_campaign_row(path, pages) for path in reversed(store.campaigns)]),
        Section("Left out", list(map(printable, store.left_out))),
        Section("Runs", table="runs", filters=["benchmark", "machine"],
                caption=f"The newest {MOST_RUNS} of each machine and benchmark",
                rows=[_run_row(run, pages) for run in reversed(newest)]
                if len(newest) > len(groups) else [])]
    return Page(
        "Wiretax: all runs and their verdicts", sections=sections, file="index.html",
        cards=[*_verdict_cards(groups, wrong, pages), ("last run", "", last_run)],
        reproduce={**words.how_to_reproduce(runs), "campaigns": _names(store.campaigns),
                   "imported logs": _names(store.imported)})


def _names(paths: Sequence[Path]) -> str:
    return "\n".join(printable(path.name) for path in paths[:MOST_NAMES])


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
    cells = sum((page.counts for file, page in pages.items() if file != HISTORY), Counter[str]())
    series = _count_series(groups, wrong, pages)
    cards = []
    for word, verdicts in words.VERDICTS.items():
        total, sentences = 0, []
        for counts, noun in ((series, "cases over runs"), (cells, "cells of campaigns")):
            of_word = Counter({name: count for name, count in counts.items()
                               if count and name.upper() in verdicts})
            total += of_word.total()
            reasons = ", ".join(f"{count} {name}" for name, count in of_word.items())
            if counts.total():
                sentences.append(f"{of_word.total()} of {counts.total()} {noun}"
                                 + (f" ({reasons})" if set(of_word) - {word} else ""))
        cards.append((f"{total} {word}", word,
                      ", ".join(sentences) or "nothing here has a verdict"))
    return cards


def _count_series(groups: Groups, wrong: Sequence[Result], pages: Pages) -> Counter[str]:
    """The cases over runs by the last change of their series, by wrong results, or by the reason
    why they have no series."""
    history = pages.get(HISTORY, Page("History"))
    counts = history.counts
    counts["WRONG"] = len({(result.run.machine_id, result.run.benchmark, key_of(case))
                           for result in wrong for case in result.cases if case.status == "wrong"})
    counts[words.NO_HISTORY] = sum(case.status not in ("wrong", "unsupported")
                                   for group, results in groups.items()
                                   if group not in history.verdicts for case in results[-1].cases)
    return counts


def _run_link(text: str, result: Result, pages: Pages) -> str | tuple[str, str]:
    """`text` with a link to the page of a run, if there is one."""
    file = words.file_name("run", result.run.run_id)
    return (text, file) if file in pages else text


def _run_row(result: Result, pages: Pages) -> Row:
    run = result.run
    return {"when": _run_link(words.start_time(run), result, pages), "benchmark": run.benchmark,
            "machine": run.machine_id, "status": words.status_text(result), "run id": run.run_id}


def _wrong_row(result: Result, pages: Pages) -> Row:
    cases = [f"{size_text(case.size_bytes)} {case.algorithm} {case.mode}"
             for case in result.cases if case.status == "wrong"]
    return {**_run_row(result, pages), "cases": some(cases)}


def _machine_row(results: Sequence[Result], pages: Pages) -> Row:
    last, run = results[-1], results[-1].run
    series = pages[HISTORY].verdicts if HISTORY in pages else {}
    counts = series.get((run.machine_id, run.benchmark), Counter())
    return {"machine and benchmark": _run_link(f"{run.machine_id} {run.benchmark}", last, pages),
            "last run": words.start_time(run), "runs": str(len(results)),
            "newest": words.status_text(last), "ranks": str(run.world["size"]),
            "series over runs": words.counts_text(counts) or "-"}


def _campaign_row(path: Path, pages: Pages) -> Row:
    file = words.file_name("compare", str(path))
    if file not in pages:
        return {"campaign": path.name, "cells": "-"}
    return {"campaign": (path.name, file), "cells": words.counts_text(pages[file].counts) or "-"}
