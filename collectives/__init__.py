"""One collective on many ranks: who maps whose memory, which kernel, which library."""
