"""Waits for the ranks of one host to end, and writes down who ended first without having finished.

Run as a script by `flight.start_witness`: `witness.py FOLDER RANK:PID ...`. It imports nothing of the project, so that it starts
in milliseconds, sleeps until a rank ends, and ends when all have. A rank's record that says `finished`, or is gone, was a
normal end.
"""

import json
import os
import select
import sys
from pathlib import Path


def main(folder: Path, pids: dict[int, int]) -> None:
    poll = select.poll()
    rank_of = {}
    for rank, pid in pids.items():
        try:
            fd = os.pidfd_open(pid)
        except OSError:  # ended before it could be watched, or a kernel without pidfds: nothing to witness
            continue
        rank_of[fd] = rank
        poll.register(fd, select.POLLIN)
    while rank_of:
        for fd, _ in poll.poll():
            rank = rank_of.pop(fd)
            poll.unregister(fd)
            try:
                record = json.loads((folder / f"rank-{rank}").read_bytes()[:2048].rstrip(b"\0"))
                if record["step"] == "finished":
                    continue
                ended = os.open(folder / "ended", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except (OSError, ValueError):
                continue
            with os.fdopen(ended, "w") as file:
                json.dump({"rank": rank, "why": "ended without a word", "by": "witness"}, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), {int(rank): int(pid) for rank, pid in (item.split(":") for item in sys.argv[2:])})
