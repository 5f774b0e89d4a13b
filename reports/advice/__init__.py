"""Serving arithmetic: advise and procure. It imports `trends` and the rooms below."""
