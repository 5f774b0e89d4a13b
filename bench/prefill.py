"""A chunk of a prompt through a whole model: two dependent all-reduces a layer, split by tensor
with our kernels and with the library's, by tensor and sequence, in a pipeline, and on one rank.
`mpirun -n 2 python -m bench.prefill`

Some of the layers are timed; the time of the step follows from them.
"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bench.harness.options import RunOptions, whole_number
from bench.harness.run import RunPolicy
from bench.layers import command
from bench.layers.command import LayerOptions
from bench.layers.prefill import prepare
from collectives.collective import DATATYPES
from collectives.layers.models import MODELS

ABOUT = ("Times a prefill step: split by tensor, with our kernels and the library's; by sequence; "
         "in a pipeline; and on one rank.")
MESSAGE_BYTES = 32 << 20  # of an all-reduce: 2,048 tokens of 8,192 elements of 16 bits
MAX_TIME_S = 110.0


def parse(argv: Sequence[str] | None = None) -> tuple[RunOptions, LayerOptions]:
    """The options, or the end of the process with status 2 and one sentence."""
    parser, add = command.parser_for("prefill", ABOUT)
    command.add_model(add, scaled=True)
    add("--tokens", type=lambda text: [whole_number(1, text, command.MOST_TOKENS)], default=None,
        metavar="N", help="tokens of the chunk (as many as make a message of 32M: for a 70B model "
        "2048 in 16 bits, 1024 in float)")
    add("--layers", type=partial(whole_number, 1, most=1000), default=4, metavar="N",
        help="timed layers, a multiple of the ranks (4)")
    command.add_wire(add)
    # The checked iteration warms up, and an iteration takes a quarter of a second.
    run_options, prefill = command.finish(parser, argv, MAX_TIME_S, warmup=0)
    model, element_bytes = MODELS[prefill.model], DATATYPES[prefill.datatype].size_bytes
    if model.layers % prefill.layers:
        parser.error(f"--layers {prefill.layers}: the {model.layers} layers of "
                     f"{prefill.model} are not a multiple of it")
    tokens = prefill.tokens or [MESSAGE_BYTES // (model.hidden * element_bytes)]
    return run_options, replace(prefill, tokens=tokens)


if __name__ == "__main__":
    started_s = time.monotonic()
    command.run(parse(), started_s, prepare, RunPolicy())
