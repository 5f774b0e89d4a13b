"""Reduce-scatter beside the library's: `mpirun -n 2 python -m bench.reduce_scatter`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    from bench.features import FEATURES
    from bench.harness.command import main

    main("reduce_scatter", "reduce_scatter",
         "Times reduce-scatter, checked, size by size: ours beside the library's.", FEATURES)
