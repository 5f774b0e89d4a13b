"""What bench.tune does: a search for the best builds, an audit of `auto`, rows for its tables."""
