"""The command line of the benchmarks of one collective over sizes."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from bench.features import FEATURES
from bench.harness import options
from bench.harness.console import say
from bench.harness.feature import add_features, requested
from bench.harness.options import RunOptions, SizeOptions, SweepOptions
from bench.harness.parser import NOTHING, Option, Parser, declared, fill, whole
from collectives.collective import COLLECTIVES, DATATYPES, Collective
from wiretax.common.program import on_ranks, speaks

IN_A_ROW = "--mode chained times calls in a row (1)"
PROCESS = "a rank is one process with one thread and one GPU or core; for more start more ranks (1)"
# Flags of nccl-tests 2.19.6 that have nothing to choose here, for scripts that pass them, with the
# least and the most value: what a run does anyway.
NCCL_FLAGS = (
    ("-g", "--ngpus", 1, 1024, f"no effect: {PROCESS}"),
    ("-t", "--nthreads", 1, 1024, "no effect, as -g (1)"),
    ("-m", "--agg_iters", 1, 10**6, f"no effect: {IN_A_ROW}"),
    ("-r", "--root", 0, 99, "no effect: there is no root (0)"),
    ("-R", "--local_register", 0, 2, "no effect: registered buffers are measured too (0)"),
)


def main(command: str, collective: str, about: str) -> NoReturn:
    """`python -m bench.<command>` of a collective, from its command line to its exit status."""
    parser = sweep_parser(command, collective, about)
    run_sweep(*sweep_options(parser, parser.parse_args()))


def run_sweep(
    run: RunOptions,
    sweep: SweepOptions,
    prepare: Callable[..., Any] | None = None,
) -> NoReturn:
    """Runs the sweep, or what `prepare(sweep, session)` makes of it, or lists its algorithms, and
    exits."""
    from bench.harness import suite  # not at the top: --help needs no more modules
    from bench.harness.run import measure
    from bench.harness.session import start

    if not run.keeps_run:
        start(run, partial(suite.list_algorithms, sweep))
    cases = partial(prepare or suite.prepare, sweep)
    start(run, lambda session: measure(session, cases))


def sweep_parser(command: str, name: str, about: str) -> Parser:
    """The parser of `python -m bench.<command>`, of the collective with this name."""
    collective = COLLECTIVES[name]
    parser = options.rank_parser(
        command,
        about,
        f"{on_ranks(2, command)} -e 1M -d half --algorithm auto,library",
        "the results so far are kept",
    )
    parser.add(SizeOptions)
    names = set(declared(SweepOptions))
    if not collective.reduces:
        names -= {"redops", "stable"}
    parser.add(SweepOptions, *names)
    add_features(parser, FEATURES)
    for short, long, least, most, text in NCCL_FLAGS:
        ignored = Option(
            NOTHING, [short, long], "what", **whole(least, most), default=least, help=text
        )
        parser.add_option(long.removeprefix("--"), ignored)
    parser.add(RunOptions, *(set(declared(RunOptions)) - {"table"}))
    parser.set_defaults(collective=collective, tuned=None)
    if not collective.reduces:
        parser.set_defaults(redops=["none"])
    if collective.no_place:
        parser.set_help(in_place=argparse.SUPPRESS)
    return parser


def sweep_options(parser: Parser, namespace: argparse.Namespace) -> tuple[RunOptions, SweepOptions]:
    """The options, or the end of the process with status 2 and one sentence."""
    from collectives.registry import ALGORITHMS  # not at the top: --help needs no more modules

    for flag, asked, why in (
        ("-g", namespace.ngpus, PROCESS),
        ("-t", namespace.nthreads, PROCESS),
        ("-m", namespace.agg_iters, IN_A_ROW),
    ):
        if asked > 1 and speaks():
            say(parser.prog, f"{flag} {asked} has no effect: {why.removesuffix(' (1)')}")
    collective: Collective = namespace.collective
    known = ALGORITHMS[collective.name]
    algorithms = options.named_algorithms(parser, known, namespace.algorithms)
    active = requested(FEATURES, namespace)
    if namespace.in_place and collective.no_place:
        parser.error(f"--in-place: {collective.no_place}")
    steps, datatypes = fill(SizeOptions, namespace), namespace.datatypes
    sizes = requested_sizes(parser, steps, datatypes, namespace.sizes, allow_zero=True)
    if namespace.keeps_run:
        parser.require_ranks()
    mode = next((feature.mode for feature in active if feature.mode), namespace.mode)
    if namespace.mode not in (None, mode):
        parser.error(
            f"--arrival-skew and --cold are of single calls: leave out --mode {namespace.mode}"
        )
    sweep = fill(SweepOptions, namespace, algorithms=algorithms, sizes=sizes, mode=mode)
    return fill(RunOptions, namespace, features=active), sweep


def requested_sizes(
    parser: Parser,
    steps: SizeOptions,
    datatypes: Sequence[str] = ("float32",),
    named: Sequence[int] = (),
    allow_zero: bool = False,
) -> tuple[int, ...]:
    """The sizes in bytes, the named ones or else all steps, in whole elements of every type,
    ascending; or the end of the process."""
    smallest, largest, sizes = steps.minbytes, steps.maxbytes, [*named]
    if largest < smallest and not sizes:
        parser.error(f"the sizes begin at {smallest} B, above their end at {largest} B")
    widest = max(map(DATATYPES.__getitem__, datatypes), key=lambda each: each.size_bytes)
    element_bytes = widest.size_bytes
    for size in sizes or [smallest]:
        if size < element_bytes and (size or not allow_zero):
            parser.error(f"{size} B hold no {widest.name}, which has {element_bytes} B")
    size = smallest
    while not named and size <= largest:
        sizes.append(size)
        size = size * steps.stepfactor or element_bytes  # after 0 comes one element
    return tuple(sorted({size // element_bytes * element_bytes for size in sizes}))
