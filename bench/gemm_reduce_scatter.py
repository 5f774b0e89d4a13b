"""A prefill's row-parallel layers, a matmul and the reduce-scatter of its result over the tokens,
one after the other and overlapped in chunks. `mpirun -n 2 python -m bench.gemm_reduce_scatter`

docs/overlap.md says which part runs where.
"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep

from bench.layers import command, overlap

ABOUT = ("Times matmul + reduce-scatter, overlapped and one after the other: how much of the "
         "communication the compute does not hide.")

if __name__ == "__main__":
    started_s = time.monotonic()
    command.run(overlap.parse("gemm_reduce_scatter", ABOUT), started_s, overlap.prepare)
