"""A collective on many ranks: its meaning, its algorithms, the peers' memory, the baseline.

`bench` imports it; it imports `kernels` and nothing above it.
"""
