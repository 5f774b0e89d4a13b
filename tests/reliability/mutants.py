"""Puts one error at a time into a copy of the project, and shows which test notices it.

    python -m tests.reliability.mutants [NAME ...]

Each mutant of `mutants.toml` replaces one text in one file. The program copies the project to a
temporary folder, applies the mutant there, and runs the mutant's tests. It prints a line for each
mutant, `killed by TEST` or `SURVIVES`; a mutant that hangs counts as killed. Before the mutants,
all their tests must pass in a copy without a mutant.

Exit status: 0 if every mutant is killed, 1 if one survives, 2 if a name is unknown, if the file of
a mutant does not have its text exactly once, or if tests fail without a mutant or cannot run.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tests.launch import ROOT


class Mutant(msgspec.Struct):
    """Replaces `old` by `new` in the file `path`; `tests` notice it, the fastest first."""

    path: str
    old: str
    new: str
    tests: list[str]


TABLE = msgspec.toml.decode(Path(__file__).with_suffix(".toml").read_bytes())
MUTANTS = {
    name: Mutant(**mutant, tests=group["by"])
    for group in TABLE["noticed"]
    for name, mutant in group["mutants"].items()
}
LIMIT_S = 300  # for the tests of a mutant; on a slow machine twice the time of the clean run
CLEAN_LIMIT_S = 1800  # for all tests of all mutants
OPTIONS = "-x -q -rfEs --tb=short -p no:cacheprovider"
PASSED, FAILED, LATE = 0, 1, -1  # exit statuses of pytest; others mean that it ran no tests


def copy_project(folder: Path) -> None:
    """Copies all files that git knows or would add, and links the virtual environments."""
    listed = "git ls-files --cached --others --exclude-standard -z"
    copied = f"{listed} | xargs -0 cp --parents -t '{folder}' 2>/dev/null"  # but deleted files
    subprocess.run(copied, cwd=ROOT, shell=True)
    for venv in ROOT.glob(".venv*"):
        if not (folder / venv.name).exists():
            (folder / venv.name).symlink_to(venv.resolve())


def run_tests(
    tests: Iterable[str], limit_s: float, mutant: Mutant | None = None
) -> tuple[int, str]:
    """Runs tests in a copy of the project, with a mutant if one is given, until the first failure.
    Returns the exit status of pytest (LATE after the time limit) and its output."""
    command = [sys.executable, "-m", "pytest", *OPTIONS.split(), *dict.fromkeys(tests)]
    with (
        tempfile.TemporaryDirectory(prefix="wiretax-mutants-") as folder,
        tempfile.TemporaryFile("w+", errors="replace") as output,
    ):
        copy_project(Path(folder))
        if mutant:
            path = Path(folder) / mutant.path
            path.write_text(path.read_text().replace(mutant.old, mutant.new))
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": folder},
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = LATE
        output.seek(0)
        return status, output.read()


def misfit(name: str) -> str | None:
    """Why a mutant cannot be applied; None if its file has its text exactly once."""
    mutant = MUTANTS[name]
    try:
        times = (ROOT / mutant.path).read_text().count(mutant.old)
    except OSError as error:
        return f"the mutant {name} does not fit: {error}"
    if times != 1:
        return f"the mutant {name} does not fit: {mutant.path} has {mutant.old!r} {times} times"
    return None


def verdict(status: int, output: str) -> str:
    if status == LATE:
        return "killed by the time limit"
    if status == PASSED:
        return f"SURVIVES: {summary(output)}"
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    if status == FAILED and failed:
        return f"killed by {failed[1]}"
    return f"NOT TESTED: pytest ends with status {status}\n{output}"


def summary(output: str) -> str:
    """The last line of pytest's output, such as `3 passed in 1.20s`."""
    return output.strip().rpartition("\n")[2].strip("= ")


def main(names: Sequence[str]) -> int:
    if misfits := list(filter(None, map(misfit, names))):
        print("\n".join(misfits), file=sys.stderr)
        return 2
    tests = [test for name in names for test in MUTANTS[name].tests]
    begun_s = time.monotonic()
    status, output = run_tests(tests, CLEAN_LIMIT_S)
    if status != PASSED:
        print(f"The tests do not pass without a mutant:\n{output}", file=sys.stderr)
        return 2
    print(f"without a mutant: {summary(output)}", flush=True)
    limit_s, verdicts = max(LIMIT_S, 2 * (time.monotonic() - begun_s)), []
    for name in names:
        verdicts.append(verdict(*run_tests(MUTANTS[name].tests, limit_s, MUTANTS[name])))
        print(f"{name}: {verdicts[-1]}", flush=True)
    killed = sum(text.startswith("killed") for text in verdicts)
    print(f"{killed} of {len(names)} mutants killed")
    if any(text.startswith("NOT TESTED") for text in verdicts):
        return 2
    return 0 if killed == len(names) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Shows which test notices each small error.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *MUTANTS], default=[])
    sys.exit(main(parser.parse_args().names or list(MUTANTS)))
