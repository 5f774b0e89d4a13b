"""The routed all-to-all of a mixture of experts. Only `bench.layers.experts` imports it."""
