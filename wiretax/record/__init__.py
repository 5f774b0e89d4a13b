"""Runs on disk: what a run stores, reading and writing it, and the statistics of one run. Every
room imports it; it imports none."""
