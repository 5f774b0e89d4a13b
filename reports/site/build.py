"""Makes every page of a site, several at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reports.site import words
from reports.site.across import campaign_page, history_page, imported_page, procurement_page
from reports.site.overview import HISTORY, MOST_RUNS, group_runs, overview_page
from reports.site.page import Page, Site, render
from reports.site.run_page import run_page
from reports.site.store import Store
from reports.store.result import ResultError
from reports.store.workers import end_with_parent

MOST_LAUNCHES = 8  # behind a run's fit, the newest
# A file can keep to the schema and still hold values that no benchmark writes.
ODD_VALUES = ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError


@dataclass
class Job:
    """A page to make from `source`. `link` is its name in the navigation, with which it exists
    even if it has only an error to show."""

    file: str
    source: Path
    make: Callable[[], Page]
    link: str = ""


def build(store: Store, command: str) -> list[Page]:
    """Make every page, the overview last. Adds to `store.left_out` what cannot be shown. Within
    `read_once` the processes share the runs that were read before."""
    jobs = plan_pages(store)
    site = Site([("Overview", "index.html"), *((job.link, job.file) for job in jobs if job.link)],
                command, [store.folder, *(spec.parent for spec in store.specs)])
    processes = min(os.cpu_count() or 1, max(len(jobs), 1))
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, fork, initializer=end_with_parent) as pool:
        pages = list(pool.map(partial(make_page, site=site), jobs))
    store.left_out += [page.complaint for page in pages if page.complaint]
    pages = [page for page in pages if page.html]
    overview = overview_page(store, {page.file: page for page in pages})
    overview.html = render(overview, site)
    return [*pages, overview]


def plan_pages(store: Store) -> list[Job]:
    """A page for each of the newest runs, each campaign and each procurement, one for the history
    and one for the imported logs."""
    page_of = {result.run.run_id: words.file_name("run", result.run.run_id)
               for results in group_runs(store.results).values() for result in results[-MOST_RUNS:]}
    jobs = []
    launches_of: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for result in store.results:
        run, path = result.run, result.path
        launches = launches_of[run.machine_id, run.software_id, run.version,
                               words.command_without_seed(run)]
        launches.append(path)
        if run.run_id in page_of:
            jobs.append(Job(page_of[run.run_id], path,
                            partial(run_page, path, launches[-MOST_LAUNCHES:])))
    jobs += [Job(words.file_name("compare", str(path)), path, partial(campaign_page, path))
             for path in store.campaigns]
    if store.results or store.campaigns:
        jobs.append(Job(HISTORY, store.folder, partial(history_page, store.folder, page_of),
                        "History"))
    if store.imported:
        jobs.append(Job("imported.html", store.folder, partial(imported_page, store.imported),
                        "Imported logs"))
    for spec in store.specs:
        link = f"Procurement {spec.name}" if len(store.specs) > 1 else "Procurement"
        jobs.append(Job(words.file_name("procure", str(spec)), spec,
                        partial(procurement_page, spec), link))
    return jobs


def make_page(job: Job, site: Site) -> Page:
    """A page with its HTML and without its sections. A page that cannot be made has a complaint,
    and no HTML unless other pages link to it."""
    try:
        page = job.make()
    except (ResultError, OSError, *ODD_VALUES) as error:
        reason = f"{job.source} cannot be shown ({type(error).__name__}: {error})"
        if isinstance(error, OSError):
            reason = f"{error.filename or job.source} cannot be read: {error.strerror}"
        elif isinstance(error, ResultError):
            reason = str(error)
        page = Page(job.link, [f"There is nothing to show: {reason}"], complaint=reason)
    page.file = job.file
    if job.link or not page.complaint:
        page.html = render(page, site)
    page.sections, page.procurement = [], None
    return page
