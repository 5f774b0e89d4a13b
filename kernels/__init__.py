"""Device code, and the devices that compile and run it. Knows nothing of ranks beyond numbers."""
