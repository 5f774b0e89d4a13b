"""The options of a campaign and its variants."""

import argparse
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from bench.harness.console import USAGE
from bench.harness.options import RunOptions
from bench.harness.parser import Parser, changes_nothing, duration_s, fill, whole
from bench.harness.progress import QUIET
from bench.machine.environment import VARIABLES, scrub_argv, scrub_value
from reports.verdicts.verdict import MIN_PAIRS, MOST_PAIRS
from wiretax import __version__
from wiretax.common.arguments import percent, percentile
from wiretax.common.launched import RANK_VARIABLES, TORCHRUN_VARIABLES, in_slurm_step
from wiretax.common.program import BENCH, RUN, on_ranks
from wiretax.record import manifest

PAIRS = 27  # 24 equal cells with a spread of 2 % then pass a gate of 3 % in 97 % of campaigns
MORE_PILOTS = 2  # of the first variant: three launches of one variant have a spread
LEAST_LAUNCH_S = 4.0
# These store no run, or not in the campaign's folder.
RESERVED_WORD = re.compile(r"(bench\.)?(campaign|soak|survey)|--(out|list|soak)(=.*)?")
HARMLESS_WORD = re.compile(
    r"wiretax|mpi(run|exec)|python[\d.]*|\w+_perf|osu_\w+|IMB-\w+|\w+\.(py|sh)|"
    r"--?[A-Za-z][a-z-]*|\d{1,4}|\d+([.:]\d+)?[KMG]?B?|\{[a-z]+(:[\d.:,KMGB]*)?\}"
)
# In another harness's command; {out} and {seed} come from the campaign, the others from --set, or
# else from the command itself. A shell's ${name} is none.
PLACEHOLDER = re.compile(r"(?<!\$)\{([a-z]+)(?::([^{}]*))?\}")
OF_CAMPAIGN, OF_SIZES = ("out", "seed"), ("min", "max", "sizes")
PLACEHOLDERS = [f"{{{name}}}" for name in OF_CAMPAIGN] + [f"{{{name}:X}}" for name in OF_SIZES]
EPILOG = f"""\
example:
  {RUN}{BENCH}campaign --budget 10m --revision old=HEAD~1 \\
    --variant old="{on_ranks(2, "allreduce")} -e 1M" \\
    --variant new="{on_ranks(2, "allreduce")} -e 1M"
  {RUN}{BENCH}campaign --pairs 10 \\
    --variant old="old/all_reduce_perf -b {{min:16K}} -e {{max:8M}} -f 2 -J {{out}}" \\
    --variant new="new/all_reduce_perf -b {{min:16K}} -e {{max:8M}} -f 2 -J {{out}}"

exit status:
  0 done; 1 a variant cannot run, or a result was wrong; 2 bad command line;
  3 this machine cannot run it; 130 interrupted"""


class Stop(Exception):
    """The command ends with an exit status and one sentence. `is_of_variant`: a variant's launch or
    its revision is why."""

    def __init__(self, exit_status: int, sentence: str, is_of_variant: bool = False) -> None:
        super().__init__(sentence)
        self.exit_status, self.is_of_variant = exit_status, is_of_variant


class LaunchingParser(Parser):
    """Raises Stop for a mistake. Ends the process below a launcher, unless it asks for help."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        if not {"-h", "--help"}.intersection(words):
            refuse_launcher(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str, status: int = USAGE) -> NoReturn:
        raise Stop(status, message)


class Source(NamedTuple):
    """Where the code of a variant comes from, as git, a pipeline or the user names it."""

    commit: str = ""
    branch: str = ""


@dataclass(frozen=True)
class Variant:
    """A command under a name: `launcher` ends with `-m bench.SOMETHING` or `wiretax SOMETHING`,
    whose options `arguments` are; it is empty if the command is another harness's. `commit` is its
    revision; None: the code of this tree."""

    name: str
    launcher: list[str]
    arguments: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    source: Source = field(default_factory=Source)

    @property
    def is_foreign(self) -> bool:
        """Whether it is another harness's command."""
        return not self.launcher

    def environment(self, folder: Path | None) -> dict[str, str]:
        """With this interpreter's programs in PATH, behind the programs of a revision's folder. A
        launch shows no progress: the campaign reads its last line. That of another harness is the
        user's own."""
        environment = dict(os.environ)
        if self.is_foreign:
            return environment | self.variables
        programs = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        if folder:
            programs.insert(0, str(folder / ".venv" / "bin"))
            modules = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
            # A rank that is ending could make the removed folder again for its bytecode.
            environment |= {"PYTHONPATH": modules, "PYTHONDONTWRITEBYTECODE": "1"}
        return environment | {"PATH": os.pathsep.join(programs), QUIET: "1"} | self.variables

    def missing_program(self) -> str:
        """The program that the command starts, if there is none of this name; or else ""."""
        program = [*self.launcher, *self.arguments][0]
        return "" if shutil.which(program, path=self.environment(None)["PATH"]) else program

    def recorded(self) -> manifest.VariantRecord:
        """The variant for the manifest. Before the benchmark's own words only options and counts
        stay: a launcher's other values can hold host names or secrets."""
        words, ours = self.launcher[:-1], [*self.launcher[-1:], *self.arguments]
        if self.is_foreign:
            words, ours = ours, words
        names = [Path(word).name for word in words]
        argv = [name if HARMLESS_WORD.fullmatch(name) else "<set>" for name in names]
        argv += scrub_argv(ours)
        values = {
            name: scrub_value(value) for name, value in self.variables.items() if name in VARIABLES
        }
        return manifest.VariantRecord(
            name=self.name,
            argv=argv,
            revision=self.commit,
            environment=values,
            commit=self.source.commit,
            branch=self.source.branch,
        )


def split_name(text: str) -> tuple[str, str]:
    """The parts of `NAME=VALUE`."""
    name, _, value = text.partition("=")
    if not value.strip():
        raise ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def parse_variant(text: str) -> Variant:
    """The variant of `NAME=[VARIABLE=VALUE ...] COMMAND`. Its name also names a folder."""
    name, line = split_name(text)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,39}", name) or name == manifest.MANIFEST:
        raise ArgumentTypeError(f"{name!r} cannot be a variant's name")
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)  # a word for each operator
        lexer.whitespace_split, lexer.commenters = True, ""
        words = list(lexer)
    except ValueError as error:
        raise ArgumentTypeError(f"variant {name}: {error}: {line}") from None
    if operator := next(filter(re.compile("[();<>|&]+").fullmatch, words), None):
        raise ArgumentTypeError(
            f"variant {name}: no shell runs it, so {operator} would be an argument: put it into "
            "a script, or sh -c '...'"
        )
    variables = list(takewhile(re.compile(r"[A-Za-z_]\w*=").match, words))
    command = words[len(variables) :]
    if not command:
        raise ArgumentTypeError(f"variant {name} has no command: {line}")
    ends = (
        end
        for end, (word, module) in enumerate(pairwise(command), 2)
        if (word == "-m" and module.startswith("bench.")) or Path(word).name == "wiretax"
    )
    end = next(ends, 0)
    launcher, arguments = command[:end], command[end:]
    if not launcher:
        for found in PLACEHOLDER.finditer(" ".join(command)):
            if found[1] not in (OF_CAMPAIGN if found[2] is None else OF_SIZES):
                known = " ".join(PLACEHOLDERS)
                raise ArgumentTypeError(
                    f"variant {name}: {found[0]} is no placeholder; known are {known}"
                )
    elif reserved := next(filter(RESERVED_WORD.fullmatch, [launcher[-1], *arguments]), None):
        raise ArgumentTypeError(f"variant {name}: a campaign cannot launch {reserved}")
    return Variant(name, launcher, arguments, dict(word.split("=", 1) for word in variables))


def parse_setting(text: str) -> tuple[str, str]:
    """The name and the value of `NAME=X`, for the placeholder {NAME:...}."""
    name, value = split_name(text)
    if name not in OF_SIZES:
        raise ArgumentTypeError(f"{name!r} is none of {', '.join(OF_SIZES)}")
    return name, value


def parse_revision(text: str) -> tuple[str, str]:
    """The name and the commit's hash of `NAME=REV`, in the repository of the current folder. Raises
    OSError without git."""
    name, revision = split_name(text)
    words = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    answer = subprocess.run(["git", *words], capture_output=True, text=True)
    if answer.returncode:
        reason = answer.stderr or "no such revision"
        raise ArgumentTypeError(f"{revision}: {reason.splitlines()[0]}")
    return name, answer.stdout.strip()


@dataclass(frozen=True)
class CampaignOptions:
    """A campaign as the user describes it, with as many pairs as the budget allows. `variants` by
    name begin with the baseline; `revisions` are commits by the name of a variant, `settings`
    values of placeholders. `launch_s` is the part of the budget for a launch, None if no variant
    can be told it."""

    variants: dict[str, Variant] = changes_nothing(
        ["--variant"],
        type=parse_variant,
        action="append",
        metavar="NAME=COMMAND",
        help="twice or more; environment variables go before the command",
    )
    revisions: dict[str, str] = changes_nothing(
        ["--revision"],
        type=parse_revision,
        action="append",
        metavar="NAME=REV",
        help="run this variant with the code of git revision REV",
    )
    budget_s: float | None = changes_nothing(
        ["--budget"],
        type=duration_s,
        metavar="TIME",
        help="time for all launches: 90s, 10m, 2h (none: each launch takes its --max-time)",
    )
    settings: dict[str, str] = changes_nothing(
        ["--set"],
        type=parse_setting,
        action="append",
        metavar="NAME=X",
        help="X in place of the value of {min:...}, {max:...} or {sizes:...} in a command",
    )
    ranks: int | None = changes_nothing(
        ["--ranks"],
        **whole(1, most=10**6),
        help="the number of ranks, where another harness does not print it",
    )
    keeps_output: bool = changes_nothing(
        ["--keep-output"],
        default=False,
        help="keep what another harness printed, beside the run of each launch",
    )
    is_wall: bool = changes_nothing(
        ["--wall"],
        default=False,
        help="the wall time of whole processes, which need print nothing: in each launch one to "
        "warm up, then 3 to 10",
    )
    prepare: str = changes_nothing(
        ["--prepare"],
        default="",
        metavar="LINE",
        help="with --wall: a line for sh before each process, which is not timed",
    )
    pairs: int = changes_nothing(
        ["--pairs"],
        **whole(1, most=MOST_PAIRS),
        default=PAIRS,
        help="launches of each variant, in turn (%(default)s)",
    )
    margin: float = changes_nothing(
        ["--margin"],
        type=percent,
        default="1",
        metavar="PERCENT",
        help="ignore differences up to this (%(default)s)",
    )
    quantile: float | None = changes_nothing(
        ["--quantile"],
        type=percentile,
        metavar="Q",
        help="judge this percentile of each launch's own steps, such as 99 (its median cost)",
    )
    seed: int = changes_nothing(
        ["--seed"],
        **whole(0),
        default=0,
        help="seed of the order; that of a pair is this plus its number (%(default)s)",
    )
    folder: Path = changes_nothing(
        ["--out"],
        metavar="FOLDER",
        help="a new folder (results/campaign-TIME)",
    )
    quiet: bool = False
    started: str = ""
    launch_s: float | None = None

    @cached_property
    def head(self) -> manifest.Campaign:
        """The first line of the manifest."""
        return manifest.Campaign(
            campaign_id=f"{self.started}-campaign-{secrets.token_hex(4)}",
            version=__version__,
            seed=self.seed,
            pairs=self.pairs,
            margin=self.margin,
            quantile=self.quantile,
            wall=self.is_wall,
            variants=[each.recorded() for each in self.variants.values()],
        )


def time_text(seconds: float) -> str:
    """A duration such as `80 s` or `12 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def refuse_launcher(parser: Parser) -> None:
    """Ends the process with status 2 if each rank of a launcher would start mpirun. In a step of
    Slurm each task may: srun starts one on each node to accept, and one is an interactive shell,
    whose other variables are srun's too."""
    torchrun = [name for name in TORCHRUN_VARIABLES if os.environ.get(name)]
    others = [] if in_slurm_step() else [*RANK_VARIABLES]
    names = torchrun or [name for name in others if os.environ.get(name) and "SLURM" not in name]
    if not names:
        return
    launcher = "torchrun" if torchrun else "mpirun"
    sentence = f"it starts mpirun itself: run it without {launcher}, or unset {' '.join(names)}"
    Parser.error(parser, sentence)


def launching_parser(command: str, usage: str, about: str | None, epilog: str) -> LaunchingParser:
    """The parser of a command that starts mpirun itself."""
    return LaunchingParser(
        prog=f"{BENCH}{command}",
        epilog=epilog,
        usage=f"{RUN}{BENCH}{command} {usage}",
        description=about,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=26),
    )


def make_parser() -> Parser:
    """The parser of `python -m bench.campaign`."""
    parser = launching_parser(
        "campaign",
        '--variant NAME="COMMAND" ... [OPTION ...]',
        "Launches commands in turn, pair by pair, and reports the cases in which they\n"
        "differ from the first.",
        EPILOG,
    )
    parser.add(CampaignOptions)
    parser.add(RunOptions, "quiet")
    return parser


def parse(argv: Sequence[str] | None = None) -> CampaignOptions:
    """The campaign's options, with as many of the pairs as the budget allows. Raises Stop for bad
    ones, and if too few pairs for a verdict fit."""
    parser = make_parser()
    namespace = parser.parse_args(argv)
    commits, pairs, launch_s = namespace.revisions or [], namespace.pairs, None
    of_variant = dict(commits)
    variants = [
        replace(each, commit=of_variant.get(each.name)) for each in namespace.variants or []
    ]
    check_variants(parser, variants, commits)
    ours = [variant.name for variant in variants if not variant.is_foreign]
    if namespace.is_wall and ours:
        parser.error(f"--wall: variant {ours[0]} is a benchmark of Wiretax, which times itself")
    if namespace.prepare and not namespace.is_wall:
        parser.error("--prepare: it needs --wall")
    started = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    budget_s = namespace.budget_s
    if budget_s and not all(variant.is_foreign for variant in variants):
        least, sides = min(pairs, MIN_PAIRS), len(variants)
        pairs = min(pairs, int((budget_s / LEAST_LAUNCH_S - MORE_PILOTS) / sides) - 1)
        launches = sides * (1 + max(pairs, least)) + MORE_PILOTS
        if pairs < least:
            parser.error(
                f"--budget: {launches} launches, of {least} pairs and the pilots, need at least "
                f"{time_text(LEAST_LAUNCH_S * launches)}"
            )
        launch_s = budget_s / launches
    return fill(
        CampaignOptions,
        namespace,
        variants={variant.name: variant for variant in variants},
        revisions=of_variant,
        settings=dict(namespace.settings or []),
        pairs=pairs,
        folder=Path(namespace.folder or f"results/campaign-{started}"),
        started=started,
        launch_s=launch_s,
    )


def check_variants(
    parser: Parser, variants: Sequence[Variant], commits: Sequence[tuple[str, str]]
) -> None:
    """Raises Stop unless the variants can be launched and compared."""
    names, revised = [variant.name for variant in variants], [name for name, _ in commits]
    if twice := [name for name in revised if revised.count(name) > 1]:
        parser.error(f"--revision: {twice[0]} is given twice, and a variant has one revision")
    for variant in variants:
        if names.count(variant.name) > 1:
            parser.error(f"two variants are named {variant.name}")
        if program := variant.missing_program():
            parser.error(f"variant {variant.name}: {program} was not found")
    if len(names) < 2:
        parser.error("a campaign compares at least two variants: give --variant twice")
    for name in revised:
        if name not in names:
            parser.error(f"--revision: no variant is named {name}")
        if variants[names.index(name)].is_foreign:
            parser.error(f"--revision: variant {name} runs no code of this repository's revisions")
