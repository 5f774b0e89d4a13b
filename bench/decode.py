"""A whole decode step: split by tensor with our kernels and the library's, and in a pipeline.
`mpirun -n 2 python -m bench.decode`"""

from bench.layers.layers_command import main

if __name__ == "__main__":
    main("decode")
