"""`python -m bench.tune_library` finds the best settings of an MPI library, as bench.tune of ours.

It launches a benchmark with the library alone: once in each documented setting, then in the best
one for each size and state of the link and in combinations of all good ones, until its time ends.
What counts is the median of at least two launches, over the default's in the same state. It
prints at most three, together the fastest, as variants for `bench.campaign --file`."""

import argparse
import json
import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import STARTED_S
from bench.campaigns.launches import Stop, failure_of, launch, run_command, say
from bench.campaigns.library_costs import (
    UNKNOWN,
    Launches,
    choose,
    combinations_of,
    costs_of,
    schedule,
    survivors,
)
from bench.campaigns.library_settings import DEFAULT, Setting, settings_for
from bench.campaigns.options import Variant, add_quiet, launching_parser, parse_alone, parse_variant
from bench.harness import options
from bench.harness.console import CANNOT, FINE, USAGE, WRONG, print_out
from bench.harness.progress import Progress
from reports.store.case import MIN_STATE_BLOCKS
from reports.store.result import read
from reports.store.schema import Result

if TYPE_CHECKING:
    import pandas as pd

LAUNCH_S, BLOCKS = 3.0, 7  # the least time of a launch, and blocks of each case that it should have
LIMIT_S = 20.0  # for the start and the end of a launch, beyond its --max-time
EPILOG = """\
example:
  python -m bench.tune_library --variant \\
    mpich="mpirun -n 2 python -m bench.allreduce --mode isolated" >mpich.toml

exit status:
  0 done; 1 the command cannot run, or its result was wrong; 2 bad command line;
  3 this machine cannot run it, or nothing was measured; 130 interrupted"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    parser = launching_parser(
        "tune_library",
        '--variant NAME="COMMAND" [OPTION ...]',
        "Finds the best settings of the MPI library that a command runs with.",
        EPILOG,
    )
    option = parser.add_argument
    seconds = partial(options.positive_number, "seconds", options.MOST_S)
    option(
        "--variant",
        type=parse_variant,
        required=True,
        metavar="NAME=COMMAND",
        help="the benchmark to launch; environment variables go before the command",
    )
    option(
        "--max-time",
        type=seconds,
        default=180.0,
        metavar="S",
        dest="max_time_s",
        help="seconds for the whole search (180)",
    )
    option(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="folder that receives the runs (results)",
    )
    option(
        "--seed",
        type=partial(options.whole_number, 0),
        default=0,
        metavar="N",
        help="seed of the order (0)",
    )
    add_quiet(option)
    return parse_alone(parser, argv, "the search")


def with_setting(variant: Variant, setting: Setting) -> Variant:
    """The variant's command in this setting."""
    options = [word for word in setting.split() if word.startswith("--")]
    words = [word.split("=", 1) for word in setting.split() if word not in options]
    return replace(
        variant,
        arguments=[*variant.arguments, *options],
        variables=variant.variables | dict(words),
    )


def launch_library(
    values: argparse.Namespace, setting: Setting, sizes: Sequence[int], launch_s: float
) -> Result:
    """Launches the library in a setting at these sizes (none: the command's). Raises Stop with the
    reason if the launch fails or measures a wrong result."""
    options = f" --algorithm=library --max-time={launch_s:.1f}"
    options += f" --sizes={','.join(map(str, sizes))}" if sizes else ""
    variant = with_setting(values.variant, setting + options)
    status, last_line, run = launch(variant, [], values.out, launch_s + LIMIT_S)
    if reason := failure_of(status, last_line, run):
        raise Stop(status if status in (USAGE, CANNOT) else WRONG, reason)
    if status == WRONG:
        raise Stop(WRONG, "a result was wrong")
    return read(str(run))


def calibrate(values: argparse.Namespace) -> tuple[Result, list[int], float]:
    """A launch in the default setting; the sizes of all launches, about every third of the
    command's; and their time, if possible long enough for BLOCKS blocks of each case. Raises Stop
    if the command does not run, or a launch is too short to be compared."""
    launch_s, most_s = 0.0, max(LAUNCH_S, values.max_time_s / 30)
    try:
        result = launch_library(values, DEFAULT, (), most_s)
    except Stop as stop:
        if stop.exit_status != CANNOT:
            raise
        result = launch_library(values, DEFAULT, (), most_s)  # the first one may have compiled
    every = sorted({case.size_bytes for case in result.cases})
    sizes, fewest = sorted({*every[::3], every[-1]}), 0
    while fewest < BLOCKS and launch_s < most_s:
        launch_s, fewest = min(max(LAUNCH_S, 1.5 * launch_s), most_s), 0
        try:
            result = launch_library(values, DEFAULT, sizes, launch_s)
            blocks = Counter(block.case for block in result.blocks)
            fewest = min(blocks[case.case] for case in result.cases if case.status != "unsupported")
        except Stop as stop:
            if stop.exit_status != CANNOT:  # it measured nothing in this time: longer
                raise
    if fewest < MIN_STATE_BLOCKS:
        raise Stop(
            CANNOT,
            f"launches of {launch_s:.0f} s have only {fewest} blocks of a case, and "
            f"{MIN_STATE_BLOCKS} are needed: give it more --max-time",
        )
    return result, sizes, launch_s


def search(values: argparse.Namespace, progress: Progress) -> tuple[Launches, list[Setting]]:
    """The launches of every setting that works; the default, and the unbeaten settings with at
    least two launches. Raises Stop if the command does not run in the default, or in no other."""
    first, sizes, launch_s = calibrate(values)
    case = first.run.cases[0]
    active = settings_for(str(case.library), case.collective)
    launches, tried, longest_s = Launches({DEFAULT: [first]}), set[Setting](), 0.0
    order, rounds = random.Random(values.seed), 0
    while True:
        plan = schedule(order.sample(active, len(active)))
        for place, setting in enumerate(plan):
            begin_s = time.monotonic()
            if begin_s + longest_s > STARTED_S + values.max_time_s:
                if rounds < 3:  # until the first combinations have two launches
                    say(
                        f"the time ended in round {rounds + 1} of at least 3: settings with fewer "
                        "than two launches do not count; give it more --max-time"
                    )
                return launches, [
                    each for each in active if not each or len(launches.get(each, ())) > 1
                ]
            progress.show(
                f"round {rounds + 1}, launch {place + 1} of {len(plan)}", setting or "default"
            )
            tried.add(setting)
            try:
                result = launch_library(values, setting, sizes, launch_s)
                launches.setdefault(setting, []).append(result)
            except Stop as stop:
                unlucky = stop.exit_status == CANNOT and setting in launches  # it measured nothing
                if not (setting or unlucky):
                    raise
                progress.keep(f"{'a launch ' * unlucky}left out: {setting or 'default'}: {stop}")
                if not unlucky:
                    launches.pop(setting, None)
            longest_s = max(longest_s, time.monotonic() - begin_s)
        if list(launches) == [DEFAULT]:
            raise Stop(CANNOT, "every setting but the default failed")
        active, costs = [setting for setting in active if setting in launches], costs_of(launches)
        once = [setting for setting in active if rounds and len(launches[setting]) == 1]
        new = [each for each in combinations_of(costs, list(launches)) if each not in tried]
        active = list(dict.fromkeys([*survivors(costs, active), *once, *new]))
        if active == [DEFAULT]:
            return launches, active
        rounds += 1


def as_variants(variant: Variant, costs: "pd.DataFrame", group: list[Setting]) -> str:
    """The settings as variants in TOML, after a comment for each case and state of the link."""
    of_group = costs.reindex(columns=group).fillna(UNKNOWN)
    lines = [
        f"# {cell}: {1 / by_setting.min():.2f}x as fast as the default: "
        f"{by_setting.idxmin() or 'default'}"
        for cell, by_setting in of_group.iterrows()
    ]
    for place, tuned in enumerate((with_setting(variant, setting) for setting in group), 1):
        lines += [
            "[[variant]]",
            f'name = "{variant.name}{f"-{place}" * (place > 1)}"',
            f"command = {json.dumps(shlex.join([*tuned.launcher, *tuned.arguments]))}",
            "[variant.environment]",
            *(f"{each} = {json.dumps(value)}" for each, value in tuned.variables.items()),
        ]
    return "\n".join([*lines, ""])


def tune(values: argparse.Namespace) -> int:
    """Searches, prints the variants and returns the exit status."""
    progress = Progress("tune_library", values.quiet)
    launches, settings = search(values, progress)
    costs = costs_of(launches)
    if costs.empty:
        raise Stop(CANNOT, "no two settings ran in one state of the link: give it more --max-time")
    print_out(as_variants(values.variant, costs, choose(costs, settings)))
    return FINE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m bench.tune_library` and returns the exit status."""
    return run_command(
        "bench.tune_library",
        lambda: tune(parse(argv)),
        "the output",
        "interrupted; the runs so far are kept",
    )


if __name__ == "__main__":
    sys.exit(main())
