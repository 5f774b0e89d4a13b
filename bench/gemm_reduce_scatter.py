"""Matmul + reduce-scatter, overlapped: `mpirun -n 2 python -m bench.gemm_reduce_scatter`"""

from bench.layers.layers_command import main

if __name__ == "__main__":
    main("gemm_reduce_scatter")
