"""All-to-all: ours beside the library's, from 16 KB to 32 MB. `mpirun -n 2 python -m bench.alltoall`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say
    from bench.harness.session import main

    main("alltoall", "alltoall", "Times all-to-all, checked, size by size: ours beside the library's.")
