"""Finds the runs, campaigns and imported logs in a folder. Symbolic links are not followed."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from reports.store.manifest import BESIDE_A_RUN, MANIFEST, WORKTREES
from reports.store.result import ImportedRunError, ResultError, places, read
from reports.store.schema import Result

MARKER = ".wiretax-site"  # the file in a folder of pages that lists their names


@dataclass
class Store:
    """The content of a folder: runs (oldest first), folders of campaigns, imported logs, specs of
    procurements, and sentences about files that are left out."""

    folder: Path
    results: list[Result] = field(default_factory=list)
    campaigns: list[Path] = field(default_factory=list)
    imported: list[Path] = field(default_factory=list)
    specs: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def find(folder: Path) -> Store:
    """Read the runs below `folder`. Raises ResultError if `folder` is not a folder."""
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder of results")
    store = Store(folder)
    by_run_id: dict[str, Result] = {}

    def skip(error: OSError) -> None:
        store.left_out.append(f"{error.filename} cannot be read: {error.strerror}")

    for name, folders, files in os.walk(folder, onerror=skip):
        here = Path(name)
        links = {name for name in [*folders, *files] if os.path.islink(here / name)}
        store.left_out += [f"{here / name} is a link, which is not followed"
                           for name in sorted(links)]
        if MANIFEST in files and MANIFEST not in links:
            store.campaigns.append(here)
            for path in here.rglob("*.jsonl"):  # for the comparison and the history
                if path.name != MANIFEST and not os.path.islink(path):
                    with suppress(ResultError):
                        read(path)
            folders.clear()
            continue
        folders[:] = [name for name in sorted(set(folders) - links - {WORKTREES})
                      if Path(name).suffix not in BESIDE_A_RUN
                      and not os.path.lexists(here / name / MARKER)]
        for name in sorted(set(files) - links):
            if name.endswith(".jsonl"):
                _add_run(store, by_run_id, here / name)
    order = places(result.run for result in by_run_id.values())
    store.results = [by_run_id[run_id] for run_id in order]
    return store


def _add_run(store: Store, by_run_id: dict[str, Result], path: Path) -> None:
    """Add a run, an imported log or the reason why neither can be read."""
    try:
        result = read(path)
    except ImportedRunError:
        store.imported.append(path)
        return
    except ResultError as error:
        store.left_out.append(str(error))
        return
    former = by_run_id.setdefault(result.run.run_id, result)
    if former is not result:
        # A copy can be cut off. The sort is stable: of two equal copies the first counts.
        better, worse = sorted((former, result), reverse=True,
                               key=lambda copy: (copy.complete, len(copy.blocks)))
        by_run_id[result.run.run_id] = better
        store.left_out.append(f"{worse.path} is the run of {better.path} once more")
