"""Describes this host, its GPUs and the placement of ranks. Only bench.harness, bench.campaigns and
bench.doctor import this folder; it imports nothing else of bench."""
