"""Runs on disk: their schema, reading, writing and order. Every other room imports it; it imports none."""
