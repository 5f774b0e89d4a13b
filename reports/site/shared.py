"""What all pages share: the content of the folder, and the words for its runs."""

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from reports.store.folder import COPY, Contents, read_store
from reports.store.observations import Entry
from reports.store.schema import Run
from reports.tables.command import command_of
from reports.tables.sentences import counted, some
from reports.trends.history import History


@dataclass
class Store:
    """The content of a folder: runs (oldest first, without those of campaigns), folders of
    campaigns, specs of procurements, sentences about files that are left out, and the history of
    all runs, if there is one."""

    contents: Contents
    runs: list[Entry] = field(default_factory=list)
    campaigns: list[Path] = field(default_factory=list)
    specs: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    history: History | None = None

    @cached_property
    def groups(self) -> dict[tuple[str, str], list[Entry]]:
        """The runs by machine and benchmark; the group with the newest run is the last."""
        groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.runs:
            groups[entry.run.machine_id, entry.run.benchmark].append(entry)

        order = {entry.path: place for place, entry in enumerate(self.runs)}
        return dict(sorted(groups.items(), key=lambda item: order[item[1][-1].path]))

    @cached_property
    def machines(self) -> dict[str, str]:
        """Each machine's model and id: `AMD EPYC (1a2b3c4d)`. Raises ResultError."""
        newest = {entry.run.machine_id: entry for entry in self.runs}
        return {name: f"{_model(entry)} ({name})" for name, entry in newest.items()}


def find(folder: Path) -> Store:
    """The runs below `folder`. Raises ResultError if `folder` is not a folder."""
    contents = read_store(folder)
    store = Store(
        contents,
        campaigns=[path.parent for path in contents.manifests],
        specs=sorted(path for path in folder.glob("*.toml") if not path.is_symlink()),
    )
    store.left_out += [f"{path} is {problem}" for path, problem in contents.problems]
    store.left_out += [str(error) for _, error in contents.refused]

    for entry in contents.entries:
        if store.campaigns and not set(entry.path.parents).isdisjoint(store.campaigns):
            continue
        if entry.left_out == COPY:
            store.left_out.append(f"{entry.path} is the run {entry.run.run_id} once more")
        else:
            store.runs.append(entry)

    return store


def _model(entry: Entry) -> str:
    gpus = dict.fromkeys(rank.get("gpu") for rank in entry.run.world.get("ranks", []))
    cpu = entry.run.environment.get("cpu.model")
    return some([*filter(None, gpus)]) or fact_text(cpu or "unknown hardware")


def file_name(kind: str, name: str) -> str:
    """The file of a page about a thing with any `name`."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "-", Path(name).name)[:60].strip("-")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{kind}-{plain}-{digest}.html"


def history_file(machine: str, benchmark: str) -> str:
    """The file of the history of a machine and benchmark."""
    return file_name("history", f"{benchmark} {machine}")


def status_text(run: Entry) -> str:
    """`complete`, `incomplete`, or `WRONG: 2 cases`."""
    wrong = run.statuses.count("wrong")
    status = "complete" if run.complete else "incomplete"
    return f"WRONG: {counted(wrong, 'case')}" if wrong else status


def how_to_reproduce(run: Run) -> dict[str, str]:
    """The command, version, machine and software of a run, for the footer of its page."""
    names = "version", "run_id", "machine_id", "software_id"
    return {"command": command_of(run)} | {name: getattr(run, name) for name in names}


def fact_text(fact: Any) -> str:
    """The value of a fact of the environment, at most 500 characters."""
    value = fact.get("value") if isinstance(fact, dict) else fact
    return "-" if value is None else str(value)[:500]
