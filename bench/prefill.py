"""A chunk of a prompt through a whole model: two dependent all-reduces a layer, split by tensor
with our kernels and with the library's, by tensor and sequence, in a pipeline, and on one rank.
`mpirun -n 2 python -m bench.prefill`

Some of the layers are timed; the time of the step follows from them.
"""

from bench.layers.command import main

if __name__ == "__main__":
    main("prefill")
