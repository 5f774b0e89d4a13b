"""The row-parallel layers of a prefill, a matmul and the reduce-scatter of its result over the tokens, one after the
other and chunk by chunk beside each other. `mpirun -n 2 python -m bench.gemm_reduce_scatter`

docs/overlap.md says what runs where.
"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say

from functools import partial

from bench.layers import fused, overlap

ABOUT = "Times matmul + reduce-scatter, overlapped and one after the other: how much communication is left to see."

if __name__ == "__main__":
    started_s = time.monotonic()
    from bench.harness.session import start

    options = overlap.parse("gemm_reduce_scatter", ABOUT)
    start("gemm_reduce_scatter", options, partial(overlap.prepare, "gemm_reduce_scatter"), started_s, fused.MANNER)
