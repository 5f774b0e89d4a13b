"""The benchmark of one collective from its command line to its exit status."""

import time
from collections.abc import Sequence
from typing import NoReturn

from bench.harness.feature import Feature
from bench.harness.sweep_options import sweep_options, sweep_parser, sweep_run_options
from collectives.collective import COLLECTIVES


def main(command: str, collective: str, about: str, features: Sequence[type[Feature]]) -> NoReturn:
    """`python -m bench.<command>` of a collective."""
    started_s = time.monotonic()
    parser = sweep_parser(command, COLLECTIVES[collective], about, features)
    namespace = parser.parse_args()
    sweep = sweep_options(parser, COLLECTIVES[collective], namespace, features)
    from bench.harness.sweep import run_sweep  # not at the top: --help needs no more modules

    run_sweep(sweep, sweep_run_options(command, namespace), started_s)
