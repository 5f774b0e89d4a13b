"""What a folder of the dashboard holds. It is searched without following a link; what cannot be read is named."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from reports.store.manifest import BESIDE_A_RUN, MANIFEST, WORKTREES
from reports.store.order import places
from reports.store.result import ImportedRunError, ResultError, read
from reports.store.schema import Result

MARKER = ".wiretax-site"  # what a folder of ours has: the names of its pages


@dataclass
class Store:
    """What a folder holds: runs, oldest first, folders of campaigns, runs that were imported, what is to be bought, and
    sentences on what is left out."""

    folder: Path
    results: list[Result] = field(default_factory=list)
    campaigns: list[Path] = field(default_factory=list)
    imported: list[Path] = field(default_factory=list)
    specs: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def places(self) -> list[Path]:
        """The folders that a page is not to name."""
        return [self.folder, *(spec.parent for spec in self.specs)]


def find(folder: Path) -> Store:
    """The runs and campaigns below `folder`. Raises ResultError for one that is none."""
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder of results")
    store = Store(folder)
    seen: dict[str, Result] = {}
    def closed(error: OSError) -> None:
        store.left_out.append(f"{error.filename} cannot be read: {error.strerror}")

    for here, folders, files in os.walk(folder, onerror=closed):
        links = {name for name in [*folders, *files] if os.path.islink(os.path.join(here, name))}
        store.left_out += [f"{Path(here, name)} is a link, which is not followed" for name in sorted(links)]
        folders[:] = sorted(name for name in folders if name not in links and name != WORKTREES
                            and Path(name).suffix not in BESIDE_A_RUN
                            and not os.path.lexists(os.path.join(here, name, MARKER)))
        if MANIFEST in files and MANIFEST not in links:
            store.campaigns.append(Path(here))
            folders.clear()
            continue
        for path in [Path(here, name) for name in sorted(files) if name.endswith(".jsonl") and name not in links]:
            try:
                result = read(path)
            except ImportedRunError:
                store.imported.append(path)
                continue
            except ResultError as error:
                store.left_out.append(str(error))
                continue
            other = seen.setdefault(result.run.run_id, result)
            if other is not result:
                more, less = sorted((other, result), key=_whole, reverse=True)  # of two alike the first
                seen[result.run.run_id] = more
                store.left_out.append(f"{less.path} is the run of {more.path} once more")
    store.results = [seen[run_id] for run_id in places(result.run for result in seen.values())]
    return store


def _whole(result: Result) -> tuple[bool, int]:
    """How much of its run a file has: a copy may have been cut off."""
    return result.complete, len(result.blocks)
