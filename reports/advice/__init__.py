"""Serving arithmetic: advise, predict and procure. It imports `trends` and the rooms below."""
