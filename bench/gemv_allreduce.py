"""The row-parallel layers of a decode step, a matrix times a few tokens and the all-reduce after
it, in one launch and one after the other. `mpirun -n 2 python -m bench.gemv_allreduce`"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep

from collections.abc import Sequence

from bench.harness.options import RunOptions
from bench.layers import command
from bench.layers.command import LayerOptions
from bench.layers.fused import prepare_gemv
from collectives.layers.fused import FUSED

ABOUT = ("Times GEMV + all-reduce, fused and one after the other: how much of the communication "
         "the compute does not hide.")
MOST_CHATS = 8


def parse(argv: Sequence[str] | None = None) -> tuple[RunOptions, LayerOptions]:
    """The options, or the end of the process with status 2 and one sentence."""
    parser, add = command.parser_for("gemv_allreduce", ABOUT)
    command.add_model(add, scaled=True)
    command.add_counts(add, "--tokens", MOST_CHATS, "1", "chats at once, a token each")
    command.add_wire(add)
    command.add_weights(add)
    command.add_algorithms(add, FUSED["gemv_allreduce"])
    return command.finish(parser, argv)


if __name__ == "__main__":
    started_s = time.monotonic()
    command.run(parse(), started_s, prepare_gemv)
