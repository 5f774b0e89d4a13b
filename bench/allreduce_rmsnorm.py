"""All-reduce, residual and RMSNorm in one launch, and one after the other.
`mpirun -n 2 python -m bench.allreduce_rmsnorm`"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bench.harness.options import MOST_BYTES, RunOptions, name_among, whole_number
from bench.layers import command
from bench.layers.command import LayerOptions
from bench.layers.fused import prepare_norm
from collectives.collective import DATATYPES
from collectives.layers.fused import FUSED, OUTPUTS, UNIT_CODES
from collectives.layers.models import MODELS

ABOUT = ("Times all-reduce + residual + RMSNorm, fused and one after the other: how much of the "
         "communication the compute does not hide.")


def parse(argv: Sequence[str] | None = None) -> tuple[RunOptions, LayerOptions]:
    """The options, or the end of the process with status 2 and one sentence."""
    parser, add = command.parser_for("allreduce_rmsnorm", ABOUT)
    command.add_model(add, scaled=False)
    add("--hidden", type=partial(whole_number, 1, most=1 << 20), default=None, metavar="N",
        help="elements of a token (the model's)")
    command.add_counts(add, "--tokens", command.MOST_TOKENS, "1,16,256,2048", "at once")
    command.add_wire(add)
    add("--output", type=partial(name_among, "output", list(OUTPUTS)), default=None,
        metavar="TYPE", help="also write the norm as int8 or fp8 codes, with a scale a token "
        "(neither)")
    command.add_algorithms(add, FUSED["allreduce_rmsnorm"])
    run_options, norm = command.finish(parser, argv)
    norm = (replace(norm, model="") if norm.hidden
            else replace(norm, hidden=MODELS[norm.model].hidden))
    if norm.output and norm.hidden % UNIT_CODES:
        parser.error(f"--output quantises {UNIT_CODES} elements at a time, which do not divide "
                     f"{norm.hidden}")
    size = max(norm.tokens) * norm.hidden * DATATYPES[norm.datatype].size_bytes
    if size > MOST_BYTES // 2:
        parser.error(f"{max(norm.tokens)} tokens of {norm.hidden} elements are {size} B, above "
                     f"{MOST_BYTES >> 21}M")
    return run_options, norm


if __name__ == "__main__":
    started_s = time.monotonic()
    command.run(parse(), started_s, prepare_norm)
