"""Reduce-scatter beside the library's: `mpirun -n 2 python -m bench.reduce_scatter`"""

from bench.sweep import main

if __name__ == "__main__":
    main(
        "reduce_scatter",
        "reduce_scatter",
        "Times reduce-scatter at each size beside the library's, and checks the results.",
    )
