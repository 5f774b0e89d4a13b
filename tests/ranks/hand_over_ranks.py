"""Run by mpirun: rank 0 hands its descriptor to rank 1, whose process can open ROOM more files.

`hand_over_ranks.py ROOM` prints what each rank gets: "the same file", or the refusal.
"""

import os
import resource
import sys
from contextlib import suppress

from collectives.allreduce_multimem import _hand_over
from collectives.communicator import Communicator, Disagreement


def main(room: int) -> None:
    communicator = Communicator()
    descriptor = os.open(__file__, os.O_RDONLY) if communicator.rank == 0 else -1
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if communicator.rank == 1:
        held = [os.dup(0)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 99, limits[1]))
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for each in held[:room]:
            os.close(each)
    try:
        got = _hand_over(communicator, descriptor)
        text = (
            "the same file"
            if os.path.samestat(os.fstat(got), os.stat(__file__))
            else "another file"
        )
    except Disagreement as refusal:
        text = str(refusal)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)  # MPI needs some to finish
    texts = communicator.gather(text)
    if texts:
        print(*texts, sep="\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
