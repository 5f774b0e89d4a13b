"""The words that several pages share."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from reports.store.result import time_of
from reports.store.schema import Result, Run

MOST_LISTED = 8  # commands, versions or machines in the footer
MOST_NAMES = 40  # run ids, campaigns or logs in the footer
NO_HISTORY = "in no run that a history can use"
# The verdicts and reasons behind each word of the first page, which are also its colours.
VERDICTS = {"worse": ("SLOWER", "WORSE", "WRONG"),
            "better": ("FASTER", "BETTER"),
            "unknown": ("AMBIGUOUS", "UNREPLICATED", "TOO FEW RUNS", "TOO FEW BLOCKS",
                        "INCOMPLETE", NO_HISTORY.upper())}


def verdict_class(text: str) -> str:
    """The style of a cell that begins with a verdict, or nothing."""
    verdict = text.upper().partition(":")[0].rstrip("*")
    return next((word for word, verdicts in VERDICTS.items() if verdict in verdicts), "")


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
    if wrong:
        return f"WRONG: {wrong} case{'s' * (wrong > 1)}"
    return "complete" if result.complete else "incomplete"


def counts_text(counts: Counter[str]) -> str:
    return ", ".join(f"{word} {count}" for word, count in counts.items())


def command_of(run: Run) -> str:
    """The command that made the run; its file has each path as `<path>`."""
    words = ["mpirun", "-n", str(run.world["size"]), "python", "-m", f"bench.{run.benchmark}"]
    return " ".join([*words, *map(shlex.quote, run.argv)])


def command_without_seed(run: Run) -> str:
    """The command without its seed, which the launches of one experiment share."""
    return re.sub(r" --seed \S+", "", command_of(run))


def hide_folders(sentence: str, folders: Iterable[Path]) -> str:
    """Remove these folders, and the folders of other paths, from a sentence: readers of a page
    need not know the file system of its author."""
    for folder in folders:
        sentence = sentence.replace(f"{folder}/", "")
        if folder.name not in ("", str(folder)):
            sentence = sentence.replace(str(folder), folder.name)
    return re.sub(r"(?<![\w/:>.])(\.\.)?/([^\s/]+/)+", "<path>/", sentence)


def how_to_reproduce(runs: Sequence[Run]) -> dict[str, str]:
    """Each command, version, machine and software behind a page, for its footer."""
    return {"command": listing([command_of(run) for run in runs]),
            "version": listing([run.version for run in runs]),
            "run ids": listing([run.run_id for run in runs], MOST_NAMES, ", "),
            "machine_id": listing([run.machine_id for run in runs]),
            "software_id": listing([run.software_id for run in runs])}


def listing(values: Iterable[str], most: int = MOST_LISTED, separator: str = "\n") -> str:
    """The first different values."""
    values = list(dict.fromkeys(values))
    if len(values) > most:
        values = [*values[:most], f"and {len(values) - most} more"]
    return separator.join(values)
