"""The column-parallel layers of a prefill, the all-gather of a rank's tokens and the matmul with all of them, one after
the other and chunk by chunk beside each other. `mpirun -n 2 python -m bench.allgather_gemm`

docs/overlap.md says what runs where.
"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say

from functools import partial

from bench.layers import fused, overlap

ABOUT = "Times all-gather + matmul, overlapped and one after the other: how much communication is left to see."

if __name__ == "__main__":
    started_s = time.monotonic()
    from bench.harness.session import start

    options = overlap.parse("allgather_gemm", ABOUT)
    start("allgather_gemm", options, partial(overlap.prepare, "allgather_gemm"), started_s, fused.MANNER)
