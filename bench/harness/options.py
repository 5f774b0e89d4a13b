"""Command lines: the options that every benchmark shares, their types, and what each changes.

The options have the names that nccl-tests uses. Bad input ends the process with status 2 before any
rank waits for another; only rank 0 prints the reason."""

import argparse
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from bench.harness.console import CANNOT, STATUS_TEXT, USAGE, print_out, say
from collectives.auto_table import parsed
from collectives.build import BuildName
from collectives.collective import DATATYPE_ALIASES, DATATYPES, REDOPS, Collective
from collectives.communicator import THREAD_LEVELS, Communicator, Mistake, Refusal
from collectives.operation import Algorithm
from wiretax.common.arguments import OneLineParser, positive_number, unknown, whole_number
from wiretax.common.launched import launched_rank
from wiretax.common.program import BENCH, has_colours, on_ranks, speaks
from wiretax.record.case import size_of

if TYPE_CHECKING:  # it imports this module
    from bench.harness.feature import Feature

MOST_BYTES = 16 << 30
MOST_S = 1_000_000
IS_INSTALLED = __name__.startswith("wiretax.")  # then -n belongs to `wiretax`, which starts ranks
EVERY_DATATYPE = "float, half, bfloat16, double, int32, int64, int8, uint8, f8e4m3, f8e5m2 or all"
MOST_CHECKS = 1000  # warm-up or checked iterations of a block; a stop waits for the block's end

# What an option changes, as it is declared where it is defined; METHOD keeps runs apart.
CASES = "cases"  # which cases there are, or where they run: the key of a case or the world has it
METHOD = "method"  # how all cases are measured: `Run.method` has the value unless it is the default
NOTHING = "nothing"  # nothing that is measured, only how long, how precisely, or what is printed


# Adds an option to a group as `add_argument` does; its `changes` says what the option changes.
AddOption = Callable[..., object]


class Parser(OneLineParser):
    """Prints once for all ranks, and reports a mistake in one line. `of_method` are the names of
    the options that change METHOD."""

    def __init__(self, **settings: Any) -> None:
        self.of_method = set[str]()
        super().__init__(allow_abbrev=False, **settings)

    def group(self, title: str, changes: str = METHOD) -> AddOption:
        """A group of options, as the function that adds one; `changes` holds for those that declare
        nothing."""
        group = self.add_argument_group(title)

        def add(*flags: str, changes: str = changes, **settings: Any) -> None:
            name = group.add_argument(*flags, **settings).dest
            if changes == METHOD:
                self.of_method.add(name)

        return add

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The options, with those of METHOD that are not at their defaults in `method`."""
        namespace, rest = super().parse_known_args(args, namespace)
        namespace.method = {
            name: value
            for name, value in vars(namespace).items()
            if name in self.of_method and value != self.get_default(name)
        }
        return namespace, rest

    def print_help(self, file: Any = None) -> None:
        if not speaks():
            return
        try:
            print_out(self.format_help(), file)
        except OSError as error:
            Parser.error(self, f"cannot write: {error.strerror}")  # a gate would write an answer

    def error(self, message: str, status: int = USAGE) -> NoReturn:
        if speaks():
            say(self.prog, message)
        elif "PMIX_RANK" in os.environ:  # Open MPI kills all when one rank leaves: let rank 0 print
            time.sleep(1)
        os._exit(status)  # without MPI_Finalize: MPI is not up yet, or others would wait

    def start_mpi(self, thread_level: str | None = None) -> Communicator:
        """All ranks. Ends the process if MPI cannot start."""
        try:
            return Communicator(thread_level)
        except Refusal as refusal:
            self.error(str(refusal), USAGE if isinstance(refusal, Mistake) else CANNOT)

    def require_ranks(self) -> None:
        """Ends the process unless a launcher started it."""
        if launched_rank() is None:
            self.error(
                "this is one process, and a collective needs ranks: "
                f"{on_ranks(2, self.prog.removeprefix(BENCH))}"
            )


@dataclass(frozen=True)
class RunOptions:
    """Every benchmark has these. `graph` None: where the device has graphs; `graph_nodes` None: as
    many kernels in one as the device takes. `iterations` 0: until precise or out of time. `warmup`
    None: by a changepoint test, at least 4 calls per rank or 5 ms. `tuned` None: this machine's
    table. `table`: a file for bench.tune's. Without `keeps_run` the command only prints. `method`:
    what METHOD options say, where it is not the default. `features`: the optional parts that the
    command line requests."""

    command: str
    timeout_s: float = 30.0
    max_time_s: float = 60.0
    seed: int = 0
    device: str = "auto"
    memory: str = "auto"
    ranks_share_gpus: bool = False
    out: str = "results"
    graph: int | None = 0
    graph_nodes: int | None = None
    hdp_flush: str = "auto"
    iterations: int = 0
    warmup: int | None = None
    checks: int = 1
    mpi_thread_level: str | None = None
    tuned: str | None = "none"
    samples: bool = False
    table: str | None = None
    quiet: bool = False
    keeps_run: bool = True
    method: Mapping[str, Any] = field(default_factory=dict)
    features: "Sequence[Feature]" = ()


@dataclass(frozen=True)
class SweepOptions:
    """Which cases of a collective a command has. Without `algorithms` the usual ones.
    `stable`: also `auto_stable`."""

    collective: Collective
    datatypes: Sequence[str]
    redops: Sequence[str]
    sizes: tuple[int, ...]
    algorithms: Sequence[Algorithm] = ()
    in_place: bool = False
    mode: str | None = None
    stable: bool = False


def size_bytes(text: str) -> int:
    """`16K`, `32M`, `1G` or plain bytes; powers of two, as in nccl-tests."""
    match = re.fullmatch(r"(\d+[KMG]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 16384, 16K or 32M")
    size = size_of(match[1].upper())
    if size > MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text} is above the largest size, 16G")
    return size


def name_among(kind: str, names: Sequence[str], text: str, aliases: Mapping[str, str] = {}) -> str:
    """The name that the text means; otherwise an error that suggests the nearest name."""
    name = aliases.get(text.lower(), text.lower())
    if name in names:
        return name
    accepted = [*names, *(alias for alias, meaning in aliases.items() if meaning in names)]
    raise argparse.ArgumentTypeError(unknown(kind, text, accepted))


def add_collective(add: AddOption, names: Sequence[str]) -> None:
    add(
        "--collective",
        choices=names,
        default="all_reduce",
        metavar="NAME",
        help=f"{', '.join(names)} (all_reduce)",
    )


def add_algorithms(add: AddOption, text: str) -> None:
    """Names of algorithms, which `named_algorithms` looks up once the collective is known."""
    add(
        "--algorithm",
        metavar="A,B",
        type=partial(comma_separated, str),
        default=[],
        help=text,
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


def duration_s(text: str) -> float:
    """`90s`, `10m` or `2h`, also `5us` or `1.5ms`, in seconds."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)(us|ms|s|m|h)", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 5us, 90s, 10m or 2h")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}[match[2]]


def comma_separated(parse: Callable[[str], Any], text: str) -> list[Any]:
    """Each item once."""
    return list(dict.fromkeys(map(parse, text.split(","))))


def names_among(
    kind: str, names: Sequence[str], text: str, aliases: Mapping[str, str] = {}
) -> list[str]:
    """The names of a list such as `half,float`; "all" means every name."""
    if text.lower() == "all":
        return list(names)
    return comma_separated(partial(name_among, kind, names, aliases=aliases), text)


datatype_names = partial(names_among, "datatype", list(DATATYPES), aliases=DATATYPE_ALIASES)


def add_datatypes(
    add: AddOption,
    default: str = "float",
    parse: Callable[[str], list[str]] = datatype_names,
    names: str = EVERY_DATATYPE,
) -> None:
    add(
        "-d",
        "--datatype",
        type=parse,
        default=default,
        metavar="A,B",
        dest="datatypes",
        help=f"{names} ({default})",
    )


def add_redops(add: AddOption, default: str | None = "sum") -> None:
    """The operations. None: no default, for all that there are."""
    add(
        "-o",
        "--op",
        type=partial(names_among, "operation", REDOPS),
        default=default,
        metavar="A,B",
        dest="redops",
        help=f"sum, prod, min, max, avg or all ({default or 'all'})",
    )


def rank_parser(
    command: str, about: str, example: str, when_interrupted: str
) -> tuple[Parser, AddOption, AddOption, AddOption]:
    """A parser for ranks of bench.<command>, and add_argument of its groups what, how, output."""
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
    # What commands without --sizes and -d have.
    parser.set_defaults(command=command, sizes=None, datatypes=["float32"])
    what, how = parser.group("what", CASES), parser.group("how")
    output = parser.group("output", NOTHING)
    add_quiet(output)
    output("--out", default="results", metavar="DIR", help="folder that receives the run (results)")
    if IS_INSTALLED:
        how(
            "-n",
            "--ranks",
            changes=CASES,
            metavar="N",
            help="ranks to start (one per GPU that CuPy can use, "
            "else two); not under mpirun or srun",
        )
    return parser, what, how, output


def add_quiet(add: AddOption) -> None:
    add("--quiet", action="store_true", help="print no progress on standard error")


def add_device(add: AddOption) -> None:
    add(
        "--device",
        choices=("auto", "cuda", "hip", "cpu"),
        default="auto",
        metavar="DEVICE",
        help="auto, cuda, hip or cpu (auto)",
    )


def add_sizes(
    add: AddOption, largest: str, factor: int | None = None, smallest: str = "16K"
) -> None:
    add(
        "-b",
        "--minbytes",
        type=size_bytes,
        default=smallest,
        metavar="SIZE",
        help=f"smallest size, such as 4096, 16K or 1M ({smallest})",
    )
    add(
        "-e",
        "--maxbytes",
        type=size_bytes,
        default=largest,
        metavar="SIZE",
        help=f"largest size ({largest})",
    )
    if factor:
        add(
            "-f",
            "--stepfactor",
            type=partial(whole_number, 2),
            default=factor,
            metavar="N",
            help=f"sizes grow by this factor ({factor})",
        )


def add_run_options(add: AddOption, max_time_s: float | None = 60.0) -> None:
    """The options of every run: time, seed, device. Without --max-time if its default is None."""
    seconds = partial(positive_number, "seconds", MOST_S)
    add(
        "-T",
        "--timeout",
        changes=NOTHING,
        type=seconds,
        default=30.0,
        metavar="S",
        dest="timeout_s",
        help="end the run when a rank stands still for S seconds (30)",
    )
    if max_time_s is not None:
        add(
            "--max-time",
            changes=NOTHING,
            type=seconds,
            default=max_time_s,
            metavar="S",
            dest="max_time_s",
            help=f"seconds for the whole command ({max_time_s:.0f})",
        )
    add(
        "--seed",
        changes=NOTHING,
        type=partial(whole_number, 0),
        default=0,
        metavar="N",
        help="seed of data and order (0)",
    )
    add_device(partial(add, changes=CASES))
    add(
        "--memory",
        changes=CASES,
        choices=("auto", "mapped", "host_staged", "mapped,host_staged"),
        default="auto",
        metavar="KIND",
        help="how GPUs reach each other's memory: mapped, host_staged, mapped,host_staged to "
        "measure both, or auto: the first that works (auto)",
    )
    add(
        "--ranks-share-gpus",
        action="store_true",
        help="let ranks share a GPU; for tests, because this measures no wire",
    )
    add(
        "--hdp-flush",
        choices=("auto", "off"),
        default="auto",
        metavar="WHEN",
        help="AMD GPUs: flush a peer's host data path before each flag, where the driver shows its "
        "register (auto), or never (off)",
    )
    add(
        "--mpi-thread-level",
        choices=THREAD_LEVELS,
        metavar="LEVEL",
        help="single, funneled, serialized or multiple (funneled; multiple where ranks outnumber "
        "cores)",
    )


def add_iterations(add: AddOption, default_text: str, graph: int | None = 0) -> None:
    add(
        *["-n", "--iters"][IS_INSTALLED:],
        changes=NOTHING,
        type=partial(whole_number, 0),
        default=0,
        metavar="N",
        dest="iterations",
        help=f"timed iterations per case, in 12 blocks; 0: {default_text} (0)",
    )
    add_graph_options(add, graph)


def add_graph_options(add: AddOption, graph: int | None = 0) -> None:
    where = "where the device has graphs" if graph is None else graph
    add(
        "-G",
        "--cudagraph",
        type=partial(whole_number, 0),
        default=graph,
        metavar="N",
        dest="graph",
        help=f"launch from a graph, GPUs only ({where})",
    )
    add(
        "--graph-nodes",
        type=partial(whole_number, 1),
        metavar="N",
        help="at most N kernels in a graph (100 on gfx12, otherwise any number)",
    )


def add_samples(add: AddOption) -> None:
    add(
        "--samples",
        changes=NOTHING,
        action="store_true",
        help="also store the time of each iteration, in arrays beside the run",
    )


def run_options(namespace: argparse.Namespace, **more: Any) -> RunOptions:
    """The parsed options that are fields, and `more` that the command sets itself."""
    return RunOptions(
        **{
            name: value
            for name, value in (vars(namespace) | more).items()
            if name in RunOptions.__dataclass_fields__
        }
    )
