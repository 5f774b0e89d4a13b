"""`dashboard`: a folder of runs as static pages, which need no server and no network."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from reports.site import words
from reports.site.build import build
from reports.site.store import MARKER, find
from reports.store import foreign
from reports.store.result import ResultError, read_once
from reports.store.writing import write_whole


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
    with read_once():
        store = find(arguments.results)
        store.specs = arguments.spec or sorted(
            path for path in arguments.results.glob("*.toml") if not os.path.islink(path))
        former = claim(arguments.out)
        pages = build(store, _command(arguments))
    write(arguments.out, {page.file: page.html for page in pages}, former)
    for sentence in store.left_out:
        print(f"reports: {foreign.printable(sentence)}", file=sys.stderr)
    print(f"{foreign.printable(str(arguments.out / 'index.html'))}: {len(pages)} pages")
    named = {words.file_name("procure", str(spec)) for spec in arguments.spec}
    return 2 if any(page.complaint for page in pages if page.file in named) else 0


def _command(arguments: argparse.Namespace) -> str:
    """The command line; of each path it has the last part only."""
    words = ["-o", arguments.out]
    for spec in arguments.spec:
        words += ["--spec", spec]
    plain = [f"<path>/{Path(word).name}" if "/" in str(word) else str(word)
             for word in (arguments.results, *words)]
    return f"python -m reports dashboard {shlex.join(plain)}"


def claim(site: Path) -> list[str]:
    """Make `site` a folder of pages. Returns the pages of a former build in it. Raises ResultError
    if `site` holds other files."""
    marker = site / MARKER
    try:
        content = foreign.read_bytes(marker, follow=False)
        names = msgspec.json.decode(content, type=list[str])
    except FileNotFoundError:
        if site.is_dir() and any(site.iterdir()):
            raise ResultError(f"{site} holds other files: the pages need a folder of their own"
                              ) from None
        if site.exists() and not site.is_dir():
            raise ResultError(f"{site} is not a folder") from None
        site.mkdir(parents=True, exist_ok=True)
        write_whole(marker, b"[]")
        return []
    except (OSError, msgspec.DecodeError) as error:
        raise ResultError(f"{marker} is not the mark of a folder of pages ({error})") from error
    return [name for name in names if re.fullmatch(r"[A-Za-z0-9-]+\.html", name)]


def write(site: Path, pages: Mapping[str, str], former: Iterable[str]) -> None:
    """Write each page atomically, and remove pages of a former build that no longer exist."""
    # Until all pages are written, the marker lists the former ones too: a build can be killed.
    marker = msgspec.json.encode(sorted({*pages, *former}))
    for unfinished in site.glob("*.html*.part"):
        unfinished.unlink()
    write_whole(site / MARKER, marker)
    for name, html in pages.items():
        write_whole(site / name, html.encode(errors="replace"))
    for name in {*former} - {*pages}:
        (site / name).unlink(missing_ok=True)
