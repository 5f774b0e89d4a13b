"""The part of mscclpp that Wiretax calls; the library has NCCL's interface and sums through the
software GPU."""

import os


def get_lib() -> str:
    return os.environ["FAKE_MSCCLPP"]
