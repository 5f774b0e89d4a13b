"""The command line of every benchmark: nccl-tests' flags and letters, and ours; one sentence for what cannot be.

Bad input ends with status 2 before any rank waits for another, and rank 0 alone says why. Status 3: this machine cannot
run that. Status 1: a result was wrong or a rank was lost. Status 130: interrupted, what was measured is kept.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from collectives.algorithm import ALGORITHMS
from collectives.collective import DATATYPE_ALIASES, DATATYPES, REDOPS, reason_against
from collectives.communicator import THREAD_LEVELS, launched_rank

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

FINE, WRONG, USAGE, CANNOT, INTERRUPTED = 0, 1, 2, 3, 130  # exit status
LOST = WRONG  # a rank was
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MOST_BYTES = 1 << 30
MOST_S = 1_000_000
MOST_BESIDE = 1000  # warm-up or checked iterations of a block: a stop is looked for between blocks


class Parser(argparse.ArgumentParser):
    """Speaks once for all ranks, and complains in one line."""

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        if launched_rank() in (None, 0):
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        if launched_rank() in (None, 0):
            print(f"{self.prog}: {message}", file=sys.stderr, flush=True)
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
    names = [*known, *(aliases or {})]
    near = difflib.get_close_matches(text.lower(), names, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    raise argparse.ArgumentTypeError(f"unknown {kind} {text!r}: {hint}")


def whole(least: int, text: str, most: int = 1 << 31) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"{text} is above the most, {most}")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= MOST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, and at most {MOST_S}")
    return value


def datatype(text: str) -> str:
    return one_of("datatype", list(DATATYPES), text, DATATYPE_ALIASES)


def algorithm_names(text: str) -> list[str]:
    return list(dict.fromkeys(one_of("algorithm", list(ALGORITHMS), name) for name in text.split(",")))


def parser_for(command: str, about: str) -> Parser:
    """The parser of `python -m bench.<command>`."""
    p = Parser(
        prog=f"bench.{command}",
        usage=f"mpirun -n RANKS python -m bench.{command} [OPTION ...]",
        description=about,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=31),
        epilog=f"example:\n  mpirun -n 2 python -m bench.{command} -e 1M -d half --algorithm ring,library\n\n"
        "exit status:\n  0 fine; 1 a result was wrong or a rank was lost; 2 the command line;\n"
        "  3 this machine cannot run that; 130 interrupted, what was measured is kept",
    )
    what, how, where = (p.add_argument_group(title).add_argument for title in ("what", "how", "output"))
    count, few = partial(whole, 0), partial(whole, 0, most=MOST_BESIDE)

    what(
        "-b",
        "--minbytes",
        type=size_bytes,
        default=16 << 10,
        metavar="SIZE",
        help="smallest size, such as 4096, 16K or 1M (16K)",
    )
    what("-e", "--maxbytes", type=size_bytes, default=32 << 20, metavar="SIZE", help="largest size (32M)")
    what("-f", "--stepfactor", type=partial(whole, 2), default=2, metavar="N", help="sizes grow by this factor (2)")
    what(
        "-d",
        "--datatype",
        type=datatype,
        default="float32",
        metavar="TYPE",
        help="float, half, bfloat16, double, int32 or int64 (float)",
    )
    what(
        "-o",
        "--op",
        type=partial(one_of, "operation", REDOPS),
        default="sum",
        metavar="OP",
        help="sum, prod, min, max or avg (sum)",
    )
    what("--algorithm", type=algorithm_names, default=None, metavar="A,B", help="these only; --list names them (all)")
    what("--in-place", action="store_true", help="the result overwrites the send buffer")
    what(
        "--mode",
        choices=("isolated", "chained", "both"),
        default=None,
        metavar="MODE",
        help="isolated: one call at a time; chained: 160 dependent calls; both (isolated, and chained up to 512K)",
    )

    how(
        "-n",
        "--iters",
        type=count,
        default=0,
        metavar="N",
        help="timed iterations a case, in 12 blocks; 0: until precise or out of time (0)",
    )
    how(
        "-w",
        "--warmup_iters",
        type=few,
        default=None,
        metavar="N",
        help="warm-up iterations a block (as many as a changepoint test finds)",
    )
    how(
        "-c",
        "--check",
        type=few,
        default=1,
        metavar="N",
        help="iterations checked before and after each block; 0: none (1)",
    )
    how("-r", "--root", type=count, default=0, metavar="RANK", help="the root, where a collective has one (0)")
    how("-G", "--cudagraph", type=count, default=0, metavar="N", help="launch from a graph, GPUs only (0)")
    how(
        "-T",
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="S",
        help="seconds that a rank may stand still before the run is ended (30)",
    )
    how("--max-time", type=seconds, default=60.0, metavar="S", help="seconds for the whole command (60)")
    how("--seed", type=count, default=0, metavar="N", help="of data and order (0)")
    how(
        "--device",
        choices=("auto", "cuda", "hip", "cpu"),
        default="auto",
        metavar="DEVICE",
        help="auto, cuda, hip or cpu (auto)",
    )
    how(
        "--memory",
        choices=("auto", "mapped", "host_staged"),
        default="auto",
        metavar="WAY",
        help="how GPUs reach each other's memory: auto, mapped or host_staged (auto: what holds)",
    )
    how("--ranks-share-gpus", action="store_true", help="let ranks share a GPU: a test, not a measurement of a wire")
    how(
        "--dispatch",
        choices=("native", "python"),
        default="native",
        metavar="WHO",
        help="who calls the operation in the timed loop: native or python (native)",
    )
    how(
        "--mpi-thread-level",
        choices=THREAD_LEVELS,
        default=None,
        metavar="LEVEL",
        help="single, funneled, serialized or multiple (funneled; multiple where ranks outnumber cores)",
    )

    where(
        "--format",
        choices=("table", "nccl-tests", "csv"),
        default="table",
        metavar="FORMAT",
        help="table, nccl-tests or csv (table)",
    )
    where("--long", action="store_true", help="a table row for each algorithm and mode")
    where("-J", "--output_file", default=None, metavar="FILE", help="also write JSON as nccl-tests does")
    where("--out", default="results", metavar="DIR", help="folder that keeps the run (results)")
    where("--with-hostname", action="store_true", help="keep this host's name in the run")
    where("--list", action="store_true", help="name every algorithm, and why one is not available")
    return p


def parse(command: str, about: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = parser_for(command, about)
    options = p.parse_args(argv)
    if options.maxbytes < options.minbytes:
        p.error(f"the sizes begin at {options.minbytes} B, above their end at {options.maxbytes} B")
    element_bytes = DATATYPES[options.datatype].size_bytes
    if 0 < options.minbytes < element_bytes:
        p.error(f"{options.minbytes} B hold no {options.datatype}, which has {element_bytes} B")
    if options.cudagraph and options.dispatch == "python":
        p.error("-G launches from a graph, and --dispatch python call by call: choose one")
    reason = reason_against(DATATYPES[options.datatype], options.op)
    if reason:
        p.error(reason)
    if launched_rank() is None and not options.list:
        p.error(f"this is one process, and a collective needs ranks: mpirun -n 2 python -m bench.{command}")
    return options
