"""Reduce-scatter: ours beside the library's, from 16 KB to 32 MB. `mpirun -n 2 python -m bench.reduce_scatter`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say
    from bench.harness.session import main

    main("reduce_scatter", "reduce_scatter", "Times reduce-scatter, checked, size by size: ours beside the library's.")
