"""Shared by every benchmark: options, session, run, iterations, timing, checks, head, watchdog.

Commands, `layers`, `features` and `campaigns` import this folder; it imports `machine` alone."""
