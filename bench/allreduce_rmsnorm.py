"""All-reduce, residual and RMSNorm in one launch, beside the same one after the other.
`mpirun -n 2 python -m bench.allreduce_rmsnorm`"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say

from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from bench.harness import options as cli
from bench.harness.options import MOST_BYTES
from bench.layers import fused
from collectives.collective import DATATYPES
from collectives.layers.fused import CODES_AT_ONCE, FUSED, OUTPUTS
from collectives.layers.models import MODELS

ABOUT = "Times all-reduce + residual + RMSNorm, fused and one after the other: how much communication is left to see."


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = fused.parser("allreduce_rmsnorm", ABOUT)
    what = p.add_argument_group("what").add_argument
    fused.model_options(what, scaled=False)
    what("--hidden", type=partial(cli.whole, 1, most=1 << 20), default=None, metavar="N",
         help="elements of a token (the model's)")
    fused.counts_option(what, fused.MOST_TOKENS, "1,16,256,2048", "at once")
    fused.wire_option(what)
    what("--output", type=partial(cli.one_of, "output", list(OUTPUTS)), default=None, metavar="TYPE",
         help="writes what is normed as int8 or fp8 codes too, with a scale a token (neither)")
    fused.algorithms_option(what, FUSED["allreduce_rmsnorm"])
    options = fused.finish(p, "allreduce_rmsnorm", argv)
    if options.hidden:
        options.model = None
    options.hidden = options.hidden or MODELS[options.model].hidden
    if options.output and options.hidden % CODES_AT_ONCE:
        p.error(f"--output is of {CODES_AT_ONCE} elements at a time, which do not divide {options.hidden}")
    size = max(options.tokens) * options.hidden * DATATYPES[options.datatype].size_bytes
    if size > MOST_BYTES // 2:
        p.error(f"{max(options.tokens)} tokens of {options.hidden} elements are {size} B, above {MOST_BYTES >> 21}M")
    return options


if __name__ == "__main__":
    started_s = time.monotonic()
    from bench.harness.session import start

    start("allreduce_rmsnorm", parse(), fused.prepare_norm, started_s, fused.MANNER)
