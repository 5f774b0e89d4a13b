"""Compares runs: launches, intervals, the gate, peers. It imports `tables` and the rooms below."""
