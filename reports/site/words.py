"""The words for runs that several pages share."""

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from reports.store.order import time_of
from reports.store.schema import Result, Run

MOST_NAMES = 40  # run ids, campaigns or logs in the footer


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


def how_to_reproduce(runs: Sequence[Run]) -> dict[str, str]:
    """Each command, version, machine and software behind a page, for its footer."""
    return {"command": listing([command_of(run) for run in runs]),
            "version": listing([run.version for run in runs]),
            "run ids": listing([run.run_id for run in runs], MOST_NAMES, ", "),
            "machine_id": listing([run.machine_id for run in runs]),
            "software_id": listing([run.software_id for run in runs])}


def listing(values: Iterable[str], most: int = 8, separator: str = "\n") -> str:
    """The first different values."""
    values = list(dict.fromkeys(values))
    if len(values) > most:
        values = [*values[:most], f"and {len(values) - most} more"]
    return separator.join(values)
