"""The row-parallel layers of a decode step, a matrix times a few tokens and the all-reduce after it, in one launch and
one after the other. `mpirun -n 2 python -m bench.gemv_allreduce`"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say

from argparse import Namespace
from collections.abc import Sequence

from bench.layers import fused
from collectives.layers.fused import FUSED

ABOUT = "Times GEMV + all-reduce, fused and one after the other: how much communication is left to see."


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, or the end of the process with status 2 and one sentence."""
    p = fused.parser("gemv_allreduce", ABOUT)
    what = p.add_argument_group("what").add_argument
    fused.model_options(what, scaled=True)
    fused.counts_option(what, fused.MOST_BATCH, "1", "chats at once, a token each")
    fused.wire_option(what)
    fused.weights_option(what)
    fused.algorithms_option(what, FUSED["gemv_allreduce"])
    return fused.finish(p, "gemv_allreduce", argv)


if __name__ == "__main__":
    started_s = time.monotonic()
    from bench.harness.session import start

    start("gemv_allreduce", parse(), fused.prepare_gemv, started_s, fused.MANNER)
