"""The benchmarks, one module per command: `mpirun -n RANKS python -m bench.<collective>`."""

import os

VERSION = "0.1.0"

# numpy reads this when it is imported, which is later. A rank has one core: a second thread of
# BLAS would spin on the core of the rank's peer.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
