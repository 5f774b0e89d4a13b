"""Makes every page of a site, several at a time in processes of their own."""

from __future__ import annotations

import base64
import hashlib
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from reports.site import words
from reports.site.across import campaign_page, history_page, imported_page, procurement_page
from reports.site.overview import HISTORY, MOST_RUNS, group_runs, overview_page
from reports.site.page import Page, Section
from reports.site.run_page import run_page
from reports.site.store import Store
from reports.store.result import ResultError
from reports.store.workers import end_with_parent
from reports.tables import templates

MOST_LAUNCHES = 8  # behind a run's fit, the newest
MOST_PAGE_BYTES = 1_000_000
SHORTENED = "All of it would not fit on one page: drawings and rows are left out."


@dataclass
class Job:
    """A page to make from `source`. `link` is its name in the navigation, with which it exists
    even if it has only an error to show."""

    make: Callable[[], Page]
    source: Path
    file: str
    link: str = ""


@dataclass
class Site:
    """What all pages share: the navigation, the command, and the folders to hide."""

    links: list[tuple[str, str]]
    command: str
    private_folders: list[Path]


def build(store: Store, command: str) -> list[Page]:
    """Make every page, the overview last. Adds to `store.left_out` what cannot be shown. Within
    `read_once` the processes share the runs that were read before."""
    jobs = plan_pages(store)
    links = [("Overview", "index.html"), *((job.link, job.file) for job in jobs if job.link)]
    site = Site(links, command, store.private_folders)
    processes = min(os.cpu_count() or 1, max(len(jobs), 1))
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, fork, initializer=end_with_parent) as pool:
        pages = list(pool.map(partial(make_page, site=site), jobs))
    store.left_out += [page.complaint for page in pages if page.complaint]
    pages = [page for page in pages if page.html]
    overview = overview_page(store, group_runs(store.results), {page.file: page for page in pages})
    overview.html = fit_page(overview, site)
    return [*pages, overview]


def plan_pages(store: Store) -> list[Job]:
    """A page for each of the newest runs, each campaign and each procurement, one for the history
    and one for the imported logs."""
    groups = group_runs(store.results)
    page_of = {result.run.run_id: words.file_name("run", result.run.run_id)
               for results in groups.values() for result in results[-MOST_RUNS:]}
    jobs = []
    launches_of: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for result in store.results:
        run = result.run
        launches = launches_of[run.machine_id, run.software_id, run.version,
                               words.command_without_seed(run)]
        launches.append(result.path)
        if run.run_id in page_of:
            jobs.append(Job(partial(run_page, result.path, launches[-MOST_LAUNCHES:]),
                            result.path, page_of[run.run_id]))
    jobs += [Job(partial(campaign_page, path), path, words.file_name("compare", str(path)))
             for path in store.campaigns]
    if store.results or store.campaigns:
        jobs.append(Job(partial(history_page, store.folder, page_of), store.folder, HISTORY,
                        "History"))
    if store.imported:
        jobs.append(Job(partial(imported_page, store.imported), store.folder, "imported.html",
                        "Imported logs"))
    for spec in store.specs:
        link = f"Procurement {spec.name}" if len(store.specs) > 1 else "Procurement"
        jobs.append(Job(partial(procurement_page, spec), spec,
                        words.file_name("procure", str(spec)), link))
    return jobs


def make_page(job: Job, site: Site) -> Page:
    """A page with its HTML and without its sections. A page that cannot be made has a complaint,
    and no HTML unless other pages link to it."""
    try:
        page = job.make()
    except ResultError as error:
        page = Page(job.link, complaint=str(error))
    except OSError as error:
        reason = f"{error.filename or job.source} cannot be read: {error.strerror}"
        page = Page(job.link, complaint=reason)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError,
            ValueError) as error:
        # A file can keep to the schema and still hold values that no benchmark writes.
        reason = f"{job.source} cannot be shown ({type(error).__name__}: {error})"
        page = Page(job.link, complaint=reason)
    page.file = job.file
    if page.complaint:
        reason = words.hide_folders(page.complaint, site.private_folders)
        page.sentences = [f"There is nothing to show: {reason}"]
    if job.link or not page.complaint:
        page.html = fit_page(page, site)
    page.sections, page.procurement = [], None
    return page


def fit_page(page: Page, site: Site) -> str:
    """The page as HTML of at most 1 MB. Until it fits, it loses the drawings with another vertical
    axis, and then half of its rows, text and sentences at a time."""
    html = render_page(page, site)
    former_length = 0
    while len(html.encode()) > MOST_PAGE_BYTES and len(html) != former_length:
        former_length = len(html)
        for section in page.sections:
            _shorten(section)
        if SHORTENED not in page.sentences:
            page.sentences = [*page.sentences, SHORTENED]
        html = render_page(page, site)
    return html


def _shorten(section: Section) -> None:
    section.text = section.text[: len(section.text) // 2]
    section.sentences = section.sentences[: len(section.sentences) // 2 + 1]
    if any(picture.scale for picture in section.pictures):
        section.pictures = [replace(picture, scale="") for picture in section.pictures
                            if picture.scale in ("", "log")]
    elif section.table and len(section.table.rows) > 1:
        rows = section.table.rows
        section.table.rows = rows[: len(rows) // 2]


def render_page(page: Page, site: Site) -> str:
    """The page as HTML, which needs no other file."""
    script = templates.source("dashboard.js")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.render("dashboard.html", page=page, site=site, script=script,
                            script_hash=script_hash, verdict_class=words.verdict_class)
