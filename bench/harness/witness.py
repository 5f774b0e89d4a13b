"""Records which rank of a host died first, and cleans up when all of its ranks have exited.

`watchdog.start_witness` runs this file as a script. It imports nothing of the project, so it starts
in milliseconds. inotify gives the order of the deaths: a dying process closes its record before the
socket that tells MPICH's launcher, which then kills the other ranks within 2 ms.
"""

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import sys
from pathlib import Path

IN_CLOSE_WRITE = 8  # <sys/inotify.h>
LEFT_BEHIND_S = 2.0


def main(folder: Path, pids: dict[int, int]) -> None:
    libc = ctypes.CDLL(None)
    closings = libc.inotify_init1(0)
    libc.inotify_add_watch(closings, bytes(folder), IN_CLOSE_WRITE)
    alive: dict[int, int] = {}  # pidfd: rank
    for rank, pid in pids.items():
        try:
            alive[os.pidfd_open(pid)] = rank
        except ProcessLookupError:
            claim_for(folder, rank)
    while alive:
        patience_s = LEFT_BEHIND_S if len(alive) < len(pids) else None
        ready = select.select([closings, *alive], [], [], patience_s)[0]
        if closings in ready:
            for match in re.finditer(rb"rank-(\d+)\0", os.read(closings, 1 << 16)):
                claim_for(folder, int(match[1]))
        for fd, rank in list(alive.items()):
            if fd in ready:
                claim_for(folder, alive.pop(fd))  # it may have died before inotify was set up
            elif not ready and state_of(pids[rank]) == "T":  # the launcher would wait forever
                os.kill(pids[rank], signal.SIGKILL)
    clear_up(folder, [*pids.values()])


def claim_for(folder: Path, rank: int) -> None:
    """Record that this rank died first, unless it has finished, which removes its record."""
    if (folder / f"rank-{rank}").exists():
        claim(folder, rank, "ended without a word", by="witness", status=1)


def claim(folder: Path, rank: int, why: str, by: str, status: int) -> bool:
    """Write `ended`: `rank` ended the run. Return False if another process has written it first."""
    try:
        with (folder / "ended").open("x") as file:
            json.dump({"rank": rank, "why": why, "by": by, "status": status}, file)
    except OSError as error:  # on a full disk the file stays empty
        return not isinstance(error, FileExistsError)
    return True


def state_of(pid: int) -> str:
    """Return the state of a process's main thread, a letter as in proc(5); X if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "X"


def clear_up(folder: Path, pids: list[int]) -> None:
    """Remove our shared memory and unfinished files, and the records unless a run was cut off."""
    container = os.stat("/proc/self/ns/pid").st_ino
    leftovers = [*folder.parent.glob(f"{folder.stem}.*.part")]
    for pid in pids:
        leftovers += Path("/dev/shm").glob(f"wiretax-{container}-{pid}-*")
    if not (samples := folder.with_suffix(".samples")).is_symlink():  # to another user's files
        leftovers += samples.glob("*.part")
    run = folder.with_suffix(".jsonl")
    if not run.exists() or b'"kind":"end"' in b"".join(run.read_bytes().splitlines()[-1:]):
        leftovers += folder.glob("*")
    for path in leftovers:
        with contextlib.suppress(OSError):  # gone, or another user's
            path.unlink()
    with contextlib.suppress(OSError):  # gone, or it keeps the records
        folder.rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]), {int(rank): pid for rank, pid in json.loads(sys.argv[2]).items()})
