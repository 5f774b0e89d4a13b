"""What all pages share: the content of the folder, and the words for its runs."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reports.site.tail_events import tail_events
from reports.tables.sentences import counted, left_out_lines
from reports.trends.history import KEY, History, history_of
from wiretax.common.grouped import grouped
from wiretax.common.untrusted import printable
from wiretax.record.folder import COPY, Contents, read_store
from wiretax.record.observations import Entry
from wiretax.record.result import FUTURE


@dataclass
class Store:
    """The content of a folder: runs (oldest first, without those of campaigns), sentences about
    files that are left out, and the history of all runs."""

    contents: Contents
    runs: list[Entry]
    left_out: list[str]
    history: History

    @cached_property
    def groups(self) -> dict[tuple[str, str], list[Entry]]:
        """The runs by machine and benchmark; the group with the newest run is the last."""
        newest_first = grouped(reversed(self.runs), lambda entry: KEY(entry.run))
        return {key: own[::-1] for key, own in reversed(newest_first.items())}


def find(folder: Path) -> Store:
    """The runs below `folder`. Raises ResultError if `folder` is not a folder."""
    contents = read_store(folder)
    campaigns = contents.campaigns
    entries = [run for run in contents.entries if {*run.path.parents}.isdisjoint(campaigns)]
    runs = [run for run in entries if run.left_out not in (COPY, FUTURE)]
    left_out = [
        *contents.complaints,
        *(
            f"{copy.path} is the run {copy.run.run_id} once more"
            for copy in entries
            if copy.left_out == COPY
        ),
        *left_out_lines((run.path, FUTURE) for run in entries if run.left_out == FUTURE),
    ]
    history = history_of(contents)
    history.tails = tail_events(contents, history)
    if (runs or campaigns) and not history.runs:
        left_out += history.skipped

    return Store(contents, runs, list(map(printable, left_out)), history)


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
    if run.wrong:
        return f"WRONG: {counted(len(run.wrong), 'case')}"

    return "complete" if run.complete else "incomplete"
