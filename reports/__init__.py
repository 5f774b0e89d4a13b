"""Reads stored runs and shows them: tables, pictures, and the statistics beneath. Runs nothing."""
