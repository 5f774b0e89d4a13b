"""The part of nccl4py that Wiretax uses."""
