"""The command lines that made runs, for the pages' footers and for measuring again."""

import re
import shlex
from pathlib import Path

from reports.store.schema import Run


def command_of(run: Run) -> str:
    """The command that made the run; its file has each path as `<path>`, and hosts are the user's
    to name."""
    if run.imported_from:
        words = run.argv or ["python", "-m", "reports", "import", run.imported_from]
        return shlex.join(words)

    program = f"mpirun -n {run.world['size']} python -m bench.{run.benchmark}"
    return " ".join([program, *map(shlex.quote, run.argv)])


def command_without_seed(run: Run) -> str:
    """The command without its seed, which the launches of one experiment share."""
    return re.sub(r" --seed \S+", "", command_of(run))


def command_again(run: Run, store: Path) -> str:
    """The command that measures the same again into a store."""
    command = re.sub(r" --out \S+", "", command_without_seed(run))
    return f"{command} --out {shlex.quote(str(store))}"
