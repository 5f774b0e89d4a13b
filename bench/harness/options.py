"""The options that benchmarks share, as dataclasses, and the parser of a command on ranks.

Options have the names that nccl-tests uses."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.harness.console import STATUS_TEXT
from bench.harness.parser import (
    CASES,
    Option,
    Parser,
    changes_cases,
    changes_method,
    changes_nothing,
    declared,
    listed,
    name_among,
    names_among,
    size_bytes,
    whole,
)
from collectives.auto_table import parsed
from collectives.build import BuildName
from collectives.collective import DATATYPE_ALIASES, DATATYPES, REDOPS, Collective
from collectives.communicator import THREAD_LEVELS
from collectives.operation import Algorithm
from wiretax.common.arguments import positive_number
from wiretax.common.launched import launched_rank
from wiretax.common.program import BENCH, has_colours, on_ranks

if TYPE_CHECKING:
    from bench.harness.feature import Feature  # no command line needs it

MOST_S = 1_000_000
MOST_CHECKS = 1000  # warm-up or checked iterations of a block; a stop waits for the block's end
EVERY_DATATYPE = "float, half, bfloat16, double, int32, int64, int8, uint8, f8e4m3, f8e5m2 or all"
IS_INSTALLED = __name__.startswith("wiretax.")  # then -n belongs to `wiretax`, which starts ranks
ITERATIONS_FLAGS = ["--iters"] if IS_INSTALLED else ["-n", "--iters"]
LIBRARY_VARIANTS = "plain", "registered", "tuned", "zero_cta"
seconds = partial(positive_number, "seconds", MOST_S)
few = whole(0, most=MOST_CHECKS)
datatype_names = partial(names_among, "datatype", list(DATATYPES), aliases=DATATYPE_ALIASES)


@dataclass(frozen=True)
class RunOptions:
    """Every benchmark has these. `graph` None: where the device has graphs; `graph_nodes` None: as
    many kernels in one as the device takes. `warmup` None: by a changepoint test. `tuned` None:
    this machine's table. Without `keeps_run` the command only prints. `method`: what METHOD options
    say, where it is not the default. `features`: the optional parts that the command line
    requests."""

    command: str
    iterations: int = changes_nothing(
        ITERATIONS_FLAGS,
        group="how",
        everywhere=False,
        **whole(0),
        default=0,
        help="timed iterations per case, in 12 blocks; 0: until they are precise or time is up "
        "(%(default)s)",
    )
    graph: int | None = changes_method(
        ["-G", "--cudagraph"],
        everywhere=False,
        **whole(0),
        default=0,
        help="launch from a graph, GPUs only (%(default)s)",
    )
    graph_nodes: int | None = changes_method(
        ["--graph-nodes"],
        everywhere=False,
        **whole(1),
        help="at most N kernels in a graph (100 on gfx12, otherwise any number)",
    )
    warmup: int | None = changes_method(
        ["-w", "--warmup_iters"],
        everywhere=False,
        **few,
        help="warm-up iterations per block (found by a changepoint test: at least 4 calls per "
        "rank, or 5 ms)",
    )
    checks: int = changes_method(
        ["-c", "--check"],
        everywhere=False,
        **few,
        default=1,
        help="iterations checked before and after each block; 0: none (%(default)s)",
    )
    timeout_s: float = changes_nothing(
        ["-T", "--timeout"],
        group="how",
        type=seconds,
        metavar="S",
        default=30.0,
        help="end the run when a rank makes no progress for S seconds (%(default)g)",
    )
    max_time_s: float = changes_nothing(
        ["--max-time"],
        group="how",
        everywhere=False,
        type=seconds,
        metavar="S",
        default=60.0,
        help="seconds for the command, without those of compilers, which take at most as long "
        "again (%(default)g)",
    )
    seed: int = changes_nothing(
        ["--seed"],
        group="how",
        **whole(0),
        default=0,
        help="seed of data and order (%(default)s)",
    )
    device: str = changes_cases(
        ["--device"],
        group="how",
        choices=("auto", "cuda", "hip", "cpu"),
        metavar="DEVICE",
        default="auto",
        help="auto, cuda, hip or cpu (%(default)s)",
    )
    memory: str = changes_cases(
        ["--memory"],
        group="how",
        choices=("auto", "mapped", "host_staged", "mapped,host_staged"),
        metavar="KIND",
        default="auto",
        help="how GPUs reach each other's memory: mapped, host_staged, mapped,host_staged to "
        "measure both, or auto: the first that works (%(default)s)",
    )
    ranks_share_gpus: bool = changes_method(
        ["--ranks-share-gpus"],
        default=False,
        help="let ranks share a GPU; for tests, because this measures no wire",
    )
    mixed_gpus: bool = changes_method(
        ["--mixed-gpus"],
        default=False,
        help="let ranks use GPUs of unlike architectures, whose slowest sets the times (only those "
        "of the commonest)",
    )
    hdp_flush: str = changes_method(
        ["--hdp-flush"],
        choices=("auto", "off"),
        metavar="WHEN",
        default="auto",
        help="AMD GPUs: flush a peer's host data path before each flag, where the driver shows "
        "its register (%(default)s), or never (off)",
    )
    library: Sequence[str] = changes_cases(
        ["--library"],
        group="how",
        type=partial(names_among, "variant", LIBRARY_VARIANTS),
        metavar="A,B",
        default=LIBRARY_VARIANTS,
        help="variants of NCCL or RCCL: registered, tuned and zero_cta, each beside plain, or "
        "plain alone (all)",
    )
    mpi_thread_level: str | None = changes_method(
        ["--mpi-thread-level"],
        choices=THREAD_LEVELS,
        metavar="LEVEL",
        help="single, funneled, serialized or multiple (funneled; multiple where ranks "
        "outnumber cores)",
    )
    tuned: str | None = changes_method(
        ["--tuned"],
        everywhere=False,
        metavar="FILE",
        default="none",
        help=f"tuning table for auto, or 'none' (this machine's table, if {BENCH}tune made one)",
    )
    quiet: bool = changes_nothing(
        ["--quiet"],
        default=False,
        help="print no progress on standard error",
    )
    out: str = changes_nothing(
        ["--out"],
        metavar="DIR",
        default="results",
        help="folder that receives the run (%(default)s)",
    )
    table: str | None = changes_nothing(
        ["--table"],
        everywhere=False,
        metavar="FILE",
        help="file for the table (where auto looks for it)",
    )
    samples: bool = changes_nothing(
        ["--samples"],
        everywhere=False,
        default=False,
        help="also store the time of each iteration, in arrays beside the run",
    )
    keeps_run: bool = changes_nothing(
        ["--list"],
        everywhere=False,
        default=True,
        help="name every algorithm, and why one is not available, then exit",
    )
    method: Mapping[str, Any] = field(default_factory=dict)
    features: "Sequence[Feature]" = ()


@dataclass(frozen=True)
class SizeOptions:
    """Sizes in bytes, from the smallest to the largest by a factor."""

    minbytes: int = changes_cases(
        ["-b", "--minbytes"],
        type=size_bytes,
        default="16K",
        metavar="SIZE",
        help="smallest size, such as 4096, 16K or 1M (%(default)s)",
    )
    maxbytes: int = changes_cases(
        ["-e", "--maxbytes"],
        type=size_bytes,
        default="32M",
        metavar="SIZE",
        help="largest size (%(default)s)",
    )
    stepfactor: int = changes_cases(
        ["-f", "--stepfactor"],
        **whole(2),
        default=2,
        help="sizes grow by this factor (%(default)s)",
    )


@dataclass(frozen=True)
class SweepOptions:
    """Which cases of a collective a command has, at sizes in bytes. Without `algorithms` the usual
    ones. `stable`: also `auto_stable`."""

    collective: Collective
    sizes: Sequence[int] = changes_cases(
        ["--sizes"],
        **listed(size_bytes),
        default=(),
        help="exactly these sizes instead of -b, -e and -f",
    )
    datatypes: Sequence[str] = changes_cases(
        ["-d", "--datatype"],
        type=datatype_names,
        default="float",
        metavar="A,B",
        help=f"{EVERY_DATATYPE} (%(default)s)",
    )
    redops: Sequence[str] = changes_cases(
        ["-o", "--op"],
        type=partial(names_among, "operation", REDOPS),
        default="sum",
        metavar="A,B",
        help="sum, prod, min, max, avg or all (%(default)s)",
    )
    stable: bool = changes_cases(
        ["--stable"],
        default=False,
        help="also time auto_stable, whose bits depend on neither size nor place, and print "
        "what it costs beside auto",
    )
    # By name, until `named_algorithms` finds them.
    algorithms: Sequence[Algorithm] = changes_cases(
        ["--algorithm"],
        **listed(str),
        default=(),
        help="only these; --list names them (all but lossy ones)",
    )
    in_place: bool = changes_cases(
        ["--in-place"],
        default=False,
        help="the result overwrites the send buffer",
    )
    mode: str | None = changes_cases(
        ["--mode"],
        choices=("isolated", "chained", "both"),
        metavar="MODE",
        help="isolated: one call at a time; chained: 160 dependent calls; both (isolated, and "
        "chained up to 512K; on CPUs only auto and the library, if none is named)",
    )


def add_run_options(parser: Parser, *names: str) -> None:
    """Adds the options that every command on ranks has, and those with these names."""
    everywhere = [name for name, each in declared(RunOptions).items() if each.everywhere]
    parser.add(RunOptions, *everywhere, *names)


def collective_option(names: Sequence[str]) -> Option:
    return Option(
        CASES,
        ["--collective"],
        choices=names,
        default="all_reduce",
        metavar="NAME",
        help=f"{', '.join(names)} (%(default)s)",
    )


def named_algorithms(
    parser: Parser, known: Mapping[str, Algorithm], names: Sequence[str]
) -> list[Algorithm]:
    """What `--algorithm` names, as in `two_shot+nt+128K`, or the end of the process with status 2
    and one sentence."""
    algorithms = list[Algorithm]()
    for name in names:
        try:
            name_among("algorithm", list(known), BuildName.parse(name).algorithm)
            algorithms.append(parsed(name, known))
        except (argparse.ArgumentTypeError, ValueError) as error:
            parser.error(f"--algorithm {name}: {error}")
    return algorithms


def rank_parser(command: str, about: str, example: str, when_interrupted: str) -> Parser:
    """A parser for ranks of bench.<command>, with the groups what, how and output."""
    # Open MPI gives each rank a terminal, wherever output goes.
    if launched_rank() is not None and not has_colours():
        os.environ.setdefault("NO_COLOR", "1")
    parser = Parser(
        prog=f"{BENCH}{command}",
        usage=f"{on_ranks('RANKS', command)} [OPTION ...]",
        description=about,
        epilog=f"example:\n  {example}\n\n{STATUS_TEXT}{when_interrupted}",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=31),
    )
    parser.set_defaults(command=command)
    parser.add_groups("what", "how", "output")
    if IS_INSTALLED:
        ranks = Option(
            CASES,
            ["-n", "--ranks"],
            group="how",
            metavar="N",
            help="ranks to start (one per usable GPU, else two); not under mpirun or srun",
        )
        parser.add_option("ranks", ranks)
    return parser
