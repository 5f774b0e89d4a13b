"""What every benchmark shares: options, session, run, iterations, timing, checks, head, watchdog."""
