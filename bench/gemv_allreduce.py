"""The row-parallel layers of a decode step, a matrix times a few tokens and the all-reduce after
it, in one launch and one after the other. `mpirun -n 2 python -m bench.gemv_allreduce`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    from bench.layers.command import main

    main("gemv_allreduce")
