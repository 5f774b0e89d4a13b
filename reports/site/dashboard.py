"""`dashboard`: a folder of runs and campaigns as a site of static pages, which open from a file with no network.

The folder is searched without following a link; what cannot be read is named and left out. Every page is written whole
beside its name and then takes it; pages of an earlier build that have no successor leave.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from reports.site.dashboard_across import of_history, of_imported, of_procurement
from reports.site.dashboard_pages import (
    MOST_ROWS,
    Cell,
    Page,
    Section,
    Table,
    command_but_seed,
    how_made,
    of_campaign,
    of_run,
    status,
    when,
    without_place,
)
from reports.site.dashboard_store import MARKER, Store, find
from reports.store import foreign
from reports.store.order import places
from reports.store.result import ResultError
from reports.store.schema import Result, Run
from reports.store.workers import end_with_parent
from reports.store.writing import write_whole
from reports.tables.sentences import size_text
from reports.verdicts.sides import key_of
from reports.verdicts.verdict_table import some

HISTORY = "history.html"
MOST_LAUNCHES = 8  # behind a run's fit, the newest up to it
MOST_RUNS = 12  # pages of runs for a machine and benchmark, the newest
MOST_NAMES = 40
NUMBER = re.compile(r"[<>+-]?\d[\d.]*(e[+-]?\d+)?!?( ?[A-Za-z%/]{1,4})?( \[[^]]*\])?|-")
MOST_BYTES = 1_000_000  # of a page
SHORTENED = "All of it would not fit on one page: drawings and rows are left out."
LONGEST_WORDS = 4000  # of a foreign string, what a page has room for
NO_HISTORY = "in no run that a history can use"
VERDICTS = {"worse": ("SLOWER", "WORSE", "WRONG"), "better": ("FASTER", "BETTER"),
            "unknown": ("AMBIGUOUS", "UNREPLICATED", "TOO FEW RUNS", "TOO FEW BLOCKS", "INCOMPLETE",
                        NO_HISTORY.upper())}


@dataclass
class Done:
    """A page as it will stand in its file, None where it could not be made; `counts`, `groups` and `runs`, of a
    campaign, are the page's."""

    file: str
    html: str | None
    counts: Counter[str] = field(default_factory=Counter)
    groups: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    complaint: str | None = None
    runs: Sequence[Run] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `dashboard` takes."""
    parser.add_argument("results", metavar="RESULTS", type=Path, help="a folder of runs and campaigns")
    parser.add_argument("-o", "--out", metavar="SITE", type=Path, default=Path("site"),
                        help="the folder of the pages (site); one of this command's own, or a new one")
    parser.add_argument("--spec", metavar="SPEC.toml", type=Path, action="append", default=[], help="what `procure` "
                        "takes, for a page of its own; may be repeated (every .toml of RESULTS)")


def dashboard(arguments: argparse.Namespace) -> int:
    """Writes the pages; the exit status, 0, or 2 where a spec that was named cannot be used. Raises ResultError for a
    folder that is not one of results, or one to write into that is somebody else's."""
    store = find(arguments.results)
    store.specs = arguments.spec or sorted(path for path in arguments.results.glob("*.toml")
                                           if not os.path.islink(path))
    earlier = claim(arguments.out)
    words = [arguments.results, "-o", arguments.out, *(word for spec in arguments.spec for word in ("--spec", spec))]
    said = f"python -m reports dashboard {shlex.join(map(_without_place, words))}"
    pages = build(store, said)
    write(arguments.out, {done.file: done.html for done in pages if done.html is not None}, earlier)
    for sentence in store.left_out:
        print(f"reports: {foreign.printable(sentence)}", file=sys.stderr)
    made = sum(done.html is not None for done in pages)
    print(f"{foreign.printable(str(arguments.out / 'index.html'))}: {made} pages")
    named = {file_name("procure", str(spec)) for spec in arguments.spec}
    return 2 if any(done.complaint for done in pages if done.file in named) else 0


def _without_place(argument: Path | str) -> str:
    """An argument as a page may tell it: of a path its last part alone."""
    return f"<path>/{Path(argument).name}" if "/" in str(argument) else str(argument)


@dataclass
class Job:
    """A page to be made: `of` what, from which file or folder, and what else it takes."""

    of: Callable[..., Page]
    where: Any
    file: str
    name: str
    more: tuple[Any, ...] = ()


def jobs_of(store: Store, shown: Sequence[Result]) -> list[Job]:
    """A page for each shown run and each campaign, and one for what was imported and each procurement."""
    alike: dict[tuple[Any, ...], list[Path]] = {}
    jobs = []
    for result in store.results:
        run = result.run
        launches = alike.setdefault((run.machine_id, run.software_id, run.version, command_but_seed(run)), [])
        launches.append(result.path)
        if result in shown:
            jobs.append(Job(of_run, result.path, file_name("run", run.run_id), run.run_id,
                            (launches[-MOST_LAUNCHES:],)))
    jobs += [Job(of_campaign, path, file_name("compare", str(path)), path.name) for path in store.campaigns]
    if store.results or store.campaigns:
        jobs.append(Job(of_history, store.folder, HISTORY, "History",
                        ({result.run.run_id: file_name("run", result.run.run_id) for result in shown},)))
    jobs += [Job(of_imported, store.imported, "imported.html", "Imported logs")] * bool(store.imported)
    return jobs + [Job(of_procurement, path, file_name("procure", str(path)), f"Procurement {path.name}"
                       if len(store.specs) > 1 else "Procurement") for path in store.specs]


def build(store: Store, command: str) -> list[Done]:
    """Every page, the overview last. What cannot be shown of a run is added to `store.left_out`."""
    groups: Groups = {}
    for result in store.results:
        group = result.run.machine_id, result.run.benchmark
        groups[group] = groups.pop(group, [])
        groups[group].append(result)
    shown = [result for group in groups.values() for result in group[-MOST_RUNS:]]
    jobs = jobs_of(store, shown)
    links = [("Overview", "index.html"), *((job.name, job.file) for job in jobs if job.of not in (of_run, of_campaign))]
    with ProcessPoolExecutor(min(os.cpu_count() or 1, max(len(jobs), 1)), initializer=end_with_parent) as pool:
        done = list(pool.map(_made, jobs, *([one] * len(jobs) for one in (store.places, links, command))))
    store.left_out += [page.complaint for page in done if page.complaint]
    made = {page.file: page for page in done if page.html is not None}
    runs = [*(result.run for result in store.results), *(run for page in done for run in page.runs)]
    place = places(runs)
    runs.sort(key=lambda run: place[run.run_id])
    overview = Page("index.html", "Overview", "Wiretax: what the runs say", reproduce=[
        *how_made(runs), ("campaigns", _names(store.campaigns)), ("imported logs", _names(store.imported))])
    wrong = wrong_now(groups)
    overview.cards = _cards(groups, wrong, made)
    overview.cards.append(("last run", "", f"{when(runs[-1])}: {runs[-1].benchmark} on {runs[-1].machine_id}" if runs
                           else "none here was measured"))
    overview.sections = [*_wrong(wrong, made), _groups(groups, made)]
    if store.campaigns:
        overview.sections.append(_campaigns(store, made))
    if store.left_out:
        overview.sections.append(Section("Left out", [foreign.printable(without_place(said, *store.places))
                                                      for said in store.left_out]))
    if len(shown) > len(groups):
        rows: list[list[Cell]] = [[_linked(when(result.run), result.run.run_id, made), result.run.benchmark,
                                   result.run.machine_id, status(result), result.run.run_id]
                                  for result in reversed(shown)]
        overview.sections.append(Section("Runs", table=Table(
            "runs", f"The newest {MOST_RUNS} of each machine and benchmark",
            ["when", "benchmark", "machine", "status", "run id"], rows, filters=["benchmark", "machine"])))
    return [*done, Done("index.html", fitting(overview, links, command))]


def _names(paths: Sequence[Path]) -> str:
    return "\n".join(foreign.printable(path.name) for path in paths[:MOST_NAMES])


def _made(job: Job, places: Sequence[Path], links: Sequence[tuple[str, str]], command: str) -> Done:
    """A page, or why there is none; a page that others lead to says so itself."""
    complaint = None
    try:
        page = job.of(job.where, job.file, job.name, *job.more)
    except ResultError as error:
        complaint = str(error)
    except OSError as error:
        complaint = f"{error.filename or job.where} cannot be read: {error.strerror}"
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A file may keep to the schema and still say what no benchmark of ours says.
        complaint = f"{job.where} holds what cannot be shown ({type(error).__name__}: {error})"
    if complaint and job.of in (of_run, of_campaign):
        return Done(job.file, None, complaint=complaint)
    if complaint:
        page = Page(job.file, job.name, job.name, [f"There is nothing to show: {without_place(complaint, *places)}"])
    return Done(job.file, fitting(page, links, command), Counter(page.counts), page.groups, complaint, page.runs)


def fitting(page: Page, links: Sequence[tuple[str, str]], command: str) -> str:
    """The page as HTML of at most `MOST_BYTES`: where it is longer, with one drawing of each picture, then with half of
    each table's rows, and half again."""
    html, before = render(page, links, command), ""
    while len(html.encode()) > MOST_BYTES and len(html) != len(before):
        for section in page.sections:
            section.text = section.text[: len(section.text) // 2]
            section.said = section.said[: len(section.said) // 2 + 1]
            if any(picture.scale for picture in section.pictures):
                section.pictures = [replace(picture, scale="") for picture in section.pictures
                                    if picture.scale in ("", "log")]
            elif section.table and len(section.table.rows) > 1:
                section.table.rows = section.table.rows[: len(section.table.rows) // 2]
        if SHORTENED not in page.said:
            page.said = [*page.said, SHORTENED]
        html, before = render(page, links, command), html
    return html


def _linked(text: str, run_id: str, made: dict[str, Done]) -> Cell:
    """`text`, leading to the run's page where it has one."""
    file = file_name("run", run_id)
    return (text, file) if file in made else text


Groups = dict[tuple[str, str], list[Result]]  # by machine and benchmark, oldest first, that with the newest run last


def wrong_now(groups: Groups) -> list[Result]:
    """The runs with wrong results that no right run of the same machine and benchmark has followed, newest first."""
    found = []
    for results in groups.values():
        for result in reversed(results):
            if any(case.status == "wrong" for case in result.cases):
                found.append(result)
            elif result.complete:
                break
    return found


def _wrong(wrong: Sequence[Result], made: dict[str, Done]) -> list[Section]:
    rows: list[list[Cell]] = [
        [_linked(when(result.run), result.run.run_id, made), status(result), result.run.benchmark,
         result.run.machine_id, some([f"{size_text(case.size_bytes)} {case.algorithm} {case.mode}"
                                      for case in result.cases if case.status == "wrong"])] for result in wrong]
    return [Section("Wrong results", table=Table("wrong", "No right run has followed these; each leads to its run", [
        "run", "status", "benchmark", "machine", "cases"], rows[:MOST_ROWS]))] if rows else []


def _cards(groups: Groups, wrong: Sequence[Result], made: dict[str, Done]) -> list[tuple[str, str, str]]:
    """What is worse, better and unknown: cases over runs by the last change of their series, by wrong results now, or
    by why they have no series, and cells of the campaigns."""
    history = made.get(HISTORY, Done(HISTORY, None))
    over_runs = Counter(history.counts)
    over_runs["WRONG"] = len({(result.run.machine_id, result.run.benchmark, key_of(case)) for result in wrong
                              for case in result.cases if case.status == "wrong"})
    over_runs[NO_HISTORY] = sum(case.status not in ("wrong", "unsupported") for group, results in groups.items()
                                if group not in history.groups for case in results[-1].cases)
    cells = sum((page.counts for file, page in made.items() if file != HISTORY), Counter[str]())
    cards = []
    for word, verdicts in VERDICTS.items():
        total, sentences = 0, []
        for counts, what in ((over_runs, "cases over runs"), (cells, "cells of campaigns")):
            its = {said: n for said, n in counts.items() if n and said.upper() in verdicts}
            total += sum(its.values())
            why = f" ({', '.join(f'{n} {said}' for said, n in its.items())})" if {*its} - {word} else ""
            sentences += [f"{sum(its.values())} of {counts.total()} {what}{why}"] * (counts.total() > 0)
        cards.append((f"{total} {word}", word, ", ".join(sentences) or "nothing here has a verdict"))
    return cards


def _groups(groups: Groups, made: dict[str, Done]) -> Section:
    over_runs = made[HISTORY].groups if HISTORY in made else {}
    rows: list[list[Cell]] = [
        [_linked(f"{machine} {benchmark}", results[-1].run.run_id, made), when(results[-1].run),
         str(len(results)), status(results[-1]), str(results[-1].run.world["size"]),
         ", ".join(f"{word} {count}" for word, count in over_runs.get((machine, benchmark), {}).items()) or "-"]
        for (machine, benchmark), results in reversed(groups.items())]
    return Section("Machines and benchmarks", table=Table(
        "machines", "Each leads to its newest run", ["machine and benchmark", "last run", "runs", "newest",
                                                      "ranks", "series over runs"], rows))


def _campaigns(store: Store, made: dict[str, Done]) -> Section:
    rows: list[list[Cell]] = []
    for path in reversed(store.campaigns):
        file = file_name("compare", str(path))
        counts = made[file].counts if file in made else Counter()
        said = ", ".join(f"{word} {count}" for word, count in counts.items())
        rows.append([(path.name, file) if file in made else path.name, said or "-"])
    return Section("Campaigns", table=Table("campaigns", "Each leads to its comparison", ["campaign", "cells"], rows))


def file_name(kind: str, foreign_name: str) -> str:
    """A plain name for a page about something that somebody else has named."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", Path(foreign_name).name)[:60].strip("-")
    return f"{kind}-{plain}-{hashlib.sha256(foreign_name.encode(errors='surrogatepass')).hexdigest()[:8]}.html"


@cache
def _template() -> jinja2.Template:
    """The page's template, which has the style, the script and the script's hash."""
    here = Path(__file__).parent
    script = (here / "dashboard.js").read_text()
    folders = here, here.parent / "advice"  # procurement.html stands there
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(folders), autoescape=True, trim_blocks=True,
                               lstrip_blocks=True, finalize=_clipped)
    pages.filters["columns_of_numbers"] = _columns_of_numbers
    pages.filters["verdict"] = lambda text: next((word for word, said in VERDICTS.items()
                                                  if text.upper().partition(":")[0].rstrip("*") in said), "")
    pages.globals.update(script=Markup(script), style=Markup((here / "dashboard.css").read_text()),
                         script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    return pages.get_template("dashboard.html")


def _columns_of_numbers(table: Table) -> set[int]:
    """The columns, by their place, in which every cell is a number, with its unit or interval, or a dash: of hashes
    some look like numbers."""
    columns = list(zip(*table.rows, strict=True))
    return {place for place, cells in enumerate(columns) if {*cells} - {"-"}
            and all(isinstance(cell, str) and NUMBER.fullmatch(cell) for cell in cells)}


def _clipped(value: Any) -> Any:
    """A foreign string that would fill a page by itself is cut; the name of a file may have any character in it."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    text = "\n".join(map(foreign.printable, value.split("\n")))
    return f"{text[:LONGEST_WORDS]} ..." if len(text) > LONGEST_WORDS else text


def render(page: Page, links: Sequence[tuple[str, str]], command: str) -> str:
    """The page as HTML, which needs nothing beside it."""
    return _template().render(page=page, links=links, made_by=command)


def claim(site: Path) -> list[str]:
    """Makes `site` a folder of ours; the names of the pages that an earlier build left there. Raises ResultError for
    one that holds something else."""
    marker = site / MARKER
    try:
        names = msgspec.json.decode(foreign.read_bytes(marker, follow=False), type=list[str])
    except FileNotFoundError:
        if site.is_dir() and any(site.iterdir()):
            raise ResultError(f"{site} holds something else: the pages need a folder of their own") from None
        if site.exists() and not site.is_dir():
            raise ResultError(f"{site} is not a folder") from None
        site.mkdir(parents=True, exist_ok=True)
        write_whole(marker, b"[]")
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise ResultError(f"{marker} is not the mark of a folder of pages ({error})") from error
    return [name for name in names if re.fullmatch(r"[A-Za-z0-9-]+\.html", name)]


def write(site: Path, pages: dict[str, str], earlier: Sequence[str]) -> None:
    """Puts the pages into `site`, each whole or not at all, and takes those of an earlier build out that are gone."""
    marker = msgspec.json.encode(sorted({*pages, *earlier})).decode()
    for left in site.glob("*.html*.part"):  # of a build that was killed
        left.unlink()
    for name, content in {MARKER: marker, **pages}.items():
        write_whole(site / name, content.encode(errors="replace"))
    for name in {*earlier} - {*pages}:
        (site / name).unlink(missing_ok=True)
