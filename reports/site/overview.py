"""The first page: the verdicts over all runs and campaigns, and a link to every other page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from reports.site import words
from reports.site.page import Page, Row, Section
from reports.site.store import Store
from reports.store.result import places
from reports.store.schema import Result
from reports.tables.sentences import size_text, some
from reports.verdicts.sides import key_of

HISTORY = "history.html"
MOST_RUNS = 12  # with a page of their own for each machine and benchmark, the newest

# The runs of a machine and benchmark, oldest first; the group with the newest run is the last.
Groups = dict[tuple[str, str], list[Result]]


def group_runs(results: Sequence[Result]) -> Groups:
    """Group runs, oldest first, by machine and benchmark."""
    groups: Groups = {}
    for result in results:
        key = result.run.machine_id, result.run.benchmark
        groups[key] = [*groups.pop(key, []), result]
    return groups


def overview_page(store: Store, others: Sequence[Page]) -> Page:
    """The first page of a site with these other pages."""
    pages = {page.file: page for page in others}
    history = pages.pop(HISTORY, Page("History"))
    groups = group_runs(store.results)
    runs = [result.run for result in store.results]
    runs += [run for page in others for run in page.runs]
    place = places(runs)
    runs.sort(key=lambda run: place[run.run_id])
    wrong = wrong_results(groups)
    last_run = "none here was measured"
    if runs:
        last_run = f"{words.start_time(runs[-1])}: {runs[-1].benchmark} on {runs[-1].machine_id}"
    newest = [result for results in groups.values() for result in results[-MOST_RUNS:]]
    campaigns: list[Row] = []
    for path in reversed(store.campaigns):
        file = words.file_name("compare", str(path))
        cells = words.counts_text(pages[file].counts) if file in pages else ""
        campaigns.append({"campaign": (path.name, file), "cells": cells or "-"})
    sections = [
        Section("Wrong results", table="wrong", rows=list(map(_wrong_row, wrong)),
                caption="No correct run has followed these; each leads to its run"),
        Section("Machines and benchmarks", table="machines", caption="Each leads to its newest run",
                rows=[_machine_row(group, history) for group in reversed(groups.values())]),
        Section("Campaigns", table="campaigns", caption="Each leads to its comparison",
                rows=campaigns),
        Section("Left out", store.left_out),
        Section("Runs", table="runs", filters=["benchmark", "machine"],
                caption=f"The newest {MOST_RUNS} of each machine and benchmark",
                rows=list(map(_run_row, reversed(newest))) if len(newest) > len(groups) else [])]
    reproduce = words.how_to_reproduce(runs)
    for name, paths in (("campaigns", store.campaigns), ("imported logs", store.imported)):
        reproduce[name] = words.listing([path.name for path in paths], words.MOST_NAMES)
    cells_of_campaigns = sum((page.counts for page in pages.values()), Counter[str]())
    cards = _verdict_cards({"cases over runs": _count_series(groups, wrong, history),
                            "cells of campaigns": cells_of_campaigns})
    return Page("Wiretax: all runs and their verdicts", [], sections, reproduce,
                [*cards, ("last run", "", last_run)], file="index.html")


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


def _verdict_cards(counts_of: Mapping[str, Counter[str]]) -> list[tuple[str, str, str]]:
    """A card for worse, better and unknown, which counts verdicts by noun."""
    cards = []
    for word, verdicts in words.VERDICTS.items():
        total, sentences = 0, []
        for noun, counts in counts_of.items():
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


def _count_series(groups: Groups, wrong: Sequence[Result], history: Page) -> Counter[str]:
    """The cases over runs by the last change of their series, by wrong results, or by the reason
    why they have no series."""
    counts = history.counts
    counts["WRONG"] = len({(result.run.machine_id, result.run.benchmark, key_of(case))
                           for result in wrong for case in result.cases if case.status == "wrong"})
    counts[words.NO_HISTORY] = sum(case.status not in ("wrong", "unsupported")
                                   for group, results in groups.items()
                                   if group not in history.verdicts for case in results[-1].cases)
    return counts


def _run_row(result: Result) -> Row:
    run = result.run
    return {"when": (words.start_time(run), words.file_name("run", run.run_id)),
            "benchmark": run.benchmark, "machine": run.machine_id,
            "status": words.status_text(result), "run id": run.run_id}


def _wrong_row(result: Result) -> Row:
    cases = [f"{size_text(case.size_bytes)} {case.algorithm} {case.mode}"
             for case in result.cases if case.status == "wrong"]
    return {**_run_row(result), "cases": some(cases)}


def _machine_row(results: Sequence[Result], history: Page) -> Row:
    last, run = results[-1], results[-1].run
    counts = history.verdicts.get((run.machine_id, run.benchmark), Counter())
    return {"machine and benchmark": (f"{run.machine_id} {run.benchmark}",
                                      words.file_name("run", run.run_id)),
            "last run": words.start_time(run), "runs": str(len(results)),
            "newest": words.status_text(last), "ranks": str(run.world["size"]),
            "series over runs": words.counts_text(counts) or "-"}
