"""A hook of mkdocs: the dashboard of the archived runs that archived.md lists becomes part of the
site. None of its pages is committed. What the site shows is chosen in the page's table."""

import re
import tempfile
from pathlib import Path

from reports.kit.page import banner_png
from reports.site.dashboard import build
from reports.site.overview import PICTURE
from reports.site.shared import find
from reports.tables.figure import can_draw
from tests.reports.archived import unpack

PAGE = Path(__file__).with_name("archived.md")
FOLDER = "experiments/archived"  # of the site
PLACE = f"`build/docs/{FOLDER}/index.html`"  # in the page, which GitHub shows too
ROW = re.compile(r"^\|.*\(runs/([\w-]+)\.tar\.xz\) \| (.*) \|$", re.MULTILINE)
NAVIGATION = '<nav aria-label="Pages">'
ABOUT = '<a href="../archived.html">Which runs these are</a> '
MOST_BYTES = 8_000_000  # more would make the site slow to copy and to check


def dashboard_of(text):
    """The files of the dashboard, by name, of the runs in a page's table. Raises ValueError if a
    run is not in its archive, cannot be shown, or all are too large."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for archive, runs in chosen(text).items():
            paths = {path.stem[-6:]: path for path in unpack(folder / archive, archive).glob("*")}
            if missing := runs - paths.keys():
                raise ValueError(f"{archive}.tar.xz has no run {', '.join(sorted(missing))}")
            for digits in paths.keys() - runs:
                paths[digits].unlink()

        store = find(folder)
        pages = build(store, "make docs")
        if store.left_out:
            raise ValueError("; ".join(store.left_out))

    files = {
        page.file: page.html.replace(NAVIGATION, NAVIGATION + ABOUT, 1).encode() for page in pages
    }
    if can_draw():
        files[PICTURE] = banner_png(pages[-1])
    if (size_bytes := sum(map(len, files.values()))) > MOST_BYTES:
        raise ValueError(f"the archived runs make {size_bytes / 1e6:.1f} MB of pages: list fewer")

    return files


def chosen(text):
    """The last six digits of the runs' names, by archive."""
    runs = {}
    for archive, names in ROW.findall(text):
        runs.setdefault(archive, set()).update(re.findall(r"`(\w{6})`", names))
    return runs


def on_files(files, config):
    from mkdocs.exceptions import PluginError  # not in the environment of the tests
    from mkdocs.structure.files import File

    try:
        dashboard = dashboard_of(PAGE.read_text())
    except ValueError as error:
        raise PluginError(str(error)) from error
    for name, content in dashboard.items():
        files.append(File.generated(config, f"{FOLDER}/{name}", content=content))
    return files


def on_page_markdown(markdown, page, **_):
    """On the site the place of the dashboard is a link, which mkdocs checks."""
    if page.file.src_uri == f"{FOLDER}.md":
        return markdown.replace(PLACE, "[open them](archived/index.html)")
    return markdown
