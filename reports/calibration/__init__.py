"""Synthetic runs, and the check of every rate that the verdicts promise.

It imports `trends` and the rooms below.
"""
