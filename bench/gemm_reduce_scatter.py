"""A prefill's row-parallel layers, a matmul and the reduce-scatter of its result over the tokens,
one after the other and overlapped in chunks. `mpirun -n 2 python -m bench.gemm_reduce_scatter`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    from bench.layers.command import main

    main("gemm_reduce_scatter")
