"""A chunk of a prompt through a model's layers: split by tensor with our kernels and the library's,
with sequence parallelism, and in a pipeline. `mpirun -n 2 python -m bench.prefill`"""

from bench.layers.layers_command import main

if __name__ == "__main__":
    main("prefill")
