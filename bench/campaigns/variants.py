"""What a campaign runs: its command line, or the file that says the same, as commands that can be launched.

A variant is a command, the variables that stand before it, and perhaps a revision of the code, which then lies in a
git worktree of its own. The command is split into words and started as it is, never by a shell.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bench.harness.options import Parser, whole
from bench.machine.environment import VARIABLES, scrub_argv, scrub_value
from collectives.communicator import launched_rank
from reports import manifest
from reports.compare import percent

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

THE_CAMPAIGNS = ("--out", "--output_file", "-J", "--list")
NOT_NAMES = (manifest.CONTROL, manifest.MANIFEST, manifest.WORKTREES)
# A `[[variant]]` of a file.
VARIANT_TABLE = msgspec.defstruct("VariantTable", [
    ("name", Annotated[str, msgspec.Meta(pattern="^[^=]*$")]), ("command", str), ("revision", str | None, None),
    ("environment", dict[str, str], {}),
], forbid_unknown_fields=True)


@dataclass
class Variant:
    """A command by its name. Its `commit` is checked out `at` a worktree; both are None for the code that is here."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    at: Path | None = None

    def variables(self) -> dict[str, str]:
        """What its launches find in their environment: the interpreter that runs this, or the worktree's own, first."""
        found = dict(os.environ)
        programs = Path(sys.executable).parent
        if self.at:
            found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(self.at), found.get("PYTHONPATH")]))
            own = self.at / ".venv" / "bin"
            programs = own if own.is_dir() else programs
        return found | {"PATH": f"{programs}{os.pathsep}{found.get('PATH', os.defpath)}"} | self.environment

    def recorded(self) -> manifest.Variant:
        """As the manifest may hold it. A launcher's values name hosts, or hand on what they should not, so that of what
        stands before the benchmark only options and counts are kept."""
        at = bench_at(self.command)
        kept = re.compile(r"mpi(run|exec)|python[\d.]*|--?[a-z][a-z-]*|\d{1,4}")
        launcher = [word if kept.fullmatch(word) else "<set>" for word in self.command[:at]]
        known = {name: scrub_value(value) for name, value in self.environment.items() if name in VARIABLES}
        argv = [*launcher, *scrub_argv(self.command[at:])]
        return manifest.Variant(name=self.name, argv=argv, revision=self.commit, environment=known)


def bench_at(words: Sequence[str]) -> int:
    """Where `-m bench.SOMETHING` stands. Raises StopIteration where it does not."""
    return next(i for i in range(len(words) - 1) if words[i] == "-m" and words[i + 1].startswith("bench."))


def named(text: str) -> tuple[str, str]:
    """`NAME=REST`."""
    name, _, rest = text.partition("=")
    if not rest.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, rest


def variant(text: str) -> Variant:
    """The variant of `NAME=[VARIABLE=VALUE ...] COMMAND`. Its name is also a folder's."""
    name, line = named(text)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,39}", name) or name in NOT_NAMES:
        raise argparse.ArgumentTypeError(f"{name!r} cannot be a variant's name")
    try:
        words = shlex.split(line)
        first = next(i for i, word in enumerate(words) if not re.match(r"[A-Za-z_]\w*=", word))
        own = words[bench_at(words) + 1 :]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"variant {name}: {error}: {line}") from None
    except StopIteration:
        raise argparse.ArgumentTypeError(f"variant {name} does not run `-m bench.SOMETHING`: {line}") from None
    refused = next((word for word in own if word.split("=")[0] in THE_CAMPAIGNS or word.startswith("-J")), None)
    if refused or own[0] == "bench.campaign":
        raise argparse.ArgumentTypeError(f"variant {name}: {refused or own[0]} is not for a campaign's launches")
    return Variant(name, words[first:], dict(word.split("=", 1) for word in words[:first]))


def revision(text: str) -> tuple[str, str]:
    """Of `NAME=REV`, the name and the hash of the commit that REV names in the repository of the current folder."""
    name, rev = named(text)
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
    commit = found.stdout.strip().splitlines()[-1:]
    if found.returncode or not commit:
        reason = found.stderr.strip() or "no such revision"
        raise argparse.ArgumentTypeError(f"{rev}: {reason.splitlines()[-1]}")
    return name, commit[0]


def git(*words: str) -> "subprocess.CompletedProcess[str]":
    """`git WORDS` in the current folder."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"git cannot be run: {error.strerror}") from None


def duration(text: str) -> float:
    """Seconds of `90s`, `10m` or `2h`."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smh])", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def parser() -> Parser:
    """The parser of `python -m bench.campaign`."""
    p = Parser(
        prog="bench.campaign", usage='python -m bench.campaign --variant NAME="COMMAND" ... [OPTION ...]',
        description="Launches commands in turn, pair by pair, and says in which cases they differ\n"
        "from the first. The same command again goes on after an interruption.", allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26),
        epilog="example:\n  python -m bench.campaign --budget 10m --revision old=HEAD~1 \\\n"
        '    --variant old="mpirun -n 2 python -m bench.allreduce -e 1M" \\\n'
        '    --variant new="mpirun -n 2 python -m bench.allreduce -e 1M"\n\n'
        "exit status:\n  0 done; 1 a variant cannot be run, or a result was wrong; 2 the command line;\n"
        "  3 this machine cannot run that; 130 interrupted, the same command goes on")
    option, count = p.add_argument, partial(whole, 1, most=1000)
    option("--variant", type=variant, action="append", default=[], metavar="NAME=COMMAND",
           help="twice or more; environment variables stand before the command")
    option("--revision", type=revision, action="append", default=[], metavar="NAME=REV",
           help="run that variant's code as of a git REV")
    option("--file", metavar="FILE.toml", help="a file that says the same; options here go before it")
    option("--budget", type=duration, metavar="TIME",
           help="for all launches: 90s, 10m, 2h (none: each takes its --max-time)")
    option("--pairs", type=count, default=10, metavar="N", help="pairs of everything (10)")
    option("--fresh", type=count, default=25, metavar="N", help="new pairs of the sizes in doubt, which decide (25)")
    option("--margin", type=percent, default=0.01, metavar="PERCENT", help="a difference up to this is none (1)")
    option("--seed", type=partial(whole, 0), default=0, metavar="N",
           help="of the order and, plus its number, of each pair (0)")
    option("--out", metavar="FOLDER", help="folder that keeps the campaign (results/campaign-...)")
    option("--grow", action="store_true", help="look at 1x, 2x and 4x the pairs, of everything, without fresh ones")
    option("--pause", action="store_true",
           help="wait for Enter before another variant: drivers, settings, cables by hand")
    option("--no-control", action="store_true", help="leave out the baseline's launches against itself")
    return p


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with `plan`, a hash of all that decides what is launched; or the end of the process with status 2
    and one sentence."""
    p = parser()
    options = p.parse_args(argv)
    if launched_rank() is not None and "SLURM_PROCID" not in os.environ:  # which every job of Slurm has
        p.error("a campaign starts mpirun itself: give it without")
    if options.file:
        options = p.parse_args(argv, from_file(p, Path(options.file)))
    variants: dict[str, Variant] = {}
    for one in options.variant:
        if variants.setdefault(one.name, one) is not one:
            p.error(f"two variants are named {one.name}")
        if not shutil.which(one.command[0], path=one.variables()["PATH"]):
            p.error(f"variant {one.name}: {one.command[0]} was not found")
    if len(variants) < 2:
        p.error("a campaign compares at least two variants: give --variant twice, or --file")
    for name, commit in options.revision:
        if name not in variants:
            p.error(f"--revision: no variant is named {name}")
        variants[name].commit = commit
    if options.pause and not sys.stdin.isatty():
        p.error("--pause waits for Enter, and standard input is no terminal")
    undecisive = ("variant", "revision", "file", "out", "pause")
    decisive = {name: value for name, value in vars(options).items() if name not in undecisive}
    commands = [[one.name, one.command, one.environment, one.commit] for one in variants.values()]
    options.plan = hashlib.sha256(json.dumps([commands, decisive]).encode()).hexdigest()[:16]
    return options


def from_file(p: Parser, path: Path) -> argparse.Namespace:
    """What the file sets. Each key and each variant becomes words of the command line for the same parser; what is
    wrong with them ends the process as there, with the file and, where that is found, the line."""
    try:
        text = path.read_text()
        table = tomllib.loads(text)
    except OSError as error:
        p.error(f"{path} cannot be read: {error.strerror}")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:  # which say where
        p.error(f"{path}: {error}")
    except RecursionError:
        p.error(f"{path} is nested too deeply")
    found, program = argparse.Namespace(), p.prog
    for key, values in table.items():
        for value in values if isinstance(values, list) else [values]:
            is_table = key == "variant" and isinstance(value, dict)
            sought = f"""name *= *["']{re.escape(str(value.get("name")))}["']""" if is_table else f"{re.escape(key)} *="
            place = re.search(f"^[ \t]*{sought}", text, re.MULTILINE)
            line = text.count("\n", 0, place.start()) + 1 if place else None
            p.prog = f"{program}: {path}, line {line}" if line else f"{program}: {path}"
            if key in ("file", "help"):
                p.error(f"{key} is no setting of a file")
            if "\0" in str(value) or "\\x00" in str(value):
                p.error(f"{key} has a NUL in it")
            option = f"--{key.replace('_', '-')}"
            words = [option if isinstance(value, bool) else f"{option}={value}"]
            if is_table:
                try:
                    one: Any = msgspec.convert(value, VARIANT_TABLE)
                except msgspec.ValidationError as error:
                    p.error(str(error))
                variables = shlex.join(f"{variable}={text}" for variable, text in one.environment.items())
                words = [f"{option}={one.name}={variables} {one.command}"]
                words += [f"--revision={one.name}={one.revision}"] if one.revision else []
            # `false` is read too, though it sets nothing: only a switch can be off.
            p.parse_args(words, argparse.Namespace() if value is False else found)
    p.prog = program
    return found
