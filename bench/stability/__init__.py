"""Whether the same input gives the same bits: inputs, the order of a sum, what changes a result."""
