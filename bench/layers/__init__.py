"""Benchmarks of compute and communication together, which their commands import."""
