"""The devices that compile and run kernels for `collectives` and `bench`: the CPU, or a GPU."""
