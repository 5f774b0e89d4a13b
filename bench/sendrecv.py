"""Send-receive beside the library's, 16 KB to 32 MB: `mpirun -n 2 python -m bench.sendrecv`"""

from bench.sweep import main

if __name__ == "__main__":
    main(
        "sendrecv",
        "sendrecv",
        "Times a message to the next rank, one way and there and back, beside the library's.",
    )
