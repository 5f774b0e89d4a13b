"""Peers: all-reduces of other projects, a file each, timed beside ours where they are installed.

peer.py has the form that they share, torch_gpu.py serves those that work on tensors of torch. Only
bench/features/peers.py imports this folder: without both, everything else works."""

NAMES = ("vllm", "mscclpp", "flashinfer")  # the files, and the names on the command line
