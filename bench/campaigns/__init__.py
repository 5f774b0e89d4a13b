"""Interleaved launches of several variants, pair by pair. Imported by `bench.campaign` alone."""
