"""Records which rank of a host died first, and cleans up when all of its ranks have exited.

`watchdog` runs this file as a script. It imports nothing of the project and starts in milliseconds.
MPICH's launcher kills the other ranks within 2 ms, but epoll returns the deaths in their order."""

import contextlib
import json
import os
import select
import shutil
import signal
import sys
from pathlib import Path

LEFT_BEHIND_S, SILENT = 2.0, "ended without a word"


def main(folder: Path, pids: dict[int, int]) -> None:
    deaths, alive = select.epoll(), dict[int, int]()  # {pidfd: rank}
    for rank, pid in pids.items():
        try:
            pidfd = os.pidfd_open(pid)
            deaths.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)
            alive[pidfd] = rank
        except ProcessLookupError:
            claim(folder, rank, SILENT, by="witness", status=1)
    while alive:
        dead = deaths.poll(LEFT_BEHIND_S if len(alive) < len(pids) else None)
        for pidfd, _ in dead:
            rank = alive.pop(pidfd)
            if (folder / f"rank-{rank}").exists():  # a rank that has finished removes its record
                claim(folder, rank, SILENT, by="witness", status=1)
        for rank in [] if dead else alive.values():
            if state_of(pids[rank]) == "T":  # the launcher would wait forever
                os.kill(pids[rank], signal.SIGKILL)
    clear_up(folder, [*pids.values()])


def claim(folder: Path, rank: int, why: str, by: str, status: int) -> bool:
    """Writes `ended`: `rank` ended the run. Returns False if another process has written it."""
    try:
        with (folder / "ended").open("x") as file:
            json.dump({"rank": rank, "why": why, "by": by, "status": status}, file)
    except OSError as error:  # on a full disk the file stays empty
        return not isinstance(error, FileExistsError)
    return True


def state_of(pid: int) -> str:
    """The state of a process's main thread, a letter as in proc(5); X if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return "X"


def clear_up(folder: Path, pids: list[int]) -> None:
    """Removes our shared memory and unfinished files, and the records unless a run was cut off."""
    container = os.stat("/proc/self/ns/pid").st_ino
    leftovers = [*folder.parent.glob(f"{folder.stem}.*.part")]
    for pid in pids:
        leftovers += Path("/dev/shm").glob(f"wiretax-{container}-{pid}-*")
    if not (samples := folder.with_suffix(".samples")).is_symlink():  # to another user's files
        leftovers += samples.glob("*.part")
    run = folder.with_suffix(".jsonl")
    if not run.exists() or b'"kind":"end"' in b"".join(run.read_bytes().splitlines()[-1:]):
        shutil.rmtree(folder, ignore_errors=True)
    for path in leftovers:
        with contextlib.suppress(OSError):  # gone, or another user's
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), {int(rank): pid for rank, pid in json.loads(sys.argv[2]).items()})
