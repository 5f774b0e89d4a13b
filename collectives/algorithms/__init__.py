"""The algorithms of each collective. Every module of this folder lists its own in `ALGORITHMS`, by
collective: a new algorithm is a new module here and its kernel."""
