"""Reads logs of other benchmarks into runs. It imports `store`."""
