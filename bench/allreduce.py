"""All-reduce: ours beside the library's, from 16 KB to 32 MB. `mpirun -n 2 python -m bench.allreduce`"""

from bench.run import main

if __name__ == "__main__":
    main("allreduce", "Times all-reduce: peer-to-peer kernels of ours beside the MPI library, checked, size by size.")
