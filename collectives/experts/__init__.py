"""Mixture of experts: the routed all-to-all, and how tokens choose experts."""
