"""Runs on disk: their schema, reading, writing and order. Every other room may import it; it
imports none."""
