"""The options of a campaign, from the command line and from a TOML file."""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bench.campaigns.variants import Variant, parse_revision, parse_variant
from bench.harness.options import Parser, duration_s, whole_number
from collectives.communicator import launched_rank
from reports.compare import percent
from reports.manifest import CONTROL

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOOKS = (1, 2, 4)  # --grow judges after these multiples of --pairs
# The options that decide, with the variants, which launches a campaign makes.
PLAN_OPTIONS = ("budget", "pairs", "fresh", "margin", "seed", "grow", "no_control")
EPILOG = """\
example:
  python -m bench.campaign --budget 10m --revision old=HEAD~1 \\
    --variant old="mpirun -n 2 python -m bench.allreduce -e 1M" \\
    --variant new="mpirun -n 2 python -m bench.allreduce -e 1M"

exit status:
  0 done; 1 a variant cannot run, or a result was wrong; 2 bad command line;
  3 this machine cannot run it; 130 interrupted, the same command continues"""


@dataclass(frozen=True)
class CampaignOptions:
    """A campaign as the user describes it; the first variant is the baseline.

    `margin` is a fraction, 0.01 for 1 %. `fresh` is 0 with `grow`. `plan` is a hash of everything
    that decides which launches the campaign makes.
    """

    variants: list[Variant]
    budget_s: float | None
    pairs: int
    fresh: int
    margin: float
    seed: int
    folder: Path
    grow: bool
    pause: bool
    control: bool
    plan: str

    @property
    def most_pairs(self) -> int:
        """The largest number of pairs of all sizes."""
        return self.pairs * LOOKS[-1] if self.grow else self.pairs

    @property
    def by_name(self) -> dict[str, Variant]:
        """The variants by name; `control` is the baseline again."""
        by_name = {variant.name: variant for variant in self.variants}
        return by_name | ({CONTROL: self.variants[0]} if self.control else {})


def make_parser() -> Parser:
    """The parser of `python -m bench.campaign`."""
    parser = Parser(
        prog="bench.campaign", allow_abbrev=False, epilog=EPILOG,
        usage='python -m bench.campaign --variant NAME="COMMAND" ... [OPTION ...]',
        description="Launches commands in turn, pair by pair, and reports the cases in which they\n"
        "differ from the first. After an interruption the same command continues.",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=26))
    option, count = parser.add_argument, partial(whole_number, 1, most=1000)
    option("--variant", type=parse_variant, action="append", default=[], metavar="NAME=COMMAND",
           help="twice or more; environment variables go before the command")
    option("--revision", type=parse_revision, action="append", default=[], metavar="NAME=REV",
           help="run this variant with the code of git revision REV")
    option("--file", metavar="FILE.toml",
           help="read options from this file; the command line overrides them")
    option("--budget", type=duration_s, metavar="TIME",
           help="time for all launches: 90s, 10m, 2h (none: each launch takes its --max-time)")
    option("--pairs", type=count, default=10, metavar="N", help="pairs of all sizes (10)")
    option("--fresh", type=count, default=25, metavar="N",
           help="new pairs of the sizes in doubt; only these decide (25)")
    option("--margin", type=percent, default=0.01, metavar="PERCENT",
           help="ignore differences up to this (1)")
    option("--seed", type=partial(whole_number, 0), default=0, metavar="N",
           help="seed of the order and, plus its number, of each pair (0)")
    option("--out", metavar="FOLDER", help="folder of the campaign (results/campaign-...)")
    option("--grow", action="store_true",
           help="judge after 1x, 2x and 4x the pairs of all sizes; no fresh pairs")
    option("--pause", action="store_true",
           help="wait for Enter before another variant: drivers, settings, cables by hand")
    option("--no-control", action="store_true", help="do not launch the baseline against itself")
    return parser


def parse(argv: Sequence[str] | None = None) -> CampaignOptions:
    """The campaign's options. Bad options end the process with status 2 and one sentence."""
    parser, words = make_parser(), list(sys.argv[1:] if argv is None else argv)
    values = parser.parse_args(words)
    if launched_rank() is not None and "SLURM_PROCID" not in os.environ:  # every Slurm job sets it
        parser.error("a campaign starts mpirun itself: run it without mpirun")
    if values.file:
        values = parser.parse_args([*file_words(parser, Path(values.file)), *words])
    names, commits = [variant.name for variant in values.variant], dict(values.revision)
    for variant in values.variant:
        program = variant.command[0]
        if names.count(variant.name) > 1:
            parser.error(f"two variants are named {variant.name}")
        if not shutil.which(program, path=variant.environment(None)["PATH"]):
            parser.error(f"variant {variant.name}: {program} was not found")
    if len(names) < 2:
        parser.error("a campaign compares at least two variants: give --variant twice, or --file")
    for name in commits:
        if name not in names:
            parser.error(f"--revision: no variant is named {name}")
    if values.pause and not sys.stdin.isatty():
        parser.error("--pause waits for Enter, but standard input is not a terminal")
    variants = [replace(variant, commit=commits.get(variant.name)) for variant in values.variant]
    commands = [[each.name, each.command, each.variables, each.commit] for each in variants]
    content = json.dumps([commands, {name: getattr(values, name) for name in PLAN_OPTIONS}])
    plan = hashlib.sha256(content.encode()).hexdigest()[:16]
    return CampaignOptions(
        variants, values.budget, values.pairs, 0 if values.grow else values.fresh, values.margin,
        values.seed, Path(values.out or f"results/campaign-{plan[:8]}"), values.grow, values.pause,
        not values.no_control, plan)


class VariantTable(msgspec.Struct, forbid_unknown_fields=True):
    """A `[[variant]]` of a file."""

    name: Annotated[str, msgspec.Meta(pattern="^[^=]*$")]
    command: str
    revision: str | None = None
    environment: dict[str, str] = {}


def file_words(parser: Parser, path: Path) -> list[str]:
    """The settings of a file as words of a command line. The parser checks each setting alone, so
    that its complaint names the file and the setting."""
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        parser.error(f"{path} cannot be read: {error.strerror}")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:  # the error names the line
        parser.error(f"{path}: {error}")
    except RecursionError:
        parser.error(f"{path} is nested too deeply")
    program, words = parser.prog, []
    for key, values in table.items():
        for value in values if isinstance(values, list) else [values]:
            name = f"{key} {value.get('name')}" if isinstance(value, dict) else key
            parser.prog = f"{program}: {path}, {name}"
            if "\\x00" in repr(value):
                parser.error("a NUL character is not allowed")
            setting = setting_words(parser, key, value)
            parser.parse_args(setting)
            if value is not False:  # only a switch passes the parser with `false`, its default
                words += setting
    parser.prog = program
    return words


def setting_words(parser: Parser, key: str, value: Any) -> list[str]:
    """The options of the command line for one setting of a file."""
    if key in ("file", "help"):
        parser.error("this option cannot stand in a file")
    option = f"--{key.replace('_', '-')}"
    if key != "variant" or not isinstance(value, dict):
        return [option] if isinstance(value, bool) else [f"{option}={value}"]
    try:
        table = msgspec.convert(value, VariantTable)
    except msgspec.ValidationError as error:
        parser.error(str(error))
    variables = shlex.join(f"{name}={text}" for name, text in table.environment.items())
    revision = [f"--revision={table.name}={table.revision}"] if table.revision else []
    return [f"--variant={table.name}={variables} {table.command}", *revision]
