"""All-gather beside the library's, 16 KB to 32 MB: `mpirun -n 2 python -m bench.allgather`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    from bench.features import FEATURES
    from bench.harness.command import main

    main("allgather", "all_gather",
         "Times all-gather, checked, size by size: ours beside the library's.", FEATURES)
