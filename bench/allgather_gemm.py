"""A prefill's column-parallel layers, the all-gather of the tokens and the matmul with all of them,
one after the other and overlapped in chunks. `mpirun -n 2 python -m bench.allgather_gemm`

docs/overlap.md says which part runs where.
"""

import signal
import time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep

from bench.layers import command, overlap

ABOUT = ("Times all-gather + matmul, overlapped and one after the other: how much of the "
         "communication the compute does not hide.")

if __name__ == "__main__":
    started_s = time.monotonic()
    command.run(overlap.parse("allgather_gemm", ABOUT), started_s, overlap.prepare)
