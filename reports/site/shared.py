"""What all pages share: the content of the folder, and the words for its runs."""

import hashlib
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reports.store.manifest import MANIFEST, run_files
from reports.store.result import ImportedRunError, ResultError, places, read, time_of
from reports.store.schema import Result, Run
from reports.tables.sentences import host_names

MOST_NAMES = 40  # run ids, campaigns or logs in the footer


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


def file_name(kind: str, name: str) -> str:
    """The file of a page about a thing with any `name`."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", Path(name).name)[:60].strip("-")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{kind}-{plain}-{digest}.html"


def start_time(run: Run) -> str:
    """When a run started, by its run_id: `2026-11-20 06:15 UTC`, or `an unknown time`."""
    time = time_of(run.run_id)
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else "an unknown time"


def status_text(result: Result) -> str:
    """`complete`, `incomplete`, or `WRONG: 2 cases`."""
    wrong = sum(case.status == "wrong" for case in result.cases)
    status = "complete" if result.complete else "incomplete"
    return f"WRONG: {wrong} case{'s' * (wrong > 1)}" if wrong else status


def counts_text(counts: Counter[str]) -> str:
    return ", ".join(f"{word} {count}" for word, count in counts.items())


def command_of(run: Run) -> str:
    """The command that made the run; its file has each path as `<path>`."""
    program = f"mpirun {hosts_of(run)}-n {run.world['size']} python -m bench.{run.benchmark}"
    return " ".join([program, *map(shlex.quote, run.argv)])


def hosts_of(run: Run) -> str:
    """`-hosts a1b2:2,c3d4:2 ` with the label of each host and its number of ranks; "" for one."""
    if run.world.get("hosts", 1) == 1 or not (names := host_names(run)):
        return ""
    option = "--host" if "Open MPI" in run.world.get("mpi_library", "") else "-hosts"
    return f"{option} {','.join(f'{name}:{n}' for name, n in Counter(names).items())} "


def command_without_seed(run: Run) -> str:
    """The command without its seed, which the launches of one experiment share."""
    return re.sub(r" --seed \S+", "", command_of(run))


def how_to_reproduce(runs: Sequence[Run]) -> dict[str, str]:
    """Each command, version, machine and software behind a page, for its footer."""
    return {"command": listing(map(command_of, runs)),
            "version": listing(run.version for run in runs),
            "run ids": listing((run.run_id for run in runs), MOST_NAMES, ", "),
            "machine_id": listing(run.machine_id for run in runs),
            "software_id": listing(run.software_id for run in runs)}


def listing(values: Iterable[str], most: int = 8, separator: str = "\n") -> str:
    """The first different values."""
    values = list(dict.fromkeys(values))
    more = [f"and {len(values) - most} more"] if len(values) > most else []
    return separator.join([*values[:most], *more])
