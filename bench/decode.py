"""A whole decode step: two dependent all-reduces a layer, split by tensor with our fused kernels
and with the library's all-reduce, in a pipeline, and on one rank.
`mpirun -n 2 python -m bench.decode`"""

from bench.layers.command import main

if __name__ == "__main__":
    main("decode")
