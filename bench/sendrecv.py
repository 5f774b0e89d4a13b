"""Send-receive beside the library's, 16 KB to 32 MB: `mpirun -n 2 python -m bench.sendrecv`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    from bench.features import FEATURES
    from bench.harness.command import main

    main("sendrecv", "sendrecv",
         "Times a message to the next rank, one way and there and back: ours beside the library's.",
         FEATURES)
