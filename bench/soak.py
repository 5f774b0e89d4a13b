"""Checks random launches for hours: `mpirun -n 2 python -m bench.soak --soak 10m`"""

from bench.features.soak_options import main

if __name__ == "__main__":
    main("soak")
