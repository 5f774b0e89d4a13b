"""What is timed, and how: `python -m bench.<collective>`, one module a command."""

import os

VERSION = "0.1.0"

# Read when numpy is imported, which is after this: a rank has one core, and a thread of BLAS's more would spin on its
# peer's.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
