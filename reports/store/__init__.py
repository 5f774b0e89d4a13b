"""Runs on disk: schema, reading and writing. Every other room may import it; it imports none."""
