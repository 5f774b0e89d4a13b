"""Mixture of experts: the routed all-to-all, and how tokens choose experts.

Only bench/layers/experts.py and tests import it.
"""
