"""Send and receive: ours beside the library's, from 16 KB to 32 MB. `mpirun -n 2 python -m bench.sendrecv`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while imports go on there is nothing to keep, nor to say
    from bench.harness.session import main

    main("sendrecv", "sendrecv",
         "Times a message from a rank to the next, one way and there and back: ours beside the library's.")
