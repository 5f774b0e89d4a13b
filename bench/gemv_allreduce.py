"""GEMV + all-reduce, as in decoding, in one launch: `mpirun -n 2 python -m bench.gemv_allreduce`"""

from bench.features.contenders import Contenders
from bench.layers.layers_command import main

if __name__ == "__main__":
    main("gemv_allreduce", [Contenders])
