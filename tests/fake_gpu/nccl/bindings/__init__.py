"""Of nccl4py, what is asked for here."""
