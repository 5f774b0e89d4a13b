"""A variant of a campaign: a command, its environment variables, and a git revision if it has one.

A command is split into words as a shell does, and started without a shell.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.campaigns.processes import Stop, run_to_end
from bench.harness.options import USAGE, WRONG
from bench.machine.environment import VARIABLES, scrub_argv, scrub_value
from reports import manifest

ROOT = Path(__file__).parents[2]
RESERVED_NAMES = (manifest.CONTROL, manifest.MANIFEST, manifest.WORKTREES)
RESERVED_WORD = re.compile(r"bench\.campaign|-J.*|--(out|output_file|list)(=.*)?")
HARMLESS_WORD = re.compile(r"mpi(run|exec)|python[\d.]*|--?[a-z][a-z-]*|\d{1,4}")


@dataclass(frozen=True)
class Variant:
    """A command under a name. `commit` is its revision; None: the code of this tree."""

    name: str
    command: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    commit: str | None = None

    def environment(self, worktree: Path | None) -> dict[str, str]:
        """The environment of a launch. PATH starts with the programs of this interpreter, or of the
        worktree's virtual environment if it has one."""
        environment = dict(os.environ)
        programs = Path(sys.executable).parent
        if worktree:
            python_path = [str(worktree), environment.get("PYTHONPATH")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, python_path))
            own_programs = worktree / ".venv" / "bin"
            programs = own_programs if own_programs.is_dir() else programs
        environment["PATH"] = f"{programs}{os.pathsep}{environment.get('PATH', os.defpath)}"
        return environment | self.variables

    def recorded(self) -> manifest.Variant:
        """The variant for the manifest. Before the benchmark's own words only options and counts
        stay: a launcher's other values can hold host names or secrets."""
        start = benchmark_start(self.command)
        launcher = self.command[:start]
        argv = [word if HARMLESS_WORD.fullmatch(word) else "<set>" for word in launcher]
        argv += scrub_argv(self.command[start:])
        public = [name for name in self.variables if name in VARIABLES]
        variables = {name: scrub_value(self.variables[name]) for name in public}
        return manifest.Variant(
            name=self.name, argv=argv, revision=self.commit, environment=variables)


def benchmark_start(words: Sequence[str]) -> int:
    """The index of `-m` in `-m bench.SOMETHING`. Raises StopIteration for other commands."""
    pairs = enumerate(pairwise(words))
    return next(i for i, (word, module) in pairs if word == "-m" and module.startswith("bench."))


def split_name(text: str) -> tuple[str, str]:
    """The parts of `NAME=VALUE`."""
    name, _, value = text.partition("=")
    if not value.strip():
        raise ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def parse_variant(text: str) -> Variant:
    """The variant of `NAME=[VARIABLE=VALUE ...] COMMAND`. Its name also names a folder."""
    name, line = split_name(text)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,39}", name) or name in RESERVED_NAMES:
        raise ArgumentTypeError(f"{name!r} cannot be a variant's name")
    try:
        words = shlex.split(line)
        start = next(i for i, word in enumerate(words) if not re.match(r"[A-Za-z_]\w*=", word))
        benchmark = words[benchmark_start(words) + 1 :]
    except ValueError as error:
        raise ArgumentTypeError(f"variant {name}: {error}: {line}") from None
    except StopIteration:
        raise ArgumentTypeError(
            f"variant {name} does not run `-m bench.SOMETHING`: {line}") from None
    if reserved := next(filter(RESERVED_WORD.fullmatch, benchmark), None):
        raise ArgumentTypeError(f"variant {name}: a campaign cannot launch {reserved}")
    return Variant(name, words[start:], dict(word.split("=", 1) for word in words[:start]))


def parse_revision(text: str) -> tuple[str, str]:
    """The name and the commit's hash of `NAME=REV`, in the repository of the current folder."""
    name, revision = split_name(text)
    answer = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    commit = answer.stdout.strip().splitlines()[-1:]
    if answer.returncode or not commit:
        reason = answer.stderr.strip() or "no such revision"
        raise ArgumentTypeError(f"{revision}: {reason.splitlines()[-1]}")
    return name, commit[0]


def git(*words: str) -> "subprocess.CompletedProcess[str]":
    """The result of `git WORDS` in the current folder."""
    return subprocess.run(["git", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def check_out(variant: Variant, worktree: Path) -> None:
    """Checks the variant's commit out, with its own virtual environment if it needs other packages
    than this tree. Raises Stop."""
    remove_worktree(worktree)
    # git runs in a process group like a launch: if it outlived an interruption, it would write
    # into the worktree of the next campaign.
    add = ["git", "worktree", "add", "--quiet", "--force", "--detach", str(worktree)]
    run_or_stop([*add, str(variant.commit)], None, os.environ, f"variant {variant.name}")
    if not (worktree / "bench").is_dir():  # Python would import the bench of this tree
        raise Stop(USAGE, f"variant {variant.name}: its revision has no benchmarks")
    locks = [folder / "requirements.lock" for folder in (worktree, ROOT)]
    theirs, ours = (lock.read_bytes() if lock.is_file() else b"" for lock in locks)
    if theirs not in (b"", ours):
        run_or_stop(["make", "setup"], worktree, variant.environment(worktree),
                    f"variant {variant.name}: `make setup` of its revision failed")


def run_or_stop(command: Sequence[str], folder: Path | None, environment: Mapping[str, str],
                subject: str) -> None:
    """Runs a command to its end. Raises Stop with its last line if it fails."""
    status, last_line = run_to_end(command, folder, environment)
    if last_line is None:
        raise KeyboardInterrupt
    if status:
        raise Stop(WRONG, f"{subject}: {last_line}")


def remove_worktree(worktree: Path) -> None:
    """Removes a worktree if it exists, and the folder of all worktrees if it is empty then."""
    git("worktree", "unlock", str(worktree))  # an interrupted `worktree add` leaves it locked
    shutil.rmtree(worktree, ignore_errors=True)
    git("worktree", "prune")
    with suppress(OSError):
        worktree.parent.rmdir()
