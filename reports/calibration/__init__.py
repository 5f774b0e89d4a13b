"""Synthetic runs, and the check of every rate that the verdicts promise."""
