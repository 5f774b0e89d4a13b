"""Finds the runs, campaigns and imported logs in a folder."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from reports.store.manifest import MANIFEST, run_files
from reports.store.order import places
from reports.store.result import ImportedRunError, ResultError, read
from reports.store.schema import Result


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

    @property
    def groups(self) -> dict[tuple[str, str], list[Result]]:
        """The runs by machine and benchmark; the group with the newest run is the last."""
        groups: dict[tuple[str, str], list[Result]] = {}
        for result in self.results:
            key = result.run.machine_id, result.run.benchmark
            groups[key] = [*groups.pop(key, []), result]
        return groups


def find(folder: Path) -> Store:
    """Read the runs below `folder`. Raises ResultError if `folder` is not a folder."""
    if not folder.is_dir():
        raise ResultError(f"{folder} is not a folder of results")
    files = list(run_files(folder))
    store = Store(folder, campaigns=[path.parent for path, problem in files
                                     if path.name == MANIFEST and not problem])
    copies: dict[str, list[Result]] = defaultdict(list)
    for path, problem in files:
        try:
            if problem:
                raise ResultError(f"{path} is {problem}")
            if path.name != MANIFEST:
                result = read(path)  # a campaign's too: its comparison and the history share it
                if set(path.parents).isdisjoint(store.campaigns):
                    copies[result.run.run_id].append(result)
        except ImportedRunError:
            store.imported.append(path)
        except ResultError as error:
            store.left_out.append(str(error))
    whole: dict[str, Result] = {}
    for run_id, results in copies.items():
        # A copy can be cut off; of two equal copies the first counts.
        whole[run_id] = max(results, key=lambda copy: (copy.complete, len(copy.blocks)))
        store.left_out += [f"{copy.path} is the run of {whole[run_id].path} once more"
                           for copy in results if copy is not whole[run_id]]
    store.results = [whole[run_id] for run_id in places(result.run for result in whole.values())]
    return store
