"""All-reduce beside the library's, 16 KB to 32 MB: `mpirun -n 2 python -m bench.allreduce`"""

from bench.sweep import main

if __name__ == "__main__":
    main(
        "allreduce",
        "all_reduce",
        "Times all-reduce at each size beside the library's, and checks the results.",
    )
