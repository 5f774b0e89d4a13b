"""Compares runs: launches, intervals, the gate, libraries. It imports `tables` and the rooms
below."""
