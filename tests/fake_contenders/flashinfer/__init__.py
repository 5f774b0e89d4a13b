"""The part of FlashInfer that Wiretax calls."""
