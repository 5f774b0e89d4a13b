"""All-gather + matmul, as in a prefill, overlapped: `mpirun -n 2 python -m bench.allgather_gemm`"""

from bench.layers.layers_command import main

if __name__ == "__main__":
    main("allgather_gemm")
