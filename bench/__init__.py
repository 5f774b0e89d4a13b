"""The benchmarks, one module per command: `mpirun -n RANKS python -m bench.<collective>`."""

import os
import signal
import sys
import time

VERSION = "0.1.0"
STARTED_S = time.monotonic()

if sys.argv[0] == "-m":  # a command begins
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, there is nothing to keep
    from reports.interpreter import require_packages

    require_packages()

# numpy reads this when it is imported, which is later. A rank has one core: a second thread of
# BLAS would spin on the core of the rank's peer.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
