"""`dashboard`: a folder of runs as static pages, which need no server and no network."""

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from reports.kit.page import Banner, Page, banner_png, to_html
from reports.site import fleet_page, overview
from reports.site.history_page import history_page, page_beside, part_of
from reports.site.shared import Store, file_name, find, history_file
from reports.tables.figure import can_draw
from reports.tables.sentences import counted
from reports.trends.fleet import fleet_of
from reports.trends.history import KEY
from reports.verdicts.verdict_pages import campaign_page
from wiretax.common import untrusted
from wiretax.common.owners import open_folder
from wiretax.common.program import REPORTS, RUN, answer, complain
from wiretax.record.result import ResultError, end_with_parent
from wiretax.record.writing import locked, write_errors, write_whole

NOT_SHOWN = "Cannot be shown"
MARKER = ".wiretax-site"  # the file in a folder of pages that lists their names

# A page to make: its file, its name in the navigation if it is there, and its maker.
Job = tuple[str, str, Callable[[], Page]]
_jobs: list[Job] = []  # for the processes of `build`, which are forks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("results", metavar="RESULTS", type=Path, help="a folder of runs and campaigns")
    add(
        "-o",
        "--out",
        metavar="SITE",
        type=Path,
        default=Path("site"),
        help="the folder of the pages (site): a new folder, or one that this command made",
    )


def dashboard(arguments: argparse.Namespace) -> int:
    """Write the pages. Returns the exit status. Raises ResultError for an unusable folder."""
    results, site = arguments.results, arguments.out
    command = shlex.join(["dashboard", results.name or ".", "-o", site.name])

    store = find(results)
    with write_errors(site):
        folder = open_folder(site)
    with locked(folder):
        pages = write_pages(store, f"{RUN}{REPORTS} {command}", site, folder)

    complain(*store.left_out)

    index, names = site / pages[-1].file, [page.file for page in pages]
    said = f"{untrusted.printable(str(index))}: {counted(len(pages), 'page')}"
    answer(arguments, said, index=index, pages=names, left_out=store.left_out)
    return 0


def write_pages(store: Store, command: str, site: Path, folder: Path) -> list[Page]:
    """Make and write the pages in the open folder of the site. Raises ResultError."""
    with write_errors(site):
        former = claim(folder)
    pages = build(store, command)

    files = {page.file: page.html.encode(errors="replace") for page in pages}
    if can_draw():
        files[overview.PICTURE] = banner_png(pages[-1])

    # Until all pages are written, the marker lists the former ones too: a build can be killed.
    write_whole(folder / MARKER, "\n".join(sorted(files.keys() | former)).encode())
    for name, content in files.items():
        write_whole(folder / name, content)
    for name in former - files.keys():
        (folder / name).unlink(missing_ok=True)

    return pages


def claim(site: Path) -> set[str]:
    """Make `site` a folder of pages. Returns the files of a former build in it. Raises OSError if
    it holds other files."""
    marker, former = site / MARKER, ""
    if marker.is_file():
        former = untrusted.read_bytes(marker, follow=False).decode(errors="replace")
    elif any(site.iterdir()):
        raise OSError(0, "it is not empty, and the pages need a folder of their own")

    for unfinished in site.glob("*.html*.part"):
        unfinished.unlink()

    return set(re.findall(r"[A-Za-z0-9-]+\.(?:html|png)", former))


def build(store: Store, command: str) -> list[Page]:
    """Make every page, several at a time, the overview last. Adds to `store.left_out` what cannot
    be shown."""
    global _jobs
    jobs = _jobs = list(plan_pages(store))
    names = {"index.html": "Overview", **{file: name for file, name, _ in jobs}}
    finish = partial(render, pages=names, command=command, folder=store.contents.folder)

    with ProcessPoolExecutor(
        min(os.cpu_count() or 1, len(jobs) + 1), get_context("fork"), initializer=end_with_parent
    ) as pool:
        pages = list(pool.map(partial(make_page, finish=finish), range(len(jobs))))

    store.left_out += [page.banner.sentence for page in pages if page.banner.word == NOT_SHOWN]
    index = overview.overview_page(store, {page.file: page for page in pages})
    finish(index)
    return [*pages, index]


def plan_pages(store: Store) -> Iterator[Job]:
    """Each page but the overview. Pages of their own have the newest runs of each machine and
    benchmark, the runs on both sides of a change, the newest whose wrong results no correct run has
    followed, and of a node to look at the newest run, and the newest with wrong results."""
    keys = dict.fromkeys(map(KEY, store.history.series))
    for key in keys:
        part = part_of(store.history, key)
        name = "History" if len(keys) == 1 else ""
        yield history_file(*key), name, partial(history_page, part)

    for path in store.contents.campaigns:
        yield file_name("compare", str(path)), "", partial(campaign_page, path)

    newest = {node: entry.run.run_id for entry in store.runs for node in entry.run.nodes}
    events = [*store.history.standing, *store.history.tails]
    sides = {run_id for event in events for run_id in event.sides}
    sides |= {entry.run.run_id for entry in [*store.history.wrong][-overview.MOST_RUNS :]}
    if len(newest) > 1:
        fleet = fleet_of(store.contents)
        sides |= {newest[node] for node in fleet_page.named_in(fleet) if node in newest}
        bad = [runs for of_node in fleet.bad.values() for runs in of_node.values()]
        sides |= {runs[-1] for runs in bad}  # to which the page of the fleet links
        yield fleet_page.FLEET, "Fleet", partial(fleet_page.fleet_page, fleet, store.contents)

    for key, entries in store.groups.items():
        part = part_of(store.history, key)
        for at, entry in enumerate(entries):
            run_id = entry.run.run_id
            if at >= len(entries) - overview.MOST_RUNS or run_id in sides:
                yield file_name("run", run_id), "", partial(page_beside, part, entries, at)


def make_page(number: int, finish: Callable[[Page], None]) -> Page:
    """A page with its HTML and without its sections, or else a page that says why there is none."""
    file, name, make = _jobs[number]
    try:
        page = make()
    except (ResultError, OSError) as error:
        todo = "Next: mend what is named, and make the pages again."
        page = Page(name or Path(file).stem, Banner(NOT_SHOWN, str(error), [todo], "unsure"))

    page.file = file
    finish(page)
    page.sections = []
    return page


def render(page: Page, pages: Mapping[str, str], command: str, folder: Path) -> None:
    """Set the HTML of a page. Its texts and its picture name no folders."""

    def clean(sentence: str) -> str:
        """Without this folder and those of paths: readers need not know the author's files."""
        if folder.name:
            sentence = sentence.replace(f"{folder}/", "").replace(str(folder), folder.name)

        return re.sub(r"(?<![\w/:>.])(\.\.)?/([^\s/]+/)+", "<path>/", sentence)

    page.banner.sentence = untrusted.printable(clean(page.banner.sentence))
    page.reproduce["this page"] = command
    page.html = to_html(page, pages, clean)
