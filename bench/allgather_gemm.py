"""A prefill's column-parallel layers, the all-gather of the tokens and the matmul with all of them,
one after the other and overlapped in chunks. `mpirun -n 2 python -m bench.allgather_gemm`"""

from bench.layers.command import main

if __name__ == "__main__":
    main("allgather_gemm")
