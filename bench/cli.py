"""The command line of every benchmark: nccl-tests' flags and letters, and ours; one sentence for what cannot be.

Bad input ends with status 2 before any rank waits for another, and rank 0 alone says why. Status 3: this machine cannot run
that. Status 1: a result was wrong or a rank was lost. Status 130: interrupted, what was measured is kept.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from collectives.algorithm import algorithms
from collectives.collective import DATATYPE_ALIASES, DATATYPES, REDOPS, reason_against
from collectives.communicator import THREAD_LEVELS, launched_rank

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MOST_BYTES = 1 << 30


class Parser(argparse.ArgumentParser):
    """Complains in one line, once for all ranks."""

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


def whole(least: int, text: str) -> int:
    if not re.fullmatch(r"-?\d+", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def algorithm_names(text: str) -> list[str]:
    return list(dict.fromkeys(one_of("algorithm", list(algorithms()), name) for name in text.split(",")))


def parser_for(command: str, about: str) -> Parser:
    """The parser of `python -m bench.<command>`."""
    p = Parser(
        prog=f"bench.{command}", description=about, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  mpirun -n 2 python -m bench.{command} -b 16K -e 1M -d half --algorithm two_shot,library\n\n"
        "exit status: 0 fine, 1 a result was wrong or a rank was lost, 2 the command line, 3 this machine cannot run that,\n"
        "130 interrupted",
    )
    what, how, where = p.add_argument_group("what"), p.add_argument_group("how"), p.add_argument_group("output")
    what.add_argument("-b", "--minbytes", type=size_bytes, default=16 << 10, metavar="SIZE", help="smallest size (16K)")
    what.add_argument("-e", "--maxbytes", type=size_bytes, default=32 << 20, metavar="SIZE", help="largest size (32M)")
    what.add_argument("-f", "--stepfactor", type=lambda t: whole(-(1 << 62), t), default=2, metavar="N", help="sizes grow by this factor (2)")
    what.add_argument("-d", "--datatype", type=lambda t: one_of("datatype", list(DATATYPES), t, DATATYPE_ALIASES), default="float32",
                      metavar="TYPE", help="float, half, bfloat16, double, int32 or int64 (float)")
    what.add_argument("-o", "--op", type=lambda t: one_of("operation", REDOPS, t), default="sum", metavar="OP",
                      help="sum, prod, min, max or avg (sum)")
    what.add_argument("--algorithm", type=algorithm_names, default=None, metavar="A,B", help="these only (all and the library)")
    what.add_argument("--in-place", action="store_true", help="the result overwrites the send buffer")
    what.add_argument("--mode", choices=("isolated", "chained", "both"), default=None,
                      help="one call at a time, 160 dependent ones, or both (isolated, and chained up to 512K)")
    how.add_argument("-n", "--iters", type=lambda t: whole(0, t), default=0, metavar="N", help="timed iterations a case; 0: until precise (0)")
    how.add_argument("-w", "--warmup_iters", type=lambda t: whole(0, t), default=None, metavar="N",
                     help="warm-up iterations a block (a changepoint test says)")
    how.add_argument("-c", "--check", type=lambda t: whole(0, t), default=1, metavar="N", help="iterations checked before and after each block; 0: none (1)")
    how.add_argument("-r", "--root", type=lambda t: whole(0, t), default=0, metavar="RANK", help="the root, where a collective has one (0)")
    how.add_argument("-G", "--cudagraph", type=lambda t: whole(0, t), default=0, metavar="N", help="launch from a graph, GPUs only (0)")
    how.add_argument("-T", "--timeout", type=seconds, default=30.0, metavar="S", help="a rank that stands still for so long ends the run (30)")
    how.add_argument("--max-time", type=seconds, default=60.0, metavar="S", help="seconds for the whole command (60)")
    how.add_argument("--seed", type=lambda t: whole(0, t), default=0, metavar="N", help="of data and order (0)")
    how.add_argument("--device", choices=("auto", "cuda", "hip", "cpu"), default="auto", help="where it runs (auto)")
    how.add_argument("--dispatch", choices=("native", "python"), default="native", help="who calls the operation in the timed loop (native)")
    how.add_argument("--mpi-thread-level", choices=THREAD_LEVELS, default=None,
                     help="asked of MPI (funneled, or multiple where ranks outnumber cores: MPICH's best)")
    where.add_argument("--format", choices=("table", "nccl-tests", "csv"), default="table", help="of what is printed (table)")
    where.add_argument("--long", action="store_true", help="a row for each algorithm and mode")
    where.add_argument("-J", "--output_file", default=None, metavar="FILE", help="also write JSON as nccl-tests does")
    where.add_argument("--out", default="results", metavar="DIR", help="folder that keeps the run (results)")
    where.add_argument("--with-hostname", action="store_true", help="keep this host's name in the run")
    where.add_argument("--list", action="store_true", help="every algorithm, and why one is not available here")
    return p


def parse(command: str, about: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = parser_for(command, about)
    options = p.parse_args(argv)
    if options.maxbytes < options.minbytes:
        p.error(f"the sizes begin at {options.minbytes} B, above their end at {options.maxbytes} B")
    if options.stepfactor <= 1:
        p.error(f"the step factor is {options.stepfactor}: sizes only grow by 2 or more")
    element_bytes = DATATYPES[options.datatype].size_bytes
    if options.maxbytes and options.maxbytes < element_bytes:
        p.error(f"{options.maxbytes} B hold no {options.datatype}, which has {element_bytes} B")
    reason = reason_against(DATATYPES[options.datatype], options.op)
    if reason:
        p.error(reason)
    if launched_rank() is None and not options.list:
        p.error(f"this is one process, and a collective needs ranks: mpirun -n 2 python -m bench.{command}")
    return options
