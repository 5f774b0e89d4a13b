"""The benchmarks, one module per command: `mpirun -n RANKS python -m bench.<collective>`."""

import os
import signal
import sys
import time
from typing import Any, NoReturn

STARTED_S = time.monotonic()


def end_interrupted(*_: Any) -> NoReturn:
    """Ends a process that has nothing to keep yet; a rank that a signal ends would make mpirun's
    status that signal's number."""
    os._exit(130)


if sys.argv[0] == "-m":  # a command begins
    signal.signal(signal.SIGINT, end_interrupted)
    from wiretax.common.interpreter import require_packages

    require_packages()

# numpy reads this when it is imported, which is later. A rank has one core: a second thread of
# BLAS would spin on the core of the rank's peer.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
