"""Checks random launches for hours: `mpirun -n 2 python -m bench.soak --soak 10m`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    from bench.features.soak_options import main

    main("soak")
