"""All-gather beside the library's, 16 KB to 32 MB: `mpirun -n 2 python -m bench.allgather`"""

from bench.sweep import main

if __name__ == "__main__":
    main(
        "allgather",
        "all_gather",
        "Times all-gather at each size beside the library's, and checks the results.",
    )
