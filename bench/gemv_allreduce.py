"""The row-parallel layers of a decode step, a matrix times a few tokens and the all-reduce after
it, in one launch and one after the other. `mpirun -n 2 python -m bench.gemv_allreduce`"""

from bench.layers.command import main

if __name__ == "__main__":
    main("gemv_allreduce")
