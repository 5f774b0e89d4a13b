"""The benchmarks of fused and overlapped compute, of whole steps and of experts."""
