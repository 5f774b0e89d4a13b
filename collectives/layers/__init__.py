"""Compute and communication together: fused kernels, overlapped matmuls, whole model steps.

Only bench/layers, the commands that use it, and tests import it.
"""
