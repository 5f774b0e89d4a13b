"""All-reduce, residual and RMSNorm in one launch, and one after the other.
`mpirun -n 2 python -m bench.allreduce_rmsnorm`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    from bench.layers.command import main

    main("allreduce_rmsnorm")
