"""A prefill's row-parallel layers, a matmul and the reduce-scatter of its result over the tokens,
one after the other and overlapped in chunks. `mpirun -n 2 python -m bench.gemm_reduce_scatter`"""

from bench.layers.command import main

if __name__ == "__main__":
    main("gemm_reduce_scatter")
