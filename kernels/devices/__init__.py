"""The devices that compile and run kernels: the host's CPU, and a GPU through CuPy.

`collectives` and `bench` import this folder; it imports neither of them.
"""
