"""The cost of a collective to compute beside it: `mpirun -n 2 python -m bench.footprint`

Each case runs once alone and once with a matmul in another stream, or on a core without ranks.
"""

from collections.abc import Sequence

from bench.features.footprint import Footprint
from bench.harness.command import SweepOptions, run_sweep, sweep_options, sweep_parser
from bench.harness.options import Parser, RunOptions
from collectives.collective import COLLECTIVES

ABOUT = "Times a collective alone and beside a matmul, and what either costs the other."


def parse(argv: Sequence[str] | None = None) -> tuple[RunOptions, SweepOptions]:
    """The options, or the end of the process with status 2 and one sentence."""
    first = Parser(prog="bench.footprint", add_help=False, allow_abbrev=False)
    names = list(COLLECTIVES)
    first.add_argument("--collective", choices=names, default="all_reduce")
    collective = COLLECTIVES[first.parse_known_args(argv)[0].collective]
    parser = sweep_parser("footprint", collective, ABOUT, ())
    parser.add_argument("--collective", choices=names, default="all_reduce", metavar="NAME",
                        help=f"{', '.join(names)} (all_reduce)")
    namespace = parser.parse_args(argv)
    if namespace.dispatch == "python":
        parser.error("the footprint is measured in the native loop: leave out --dispatch python")
    return sweep_options(parser, namespace, [Footprint])


if __name__ == "__main__":
    run_sweep(*parse())
