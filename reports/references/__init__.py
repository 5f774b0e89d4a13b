"""Published figures with their sources, and their look-up. It imports `store`."""
