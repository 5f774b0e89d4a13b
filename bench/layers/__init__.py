"""The benchmarks of compute and communication together: the fused kernels, the overlapped matmuls,
whole decode and prefill steps, and the routed all-to-all. Only their commands import it."""
