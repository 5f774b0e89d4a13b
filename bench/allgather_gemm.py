"""A prefill's column-parallel layers, the all-gather of the tokens and the matmul with all of them,
one after the other and overlapped in chunks. `mpirun -n 2 python -m bench.allgather_gemm`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    from bench.layers.command import main

    main("allgather_gemm")
