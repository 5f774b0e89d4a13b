"""A whole decode step: two dependent all-reduces a layer, split by tensor with our fused kernels
and with the library's all-reduce, in a pipeline, and on one rank.
`mpirun -n 2 python -m bench.decode`"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep

from collections.abc import Sequence

from bench.harness.options import RunOptions
from bench.harness.run import RunPolicy
from bench.layers import command
from bench.layers.command import LayerOptions
from bench.layers.decode import prepare

ABOUT = ("Times a whole decode step: split by tensor, with our kernels and the library's; in a "
         "pipeline; and on one rank.")
MOST_SLOTS = 8


def parse(argv: Sequence[str] | None = None) -> tuple[RunOptions, LayerOptions]:
    """The options, or the end of the process with status 2 and one sentence."""
    parser, add = command.parser_for("decode", ABOUT)
    command.add_model(add, scaled=True)
    command.add_counts(add, "--slots", MOST_SLOTS, "1,2", "chats at once, a token of each a step")
    command.add_wire(add, "half")
    command.add_weights(add)
    return command.finish(parser, argv, graph=None)


if __name__ == "__main__":
    started_s = time.monotonic()
    command.run(parse(), started_s, prepare, RunPolicy())
