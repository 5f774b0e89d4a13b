"""All-reduce: ours beside the library's, from 16 KB to 32 MB. `mpirun -n 2 python -m bench.allreduce`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say
    from bench.harness.session import main

    main("allreduce", "all_reduce", "Times all-reduce, checked, size by size: ours beside the library's.")
