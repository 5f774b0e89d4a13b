"""The command line of the soak: `bench.soak`, and `--soak TIME` of the collectives' commands."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from bench.harness import options
from bench.harness.feature import Feature
from bench.harness.options import Parser
from collectives.collective import COLLECTIVES, DATATYPES, REDOPS
from collectives.registry import ALGORITHMS

if TYPE_CHECKING:
    from bench.features.soak import SoakOptions

MOST_BYTES = 300007 * 8


class SoakOption(Feature):
    """`--soak TIME` of a collective's command: the same as `bench.soak` of that collective."""

    @staticmethod
    def add_options(add: options.AddOption) -> None:
        add(
            "--soak",
            changes=options.NOTHING,
            type=options.duration_s,
            default=None,
            metavar="TIME",
            help="check launches of everything mixed for this long, such as 90s, 10m or 2h, and "
            "time nothing: bench.soak",
        )

    @classmethod
    def parse(cls, parser: Parser, namespace: argparse.Namespace) -> None:
        if namespace.soak:
            main(namespace.command, [*sys.argv[1:], "--collective", namespace.collective])


def main(command: str, argv: Sequence[str] | None = None) -> NoReturn:
    """Parses the command line, soaks, and exits."""
    from bench.features.soak import soak  # not at the top: other commands never load it
    from bench.harness.session import start

    parser = soak_parser(command)
    namespace, ignored = parser.parse_known_args(argv)
    if ignored:
        parser.error(f"--soak times nothing and draws what it launches: leave out {ignored[0]}")
    run = options.run_options(namespace)
    start(run, partial(soak, soak_options(parser, namespace)))


def soak_parser(command: str) -> Parser:
    parser, add, how, output = options.rank_parser(
        command,
        "Checks launches of everything mixed, back to back, and times nothing.",
        "mpirun -n 2 python -m bench.soak --soak 10m",
        "no wrong element so far",
    )
    add(
        "--soak",
        type=options.duration_s,
        default=600.0,
        metavar="TIME",
        help="for this long, such as 90s, 10m or 2h (10m)",
    )
    add(
        "--collective",
        choices=list(COLLECTIVES),
        default="all_reduce",
        metavar="NAME",
        help=f"{', '.join(COLLECTIVES)} (all_reduce)",
    )
    add(
        "-b",
        "--minbytes",
        type=options.size_bytes,
        default=1,
        metavar="SIZE",
        help="smallest size (one element)",
    )
    add(
        "-e",
        "--maxbytes",
        type=options.size_bytes,
        default=MOST_BYTES,
        metavar="SIZE",
        help="largest size (2.3M)",
    )
    add(
        "-d",
        "--datatype",
        type=options.datatype_names,
        default=[*DATATYPES],
        metavar="A,B",
        dest="datatypes",
        help="only these datatypes (all)",
    )
    add(
        "-o",
        "--op",
        type=options.redop_names,
        default=None,
        metavar="A,B",
        dest="redops",
        help="only these operations (all)",
    )
    names = {
        name: algorithm
        for collective in ALGORITHMS.values()
        for name, algorithm in collective.items()
    }
    add(
        "--algorithm",
        default=None,
        metavar="A,B",
        type=partial(options.comma_separated, partial(options.algorithm, names)),
        help="only these (all of ours but lossy ones)",
    )
    options.add_run_options(how, max_time_s=None)  # --soak is the time
    options.add_output(output)
    return parser


def soak_options(parser: Parser, namespace: argparse.Namespace) -> "SoakOptions":
    """The options, or the end of the process with status 2 and one sentence."""
    from bench.features.soak import SoakOptions

    collective, smallest, largest = (
        COLLECTIVES[namespace.collective],
        namespace.minbytes,
        namespace.maxbytes,
    )
    if not largest:
        parser.error("-e 0: a soak checks elements, and 0 B hold no element")
    if largest < smallest:
        parser.error(f"the sizes begin at {smallest} B, above their end at {largest} B")
    if namespace.redops and not collective.reduces:
        parser.error(f"-o: {collective.name} reduces nothing")
    known = ALGORITHMS[collective.name]
    for algorithm in namespace.algorithm or ():
        if algorithm.base not in known:
            parser.error(f"{collective.name} has no algorithm {algorithm.name}")
    parser.require_ranks()
    redops = namespace.redops or (REDOPS if collective.reduces else ["none"])
    datatypes = [DATATYPES[name] for name in namespace.datatypes]
    return SoakOptions(
        collective,
        namespace.soak,
        smallest,
        largest,
        datatypes,
        redops,
        [replace(known[each.base], build=each.build) for each in namespace.algorithm or ()],
    )
