"""The devices that compile and run kernels: a host CPU, and a GPU through CuPy. Imports nothing of ours above it."""
