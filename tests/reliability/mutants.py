"""Puts one error at a time into a copy of the project, and shows which test notices it.

    python -m tests.reliability.mutants [NAME ...]

Each mutant of `mutant_table` replaces one text in one file. The program copies the project to a
temporary folder, applies the mutant there, and runs the mutant's tests. It prints a line for each
mutant, `killed by TEST` or `SURVIVES`; a mutant that hangs counts as killed. Before the mutants,
all their tests must pass in a copy without a mutant.

Exit status: 0 if every mutant is killed, 1 if one survives, 2 if a name is unknown, if the file of
a mutant does not have its text exactly once, or if tests fail without a mutant or cannot run.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.broken_kernels import Patch, apply
from tests.launch import ROOT
from tests.reliability.mutant_table import MUTANTS

LIMIT_S = 300  # for the tests of a mutant; on a slow machine twice the time of the clean run
CLEAN_LIMIT_S = 1800  # for all tests of all mutants
PASSED, FAILED = 0, 1  # exit statuses of pytest; others mean that it ran no tests


@dataclass(frozen=True)
class Outcome:
    """The exit status of pytest (None after the time limit) and its output."""

    status: int | None
    output: str
    duration_s: float

    @property
    def killer(self) -> str:
        """The first test that failed."""
        names = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", self.output, re.MULTILINE)
        return names[0] if names else "an unknown test"

    @property
    def summary(self) -> str:
        """The last line of pytest's output, such as `3 passed in 1.20s`."""
        return self.output.strip().rpartition("\n")[2].strip("= ")


def copy_project(folder: Path) -> None:
    """Copies all files that git knows or would add, and links the virtual environments."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():  # not a file that was deleted
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for venv in ROOT.glob(".venv*"):
        if not (folder / venv.name).exists():
            (folder / venv.name).symlink_to(venv.resolve())


def run_tests(folder: Path, tests: Iterable[str], limit_s: float) -> Outcome:
    """Runs tests of the project in `folder`, until the first failure."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-rfEs",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        *dict.fromkeys(tests),
    ]
    start_s = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        output.seek(0)
        return Outcome(status, output.read(), time.monotonic() - start_s)


def run_clean(names: Sequence[str]) -> Outcome:
    """Runs the tests of these mutants in a copy without a mutant."""
    with tempfile.TemporaryDirectory(prefix="wiretax-mutants-") as folder:
        copy_project(Path(folder))
        tests = [test for name in names for test in MUTANTS[name].tests]
        return run_tests(Path(folder), tests, CLEAN_LIMIT_S)


def patch_of(name: str) -> Patch:
    mutant = MUTANTS[name]
    return Patch(mutant.path, mutant.old, mutant.new)


def misfit(name: str) -> str | None:
    """Why a mutant cannot be applied; None if its file has its text exactly once."""
    patch = patch_of(name)
    try:
        patch.applied((ROOT / patch.path).read_text())
    except (OSError, ValueError) as error:
        return f"the mutant {name} does not fit: {error}"
    return None


def run_mutant(name: str, limit_s: float) -> Outcome:
    """Runs a mutant's tests in a copy with the mutant."""
    with tempfile.TemporaryDirectory(prefix="wiretax-mutants-") as folder:
        copy_project(Path(folder))
        apply(Path(folder), [patch_of(name)])
        return run_tests(Path(folder), MUTANTS[name].tests, limit_s)


def verdict(outcome: Outcome) -> str:
    if outcome.status is None:
        return "killed by the time limit"
    if outcome.status == FAILED:
        return f"killed by {outcome.killer}"
    if outcome.status == PASSED:
        return f"SURVIVES: {outcome.summary}"
    return f"NOT TESTED: pytest ends with status {outcome.status}\n{outcome.output}"


def main(names: Sequence[str]) -> int:
    if unknown := [name for name in names if name not in MUTANTS]:
        print(
            f"no mutant is called {unknown[0]}; the mutants are {', '.join(MUTANTS)}",
            file=sys.stderr,
        )
        return 2
    names = names or list(MUTANTS)
    if misfits := list(filter(None, map(misfit, names))):
        print("\n".join(misfits), file=sys.stderr)
        return 2
    clean = run_clean(names)
    if clean.status != PASSED:
        print(f"The tests do not pass without a mutant:\n{clean.output}", file=sys.stderr)
        return 2
    print(f"without a mutant: {clean.summary}", flush=True)
    limit_s, verdicts = max(LIMIT_S, 2 * clean.duration_s), []
    for name in names:
        outcome = run_mutant(name, limit_s)
        verdicts.append(verdict(outcome))
        print(f"{name}: {verdicts[-1]} ({outcome.duration_s:.0f} s)", flush=True)
    killed = sum(text.startswith("killed") for text in verdicts)
    print(f"{killed} of {len(names)} mutants killed")
    if any(text.startswith("NOT TESTED") for text in verdicts):
        return 2
    return 0 if killed == len(names) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
