"""Compute and communication together: fused kernels, overlapped matmuls, whole model steps."""
