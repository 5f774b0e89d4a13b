"""The command line of every benchmark: nccl-tests' flags and letters, and ours; one sentence for what cannot be.

Bad input ends with status 2 before any rank waits for another, and rank 0 alone says why. Status 3: this machine cannot
run that. Status 1: a result was wrong or a rank was lost. Status 130: interrupted, what was measured is kept.
"""

import argparse
import difflib
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from bench.harness import sweep
from collectives.algorithm import ALGORITHMS, named
from collectives.collective import DATATYPE_ALIASES, DATATYPES, REDOPS, Collective, reason_against
from collectives.communicator import THREAD_LEVELS, launched_rank
from collectives.experts.routing import MOST_CHOICES, MOST_EXPERTS, SkewError, expert_counts
from collectives.operation import Algorithm

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

FINE, WRONG, USAGE, CANNOT, INTERRUPTED = 0, 1, 2, 3, 130  # exit status
LOST = WRONG  # a rank was
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MOST_BYTES = 1 << 30
MOST_S = 1_000_000
MOST_LATE_US = 100_000
MOST_BESIDE = 1000  # warm-up or checked iterations of a block: a stop is looked for between blocks


class Parser(argparse.ArgumentParser):
    """Speaks once for all ranks, and complains in one line."""

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        if launched_rank() in (None, 0):
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        if launched_rank() in (None, 0):
            print(f"{self.prog}: {message}", file=sys.stderr, flush=True)
        elif "PMIX_RANK" in os.environ:  # Open MPI ends all when one leaves: not before rank 0 has spoken
            time.sleep(1)
        os._exit(2)  # not through MPI, which is not up yet


def size_bytes(text: str) -> int:
    """`16K`, `32M`, `1G` or plain bytes; powers of two, as in nccl-tests."""
    found = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text, re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 16384, 16K or 32M")
    size = int(found[1]) * UNITS[found[2].upper()]
    if size > MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text} is above the largest size, 1G")
    return size


def one_of(kind: str, known: Sequence[str], text: str, aliases: dict[str, str] | None = None) -> str:
    """The known name, or a complaint with the nearest one."""
    name = (aliases or {}).get(text.lower(), text.lower())
    if name in known:
        return name
    names = [*known, *(alias for alias, meant in (aliases or {}).items() if meant in known)]
    near = difflib.get_close_matches(text.lower(), names, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    raise argparse.ArgumentTypeError(f"unknown {kind} {text!r}: {hint}")


def algorithm(known: Mapping[str, Algorithm], text: str) -> str:
    """The name of an algorithm, or a complaint."""
    base, plus, words = text.partition("+")
    name = one_of("algorithm", list(known), base) + plus + words
    try:
        return named(known, name).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"algorithm {text!r}: {error}") from error


def whole(least: int, text: str, most: int = 1 << 31) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"{text} is above the most, {most}")
    return int(text)


def positive(unit: str, most: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of {unit} above 0, and at most {most}")
    return value


def duration_s(text: str) -> int:
    """`90s`, `10m` or `2h`, in seconds."""
    found = re.fullmatch(r"([1-9]\d{0,5})([smh])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m or 2h")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def delay_us(text: str) -> float:
    """`0`, `5us`, `1.5ms`, or plain microseconds; to the nanosecond."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms)?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 0, 5us or 1.5ms")
    delay = round(float(found[1]) * (1e3 if found[2] == "ms" else 1.0), 3)
    if delay > MOST_LATE_US:
        raise argparse.ArgumentTypeError(f"{text} is above the longest, {MOST_LATE_US // 1000}ms")
    return delay


def comma_separated(read: Callable[[str], object], text: str) -> list[object]:
    """Each item once."""
    return list(dict.fromkeys(map(read, text.split(","))))


Add = Callable[..., argparse.Action]  # an argument group's add_argument


def size_options(what: Add, largest: str, factor: int | None, factor_text: str) -> None:
    """The sizes of every benchmark."""
    what("-b", "--minbytes", type=size_bytes, default=16 << 10, metavar="SIZE",
         help="smallest size, such as 4096, 16K or 1M (16K)")
    what("-e", "--maxbytes", type=size_bytes, default=size_bytes(largest), metavar="SIZE",
         help=f"largest size ({largest})")
    what("-f", "--stepfactor", type=partial(whole, 2), default=factor, metavar="N",
         help=f"sizes grow by this factor ({factor_text})")


def routed_options(what: Add) -> None:
    """A batch of tokens for a mixture of experts, in place of sizes."""
    what("--experts", type=partial(whole, 1, most=MOST_EXPERTS), default=None, metavar="N",
         help="routed: tokens to their experts among N, split over the ranks, and back")
    what("--top-k", type=partial(whole, 1, most=MOST_CHOICES), default=None, metavar="N",
         help="routed: experts of a token (2)")
    what("--tokens", type=partial(whole, 1, most=1 << 16), default=None, metavar="N",
         help="routed: tokens of all ranks (1024)")
    what("--hidden", type=partial(whole, 1, most=1 << 20), default=None, metavar="N",
         help="routed: elements of a token (4096)")
    what("--skew", type=partial(comma_separated, str), default=None, metavar="A,B",
         help="routed: how unevenly experts are chosen: uniform, zipf:S, hot:N or file:COUNTS.npy "
         "(uniform,zipf:1.2,hot:2)")


def check_routed(p: Parser, options: argparse.Namespace) -> None:
    """Fills in what a routed all-to-all needs, or ends with a sentence."""
    defaults = {"top_k": 2, "tokens": 1024, "hidden": 4096, "skew": ["uniform", "zipf:1.2", "hot:2"]}
    if options.experts is None:
        if given := next((name for name in defaults if getattr(options, name) is not None), None):
            p.error(f"--{given.replace('_', '-')} is of a routed all-to-all: add --experts N")
        return
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not DATATYPES[options.datatype].is_float:
        p.error(f"the weights of experts are fractions, which {options.datatype} has not")
    if options.top_k > options.experts:
        p.error(f"--top-k {options.top_k}: a token cannot choose so many of {options.experts} experts")
    if options.sizes or (options.minbytes, options.maxbytes, options.stepfactor) != (16 << 10, 32 << 20, 2):
        p.error("with --experts the size is that of --tokens times --hidden: leave out the sizes")
    if options.list:
        p.error("--list names the same algorithms without --experts")
    try:
        for skew in options.skew:
            expert_counts(skew, options.experts, options.tokens, options.top_k)
    except SkewError as error:
        p.error(f"--skew: {error}")


def lossy_option(what: Add) -> None:
    what("--lossy", type=partial(positive, "dB", 200), default=None, metavar="DB",
         help="also algorithms that quantise; auto takes one, where a table of bench.tune --lossy says so, whose "
         "signal-to-noise ratio is at least so many dB on its worst data (none)")


def run_options(how: Add, max_time_s: float = 60.0) -> None:
    """How every benchmark runs."""
    how("-T", "--timeout", type=partial(positive, "seconds", MOST_S), default=30.0, metavar="S",
        help="seconds that a rank may stand still before the run is ended (30)")
    how("--max-time", type=partial(positive, "seconds", MOST_S), default=max_time_s, metavar="S",
        help=f"seconds for the whole command ({max_time_s:.0f})")
    how("--seed", type=partial(whole, 0), default=0, metavar="N", help="of data and order (0)")
    how("--device", choices=("auto", "cuda", "hip", "cpu"), default="auto", metavar="DEVICE",
        help="auto, cuda, hip or cpu (auto)")
    how("--memory", choices=("auto", "mapped", "host_staged"), default="auto", metavar="WAY",
        help="how GPUs reach each other's memory: auto, mapped or host_staged (auto: what holds)")
    how("--ranks-share-gpus", action="store_true", help="let ranks share a GPU: a test, not a measurement of a wire")


def lean_option(where: Add) -> None:
    where("--lean", action="store_true", help="keep no single iterations and draw no picture")


def output_options(where: Add) -> None:
    """What every benchmark leaves."""
    where("--out", default="results", metavar="DIR", help="folder that keeps the run (results)")
    where("--with-hostname", action="store_true", help="keep this host's name in the run")


def parser_of_ranks(command: str, about: str, epilog: str) -> Parser:
    """A parser without options for `mpirun -n RANKS python -m bench.<command>`."""
    if launched_rank() is not None:  # Open MPI gives each rank a terminal, wherever what it prints may go
        os.environ.setdefault("NO_COLOR", "1")
    return Parser(
        prog=f"bench.{command}", usage=f"mpirun -n RANKS python -m bench.{command} [OPTION ...]", description=about,
        allow_abbrev=False, epilog=epilog,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=31))


def parser_for(command: str, collective: Collective, about: str) -> Parser:
    """The parser of `python -m bench.<command>`."""
    known = ALGORITHMS[collective.name]
    p = parser_of_ranks(
        command, about,
        f"example:\n  mpirun -n 2 python -m bench.{command} -e 1M -d half --algorithm {[*known][-2]},library\n\n"
        "exit status:\n  0 fine; 1 a result was wrong or a rank was lost; 2 the command line;\n"
        "  3 this machine cannot run that; 130 interrupted, what was measured is kept")
    what, how, where = (p.add_argument_group(title).add_argument for title in ("what", "how", "output"))
    count, few, percent = partial(whole, 0), partial(whole, 0, most=MOST_BESIDE), partial(positive, "percent", 100)
    datatype = partial(one_of, "datatype", list(DATATYPES), aliases=DATATYPE_ALIASES)
    algorithms = partial(comma_separated, partial(algorithm, known))

    size_options(what, "32M", 2, "2")
    what("--sizes", type=partial(comma_separated, size_bytes), default=None, metavar="A,B",
         help="these sizes only, whatever -b, -e and -f say")
    what("-d", "--datatype", type=datatype, default="float32", metavar="TYPE",
         help="float, half, bfloat16, double, int32 or int64 (float)")
    if collective.name == "alltoall":
        routed_options(what)
    if collective.reduces:
        what("-o", "--op", type=partial(one_of, "operation", REDOPS), default="sum", metavar="OP",
             help="sum, prod, min, max or avg (sum)")
    what("--algorithm", type=algorithms, default=None, metavar="A,B", help="these only; --list names them (all)")
    if any(algorithm.lossy for algorithm in known.values()):
        lossy_option(what)
    what("--in-place", action="store_true", help=argparse.SUPPRESS if collective.no_place else
         "the result overwrites the send buffer")
    what("--mode", choices=("isolated", "chained", "both"), default=None, metavar="MODE",
         help="isolated: one call at a time; chained: 160 dependent calls; both (isolated, and chained up to 512K)")
    what("--arrival-skew", type=partial(comma_separated, delay_us), default=None, metavar="A,B",
         help="by how much one rank comes late, such as 0,5us,1.5ms; isolated mode only (none does)")

    what("--beside", choices=("gemm",), default=None, metavar="WHAT",
         help="gemm: each case once more with a matmul beside it, in another stream or on a free core (none)")

    what("--soak", type=duration_s, default=None, metavar="TIME",
         help="check launches of everything mixed for so long, such as 90s, 10m or 2h, and time nothing")

    how("-n", "--iters", type=count, default=0, metavar="N",
        help="timed iterations a case, in 12 blocks; 0: until precise or out of time (0)")
    how("-w", "--warmup_iters", type=few, default=None, metavar="N",
        help="warm-up iterations a block (as many as a changepoint test finds)")
    how("-c", "--check", type=few, default=1, metavar="N",
        help="iterations checked before and after each block; 0: none (1)")
    how("-r", "--root", type=count, default=0, metavar="RANK", help="the root, where a collective has one (0)")
    how("-G", "--cudagraph", type=count, default=0, metavar="N", help="launch from a graph, GPUs only (0)")
    run_options(how)
    how("--dispatch", choices=("native", "python"), default="native", metavar="WHO",
        help="who calls the operation in the timed loop: native or python (native)")
    how("--mpi-thread-level", choices=THREAD_LEVELS, default=None, metavar="LEVEL",
        help="single, funneled, serialized or multiple (funneled; multiple where ranks outnumber cores)")
    how("--tuned", default=None, metavar="FILE",
        help="what auto goes by, a table of bench.tune; none: its defaults (this machine's, where there is one)")
    how("--slowed-percent", type=percent, default=None, help=argparse.SUPPRESS)  # docs/calibration.md

    where("--format", choices=("table", "nccl-tests", "csv"), default="table", metavar="FORMAT",
          help="table, nccl-tests or csv (table)")
    where("--long", action="store_true", help="a table row for each algorithm and mode")
    where("-J", "--output_file", default=None, metavar="FILE", help="also write JSON as nccl-tests does")
    lean_option(where)
    output_options(where)
    where("--list", action="store_true", help="name every algorithm, and why one is not available")
    return p


UNTIMED = {"iters": "-n", "mode": "--mode", "sizes": "--sizes", "arrival_skew": "--arrival-skew", "beside": "--beside",
           "experts": "--experts", "output_file": "-J", "list": "--list", "in_place": "--in-place", "check": "-c",
           "max_time": "--max-time", "format": "--format", "long": "--long", "cudagraph": "-G", "warmup_iters": "-w",
           "stepfactor": "-f", "dispatch": "--dispatch", "tuned": "--tuned"}


def soak_options(p: Parser, options: argparse.Namespace, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a soak, in which None stands for all types, operations or sizes, or the end with a sentence."""
    all_of = ["minbytes", "maxbytes", "datatype", *(["op"] if options.collective.reduces else [])]
    p.set_defaults(**dict.fromkeys([*UNTIMED, *all_of]))
    asked = vars(p.parse_args(argv))
    if given := next((flag for name, flag in UNTIMED.items() if asked[name] is not None), None):
        p.error(f"--soak times nothing and draws what it launches: leave out {given}")
    vars(options).update({name: asked[name] for name in all_of})
    if options.maxbytes == 0:
        p.error("-e 0: a soak checks elements, and 0 B hold none")
    if options.minbytes and options.maxbytes and options.maxbytes < options.minbytes:
        p.error(f"the sizes begin at {options.minbytes} B, above their end at {options.maxbytes} B")
    if options.datatype and options.op and (reason := reason_against(DATATYPES[options.datatype], options.op)):
        p.error(reason)
    if launched_rank() is None:
        p.error(f"this is one process, and a collective needs ranks: mpirun -n 2 python -m {p.prog}")
    return options


def sizes_of(options: argparse.Namespace) -> list[int]:
    """The sizes that were asked for, of whole elements."""
    element_bytes = DATATYPES[options.datatype].size_bytes
    chosen = options.sizes or sweep.sizes(options.minbytes, options.maxbytes, options.stepfactor, element_bytes)
    return sorted({size // element_bytes * element_bytes for size in chosen})


def parse(command: str, collective: Collective, about: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = parser_for(command, collective, about)
    p.set_defaults(collective=collective, experts=None, lossy=None, **({} if collective.reduces else {"op": "none"}))
    options = p.parse_args(argv)
    if options.soak:
        return soak_options(p, options, argv)
    if collective.name == "alltoall":
        check_routed(p, options)
    if options.in_place and collective.no_place:
        p.error(f"--in-place: {collective.no_place}")
    if options.maxbytes < options.minbytes and not options.sizes:
        p.error(f"the sizes begin at {options.minbytes} B, above their end at {options.maxbytes} B")
    element_bytes = DATATYPES[options.datatype].size_bytes
    short = [size for size in options.sizes or [options.minbytes] if 0 < size < element_bytes]
    if short:
        p.error(f"{short[0]} B hold no {options.datatype}, which has {element_bytes} B")
    options.sizes = sizes_of(options)
    if options.arrival_skew and options.mode not in (None, "isolated"):
        p.error(f"--arrival-skew is of single calls: leave out --mode {options.mode}")
    options.mode = "isolated" if options.arrival_skew else options.mode
    options.arrival_skew = options.arrival_skew or [0.0]
    if options.beside and options.dispatch == "python":
        p.error("--beside is for the native loop: leave out --dispatch python")
    if options.cudagraph and options.dispatch == "python":
        p.error("-G launches from a graph, and --dispatch python call by call: choose one")
    reason = reason_against(DATATYPES[options.datatype], options.op) if collective.reduces else None
    if reason:
        p.error(reason)
    if launched_rank() is None and not options.list:
        p.error(f"this is one process, and a collective needs ranks: mpirun -n 2 python -m bench.{command}")
    return options
