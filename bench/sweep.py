"""The command line of the benchmarks of one collective over sizes."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from bench.features import FEATURES
from bench.harness import options
from bench.harness.options import NOTHING, Parser, RunOptions, SweepOptions
from collectives.collective import COLLECTIVES, DATATYPES, Collective
from wiretax.common.arguments import whole_number
from wiretax.common.program import BENCH, on_ranks

PROCESS = "a rank is one process with one thread and one GPU or core; for more start more ranks (1)"
# Flags of nccl-tests 2.19.6 that have nothing to choose here, for scripts that pass them, with the
# least and the most value: what a run does anyway.
NCCL_FLAGS = (
    ("-g", "--ngpus", 1, 1, f"no effect: {PROCESS}"),
    ("-t", "--nthreads", 1, 1, "no effect, as -g (1)"),
    ("-m", "--agg_iters", 1, 1, "no effect: --mode chained times calls in a row (1)"),
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
    parser, what, how, output = options.rank_parser(
        command,
        about,
        f"{on_ranks(2, command)} -e 1M -d half --algorithm auto,library",
        "the results so far are kept",
    )
    parser.set_defaults(collective=collective, redops=["none"], stable=False)
    options.add_sizes(what, "32M", 2)
    what(
        "--sizes",
        type=partial(options.comma_separated, options.size_bytes),
        metavar="A,B",
        help="exactly these sizes instead of -b, -e and -f",
    )
    options.add_datatypes(what)
    if collective.reduces:
        options.add_redops(what)
        what(
            "--stable",
            action="store_true",
            help="also time auto_stable, whose bits depend on neither size nor place, and print "
            "what it costs beside auto",
        )
    options.add_algorithms(what, "only these; --list names them (all but lossy ones)")
    what(
        "--in-place",
        action="store_true",
        help=argparse.SUPPRESS if collective.no_place else "the result overwrites the send buffer",
    )
    what(
        "--mode",
        choices=("isolated", "chained", "both"),
        metavar="MODE",
        help="isolated: one call at a time; chained: 160 dependent calls; both (isolated, and "
        "chained up to 512K; on CPUs only auto and the library, if none is named)",
    )

    for feature in FEATURES:
        feature.add_options(what)
    for short, long, least, most, text in NCCL_FLAGS:
        number = partial(whole_number, least, most=most)
        what(short, long, changes=NOTHING, type=number, metavar="N", help=text)

    few = partial(whole_number, 0, most=options.MOST_CHECKS)
    options.add_iterations(how, "until they are precise or time is up")
    how(
        "-w",
        "--warmup_iters",
        type=few,
        metavar="N",
        dest="warmup",
        help="warm-up iterations per block (found by a changepoint test: at least 4 calls per "
        "rank, or 5 ms)",
    )
    how(
        "-c",
        "--check",
        type=few,
        default=1,
        metavar="N",
        dest="checks",
        help="iterations checked before and after each block; 0: none (1)",
    )
    options.add_run_options(how)
    how(
        "--tuned",
        metavar="FILE",
        help=f"tuning table for auto, or 'none' (this machine's table, if {BENCH}tune made one)",
    )

    options.add_samples(output)
    output(
        "--list",
        action="store_false",
        dest="keeps_run",
        help="name every algorithm, and why one is not available, then exit",
    )
    return parser


def sweep_options(parser: Parser, namespace: argparse.Namespace) -> tuple[RunOptions, SweepOptions]:
    """The options, or the end of the process with status 2 and one sentence."""
    from collectives.registry import ALGORITHMS  # not at the top: --help needs no more modules

    collective: Collective = namespace.collective
    known = ALGORITHMS[collective.name]
    algorithms = options.named_algorithms(parser, known, namespace.algorithm)
    active = [found for each in FEATURES if (found := each.parse(namespace))]
    if namespace.in_place and collective.no_place:
        parser.error(f"--in-place: {collective.no_place}")
    sizes = requested_sizes(parser, namespace, allow_zero=True)
    if namespace.keeps_run:
        parser.require_ranks()
    mode = next((feature.mode for feature in active if feature.mode), namespace.mode)
    if namespace.mode not in (None, mode):
        parser.error(
            f"--arrival-skew and --cold are of single calls: leave out --mode {namespace.mode}"
        )
    sweep = SweepOptions(
        collective,
        namespace.datatypes,
        namespace.redops,
        sizes,
        algorithms,
        namespace.in_place,
        mode,
        namespace.stable,
    )
    return options.run_options(namespace, features=active), sweep


def requested_sizes(
    parser: Parser, namespace: argparse.Namespace, allow_zero: bool = False
) -> tuple[int, ...]:
    """The sizes in bytes, in whole elements of every type, ascending; or the end of the process."""
    smallest, largest = namespace.minbytes, namespace.maxbytes
    sizes = list[int](namespace.sizes or ())
    if largest < smallest and not sizes:
        parser.error(f"the sizes begin at {smallest} B, above their end at {largest} B")
    widest = max(map(DATATYPES.__getitem__, namespace.datatypes), key=lambda each: each.size_bytes)
    element_bytes = widest.size_bytes
    for size in sizes or [smallest]:
        if size < element_bytes and (size or not allow_zero):
            parser.error(f"{size} B hold no {widest.name}, which has {element_bytes} B")
    size = smallest
    while not namespace.sizes and size <= largest:
        sizes.append(size)
        size = size * namespace.stepfactor or element_bytes  # after 0 comes one element
    return tuple(sorted({size // element_bytes * element_bytes for size in sizes}))
