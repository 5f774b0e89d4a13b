"""Generators of runs and the verdicts' check of themselves. It imports `trends` and the rooms below."""
