"""All-reduce: ours beside the library's, from 16 KB to 32 MB. `mpirun -n 2 python -m bench.allreduce`"""

from bench.run import main

if __name__ == "__main__":
    main("allreduce", "Times all-reduce, checked, size by size: our kernels beside the MPI library.")
