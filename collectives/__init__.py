"""Collectives: their meaning, algorithms, peers' memory and baseline; `bench` imports them."""
