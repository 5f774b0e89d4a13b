"""A whole decode step: two dependent all-reduces a layer, split by tensor with our fused kernels
and with the library's all-reduce, in a pipeline, and on one rank.
`mpirun -n 2 python -m bench.decode`"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C has nothing to keep
    from bench.layers.command import main

    main("decode")
