"""The part of vLLM that Wiretax calls."""
