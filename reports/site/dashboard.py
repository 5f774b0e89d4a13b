"""`dashboard`: a folder of runs as static pages, which need no server and no network."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from reports.site import words
from reports.site.across import campaign_page, history_page, imported_page, procurement_page
from reports.site.overview import HISTORY, MOST_RUNS, group_runs, overview_page
from reports.site.page import Page, Site, render
from reports.site.run_page import run_page
from reports.site.store import MARKER, Store, find
from reports.store import foreign
from reports.store.result import ResultError, end_with_parent, read_once
from reports.store.writing import write_whole

MOST_LAUNCHES = 8  # behind a run's fit, the newest
# A file can keep to the schema and still hold values that no benchmark writes.
ODD_VALUES = ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError


@dataclass
class Job:
    """A page to make from `source`. `link` is its name in the navigation, if it is there."""

    file: str
    source: Path
    make: Callable[[], Page]
    link: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `dashboard`."""
    parser.add_argument("results", metavar="RESULTS", type=Path,
                        help="a folder of runs and campaigns")
    parser.add_argument("-o", "--out", metavar="SITE", type=Path, default=Path("site"),
                        help="the folder of the pages (site): a new folder, or one that this "
                        "command made")
    parser.add_argument("--spec", metavar="SPEC.toml", type=Path, action="append", default=[],
                        help="a spec of `procure`, for another page; may be repeated (every "
                        ".toml of RESULTS)")


def dashboard(arguments: argparse.Namespace) -> int:
    """Write the pages. Returns the exit status: 0, or 2 if a spec of the command line cannot be
    used. Raises ResultError if RESULTS is not a folder, or if SITE is another program's folder."""
    paths = [arguments.results, "-o", arguments.out]
    for spec in arguments.spec:
        paths += ["--spec", spec]
    plain = [f"<path>/{Path(path).name}" if "/" in str(path) else str(path) for path in paths]
    with read_once():
        store = find(arguments.results)
        store.specs = arguments.spec or sorted(
            path for path in arguments.results.glob("*.toml") if not os.path.islink(path))
        former = claim(arguments.out)
        pages = build(store, f"python -m reports dashboard {shlex.join(plain)}")
    write(arguments.out, {page.file: page.html for page in pages}, former)
    for sentence in store.left_out:
        print(f"reports: {foreign.printable(sentence)}", file=sys.stderr)
    print(f"{foreign.printable(str(arguments.out / 'index.html'))}: {len(pages)} pages")
    named = {words.file_name("procure", str(spec)) for spec in arguments.spec}
    return 2 if any(page.complaint for page in pages if page.file in named) else 0


def claim(site: Path) -> list[str]:
    """Make `site` a folder of pages. Returns the pages of a former build in it. Raises ResultError
    if `site` holds other files."""
    marker = site / MARKER
    try:
        names = msgspec.json.decode(foreign.read_bytes(marker, follow=False), type=list[str])
    except FileNotFoundError:
        if site.exists() and any(site.iterdir()):
            raise ResultError(f"{site} holds other files: the pages need a folder of their own"
                              ) from None
        site.mkdir(parents=True, exist_ok=True)
        write_whole(marker, b"[]")
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise ResultError(f"{marker} is not the mark of a folder of pages ({error})") from error
    return [name for name in names if re.fullmatch(r"[A-Za-z0-9-]+\.html", name)]


def write(site: Path, pages: Mapping[str, str], former: Iterable[str]) -> None:
    """Write each page atomically, and remove pages of a former build that no longer exist."""
    for unfinished in site.glob("*.html*.part"):
        unfinished.unlink()
    # Until all pages are written, the marker lists the former ones too: a build can be killed.
    write_whole(site / MARKER, msgspec.json.encode(sorted({*pages, *former})))
    for name, html in pages.items():
        write_whole(site / name, html.encode(errors="replace"))
    for name in {*former} - {*pages}:
        (site / name).unlink(missing_ok=True)


def build(store: Store, command: str) -> list[Page]:
    """Make every page, several at a time, the overview last. Adds to `store.left_out` what cannot
    be shown. Within `read_once` the processes share the runs that were read before."""
    jobs = plan_pages(store)
    site = Site({"index.html": "Overview", **{job.file: job.link for job in jobs}}, command,
                [store.folder, *(spec.parent for spec in store.specs)])
    processes = min(os.cpu_count() or 1, max(len(jobs), 1))
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, fork, initializer=end_with_parent) as pool:
        pages = list(pool.map(partial(make_page, site=site), jobs))
    store.left_out += [page.complaint for page in pages if page.complaint]
    overview = overview_page(store, pages)
    overview.html = render(overview, site)
    return [*pages, overview]


def plan_pages(store: Store) -> list[Job]:
    """A page for each of the newest runs, each campaign and each procurement, one for the history
    and one for the imported logs."""
    newest = {result.path for results in group_runs(store.results).values()
              for result in results[-MOST_RUNS:]}
    jobs = []
    launches_of: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for result in store.results:
        run, path = result.run, result.path
        launches = launches_of[run.machine_id, run.software_id, run.version,
                               words.command_without_seed(run)]
        launches.append(path)
        if path in newest:
            jobs.append(Job(words.file_name("run", run.run_id), path,
                            partial(run_page, path, launches[-MOST_LAUNCHES:])))
    jobs += [Job(words.file_name("compare", str(path)), path, partial(campaign_page, path))
             for path in store.campaigns]
    if store.results or store.campaigns:
        jobs.append(Job(HISTORY, store.folder, partial(history_page, store.folder), "History"))
    if store.imported:
        jobs.append(Job("imported.html", store.folder, partial(imported_page, store.imported),
                        "Imported logs"))
    for spec in store.specs:
        link = f"Procurement {spec.name}" if len(store.specs) > 1 else "Procurement"
        jobs.append(Job(words.file_name("procure", str(spec)), spec,
                        partial(procurement_page, spec), link))
    return jobs


def make_page(job: Job, site: Site) -> Page:
    """A page with its HTML and without its sections. A page that cannot be made has a complaint."""
    try:
        page = job.make()
    except (ResultError, OSError, *ODD_VALUES) as error:
        reason = f"{job.source} cannot be shown ({type(error).__name__}: {error})"
        if isinstance(error, OSError):
            reason = f"{error.filename or job.source} cannot be read: {error.strerror}"
        elif isinstance(error, ResultError):
            reason = str(error)
        page = Page(job.link or job.source.name, [f"There is nothing to show: {reason}"],
                    complaint=reason)
    page.file = job.file
    page.html = render(page, site)
    page.sections, page.procurement = [], None
    return page
