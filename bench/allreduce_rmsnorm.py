"""All-reduce + RMSNorm in one launch: `mpirun -n 2 python -m bench.allreduce_rmsnorm`"""

from bench.features.contenders import Contenders
from bench.layers.layers_command import main

if __name__ == "__main__":
    main("allreduce_rmsnorm", [Contenders])
