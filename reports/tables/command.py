"""The command lines that made runs, for the pages' footers and for measuring again."""

import re
import shlex
from collections import Counter
from pathlib import Path

from reports.store.schema import Run
from reports.tables.sentences import host_names


def command_of(run: Run) -> str:
    """The command that made the run; its file has each path as `<path>`."""
    if run.imported_from:
        words = run.argv or ["python", "-m", "reports", "import", run.imported_from]
        return shlex.join(words)

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


def command_again(run: Run, store: Path) -> str:
    """The command that measures the same again into a store."""
    command = re.sub(r" --out \S+", "", command_without_seed(run))
    return f"{command} --out {shlex.quote(str(store))}"
