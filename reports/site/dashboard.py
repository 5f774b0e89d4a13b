"""`dashboard`: a folder of runs as static pages, which need no server and no network."""

import argparse
import os
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import msgspec

from reports.site import across, fleet_page, shared
from reports.site.run_page import run_page
from reports.store import untrusted
from reports.store.report_json import write_json
from reports.store.result import ResultError, end_with_parent, read_once
from reports.store.writing import write_whole
from reports.tables.command import command_without_seed
from reports.tables.page import Page, Section, to_html
from reports.trends.history import History, history_of

MARKER = ".wiretax-site"  # the file in a folder of pages that lists their names
MOST_BYTES = 1_000_000
MOST_LAUNCHES = 8  # behind a run's fit, the newest

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
    add(
        "--run",
        metavar="RUN",
        action="append",
        default=[],
        help="make only the page of the run with this id, beside the pages of an earlier build; "
        "may be repeated",
    )
    add(
        "--spec",
        metavar="SPEC.toml",
        type=Path,
        action="append",
        default=[],
        help="a spec of `procure`, for another page; may be repeated (every .toml of RESULTS)",
    )


def dashboard(arguments: argparse.Namespace) -> int:
    """Write the pages. Returns the exit status. Raises ResultError for an unusable folder."""
    site, specs = arguments.out, [word for spec in arguments.spec for word in ("--spec", spec)]
    paths = [arguments.results, "-o", site, *specs]
    plain = [f"<path>/{Path(path).name}" if "/" in str(path) else str(path) for path in paths]
    with read_once():
        store = shared.find(arguments.results)
        store.specs = arguments.spec or sorted(
            path for path in arguments.results.glob("*.toml") if not os.path.islink(path)
        )
        check_runs(store, arguments.run)
        former = claim(site)
        pages = build(store, f"python -m reports dashboard {shlex.join(plain)}", arguments.run)
    # Until all pages are written, the marker lists the former ones too: a build can be killed.
    names = [page.file for page in pages]
    write_whole(site / MARKER, msgspec.json.encode(sorted({*names, *former})))
    for page in pages:
        write_whole(site / page.file, page.html.encode(errors="replace"))
    for name in {*former} - {*names} if not arguments.run else ():
        (site / name).unlink(missing_ok=True)
    for sentence in store.left_out:
        print(f"reports: {untrusted.printable(sentence)}", file=sys.stderr)
    if arguments.json:
        write_json("dashboard", index=site / pages[-1].file, pages=names, left_out=store.left_out)
    else:
        print(f"{untrusted.printable(str(site / pages[-1].file))}: {len(pages)} pages")
    named = {shared.file_name("procure", str(spec)) for spec in arguments.spec}
    return 2 if any(page.complaint for page in pages if page.file in named) else 0


def claim(site: Path) -> list[str]:
    """Make `site` a folder of pages. Returns the pages of a former build in it. Raises ResultError
    if it holds other files."""
    marker = site / MARKER
    try:
        names = msgspec.json.decode(untrusted.read_bytes(marker, follow=False), type=list[str])
    except FileNotFoundError:
        if site.exists() and any(site.iterdir()):
            raise ResultError(
                f"{site} holds other files: the pages need a folder of their own"
            ) from None
        site.mkdir(parents=True, exist_ok=True)
        names = []
    except (OSError, msgspec.DecodeError) as error:
        raise ResultError(f"{marker} is not the mark of a folder of pages ({error})") from error
    for unfinished in site.glob("*.html*.part"):
        unfinished.unlink()
    return [name for name in names if re.fullmatch(r"[A-Za-z0-9-]+\.html", name)]


def check_runs(store: shared.Store, run_ids: Sequence[str]) -> None:
    """Raises ResultError for the id of a run that has no page."""
    unknown = {*run_ids}.difference(entry.run.run_id for entry in store.runs)
    if unknown:
        raise ResultError(f"--run {min(unknown)}: no run here has this id")


def build(store: shared.Store, command: str, run_ids: Sequence[str]) -> list[Page]:
    """Make every page, several at a time, the overview last; or the pages of these runs alone. Adds
    to `store.left_out` what cannot be shown. Processes share what was read before."""
    global _jobs
    jobs = _jobs = list(plan_runs(store, run_ids) if run_ids else plan_pages(store))
    names = {"index.html": "Overview", **{file: name for file, name, _ in jobs}}
    if run_ids:
        names[across.HISTORY] = "History"
    finish = partial(
        render,
        pages=names,
        command=command,
        private_folders=[store.contents.folder, *(spec.parent for spec in store.specs)],
    )
    with ProcessPoolExecutor(
        min(os.cpu_count() or 1, len(jobs) + 1), get_context("fork"), initializer=end_with_parent
    ) as pool:
        pages = list(pool.map(partial(make_page, finish=finish), range(len(jobs))))
    store.left_out += [page.complaint for page in pages if page.complaint]
    if run_ids:
        return pages
    overview = across.overview_page(store, pages)
    finish(overview)
    return [*pages, overview]


def plan_runs(store: shared.Store, run_ids: Sequence[str] = ()) -> Iterator[Job]:
    """The pages of these runs; without any, of the newest of each machine and benchmark."""
    chosen = {*run_ids} or {
        entry.run.run_id
        for entries in store.groups.values()
        for entry in entries[-across.MOST_RUNS :]
    }
    launches_of: dict[tuple[str | None, ...], list[Path]] = defaultdict(list)
    for entry in store.runs:
        run = entry.run
        launches = launches_of[
            run.machine_id, run.node, run.software_id, run.version, command_without_seed(run)
        ]
        launches.append(entry.path)
        if run.run_id in chosen:
            yield (
                shared.file_name("run", run.run_id),
                "",
                partial(run_page, entry.path, launches[-MOST_LAUNCHES:]),
            )


def plan_pages(store: shared.Store) -> Iterator[Job]:
    """Each page but the overview."""
    problem: ResultError | None = None
    if store.runs or store.campaigns:
        try:
            store.history = history_of(store.contents)
        except ResultError as error:
            problem = error
        yield across.HISTORY, "History", partial(history_job, store.history, problem)
    for (machine_id, node), entries in store.nodes.items():
        yield (
            shared.file_name("node", f"{machine_id} {node}"),
            "",
            partial(across.node_page, store.history, node, entries),
        )
    yield from plan_runs(store)
    for path in store.campaigns:
        yield shared.file_name("compare", str(path)), "", partial(across.campaign_page, path)
    if len({node for entry in store.runs for node in entry.run.nodes}) > 1:
        yield fleet_page.FLEET, "Fleet", partial(fleet_page.fleet_page, store.contents)
    if store.imported:
        yield "imported.html", "Imported logs", partial(across.imported_page, store.imported)
    for spec in store.specs:
        name = f"Procurement {spec.name}" if len(store.specs) > 1 else "Procurement"
        yield shared.file_name("procure", str(spec)), name, partial(across.procurement_page, spec)


def history_job(history: History | None, problem: ResultError | None) -> Page:
    """The page of the history. Raises the ResultError that there is in place of a history."""
    if not history:
        raise problem or ResultError("no history")
    return across.history_page(history)


def make_page(number: int, finish: Callable[[Page], None]) -> Page:
    """A page with its HTML and without its sections. A page that cannot be made has a complaint."""
    file, name, make = _jobs[number]
    try:
        page = make()
    except (ResultError, OSError) as error:
        page = Page(name or "A page without content", [str(error)], complaint=str(error))
    page.file = file
    finish(page)
    page.sections = []
    return page


def render(
    page: Page, pages: Mapping[str, str], command: str, private_folders: Sequence[Path]
) -> None:
    """Set the HTML of a page, at most 1 MB. Until it fits, the page loses half of its text and
    sentences at a time, and the drawings with another vertical axis before half of its rows."""
    parts: list[Page | Section] = [page, *page.sections]
    for part in parts:
        part.sentences = [
            untrusted.printable(hide_folders(line, private_folders)) for line in part.sentences
        ]
    page.reproduce["this page"] = command
    page.html, former_length = to_html(page, pages), 0
    while len(page.html.encode()) > MOST_BYTES and len(page.html) != former_length:
        former_length = len(page.html)
        for section in page.sections:
            section.text = section.text[: len(section.text) // 2]
            section.sentences = section.sentences[: len(section.sentences) // 2 + 1]
            first_scale = [picture for picture in section.pictures if picture.scale != "linear"]
            if len(first_scale) < len(section.pictures):
                section.pictures = first_scale
            else:
                section.rows = section.rows[: (len(section.rows) + 1) // 2]
        shortened = "All of it would not fit on one page: drawings and rows are left out."
        page.sentences = list(dict.fromkeys([*page.sentences, shortened]))
        page.html = to_html(page, pages)


def hide_folders(sentence: str, folders: Sequence[Path]) -> str:
    """Remove these folders and those of other paths: readers need not know the author's files."""
    for folder in folders:
        sentence = sentence.replace(f"{folder}/", "")
        if folder.name not in ("", str(folder)):
            sentence = sentence.replace(str(folder), folder.name)
    return re.sub(r"(?<![\w/:>.])(\.\.)?/([^\s/]+/)+", "<path>/", sentence)
