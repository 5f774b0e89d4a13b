"""Reads logs of other benchmarks into runs. formats.py lists the parsers, a module each."""
