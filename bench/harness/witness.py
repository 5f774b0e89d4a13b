"""Waits for the ranks of one host to end, notes who ended first without having finished, and clears up behind them.

A rank that is still there some time after the others have left is killed: no run hangs for one that was stopped.

Run as a script by `watchdog.start_witness`: `witness.py FOLDER SEGMENT,... RANK:PID ...`. It imports nothing of the
project, so that it starts in milliseconds, sleeps until a rank ends, and ends when all have. A rank that came to its
own end has taken its record away.

The launcher kills the survivors some two milliseconds after a rank was killed, and the witness may wake later than
that. It need not be quick: inotify keeps the order in which the ranks' records were closed. That order is the ranks'
own: a dying process closes its files latest first, so its record before the socket by whose end the launcher knows,
and before it counts as ended; on a busy machine a survivor has overtaken the victim by then.
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

IN_CLOSE_WRITE = 8
ENDED_BYTES = 512
LEFT_BEHIND_S = 2.0  # a stopped rank was, once in some hundred runs, and mpirun waited for it


def main(folder: Path, segments: set[str], pids: dict[int, int]) -> None:
    os.close(os.pidfd_open(os.getpid()))  # where there are none it ends here: it could not tell who lives
    # A rank that the launcher has bound to a core hands its mask down; there the witness would wait for one that spins.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    libc = ctypes.CDLL(None)
    closings = libc.inotify_init1(os.O_NONBLOCK)
    libc.inotify_add_watch(closings, bytes(folder), IN_CLOSE_WRITE)
    ends = select.epoll()
    rank_of = dict[int, int]()
    for rank, pid in pids.items():
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            claim_for(folder, rank)
            continue
        segments |= shared_memory(pid)
        rank_of[fd] = rank
        ends.register(fd, select.EPOLLIN)
    while rank_of:
        # Once the run has ended all leave at one moment, and the launcher kills who does not: mostly. For a rank that
        # is stopped on its way out of a normal end it waits for ever.
        is_over, has_left = (folder / "ended").exists(), len(rank_of) < len(pids)
        found = ends.poll(LEFT_BEHIND_S if is_over or has_left else None)
        if not found:
            for fd, rank in rank_of.items():
                with contextlib.suppress(OSError):  # it ends just now
                    if is_over or state_of(pids[rank]) in "Tt":
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
        for fd, _ in found:
            ends.unregister(fd)
            for rank in [*closed(closings), rank_of.pop(fd)]:
                claim_for(folder, rank)
        for rank in rank_of.values():
            segments |= shared_memory(pids[rank])
    clear_up(folder, pids, segments)


def closed(closings: int) -> list[int]:
    """The ranks whose records have been closed since the last call, in order; `closings` is inotify's descriptor."""
    with contextlib.suppress(OSError):  # nothing was, or this user has no inotify left: then the ends' order has to do
        return [int(rank) for rank in re.findall(rb"rank-(\d+)\0", os.read(closings, 1 << 16))]
    return []


def claim(own: Path, rank: int, why: str, by: str, status: int, leave_s: float) -> bool:
    """Writes down who ended first, whole or not at all. False when somebody else has: then that was the first. `own` is
    a file of the caller's: what is there already, of `ENDED_BYTES`, can be written on a full disk too.

    Raises OSError where nothing can be written.
    """
    ended = json.dumps({"rank": rank, "why": why, "by": by, "status": status, "leave_s": leave_s})
    try:
        with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644), "wb") as file:
            file.write(ended.encode().ljust(ENDED_BYTES))
        os.link(own, own.with_name("ended"))
    except FileExistsError:
        return False
    finally:
        own.unlink(missing_ok=True)
    return True


def claim_for(folder: Path, rank: int) -> None:
    """Writes that this rank ended first, unless it finished or another was before it."""
    if (folder / f"rank-{rank}").exists():
        with contextlib.suppress(OSError):  # survivors that the launcher spares leave at once
            claim(folder / f"ended-of-{rank}", rank, "ended without a word", "witness", 1, leave_s=0)


def state_of(pid: int) -> str:
    """The state of a process, a letter as in proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def shared_memory(pid: int) -> set[str]:
    """The files in /dev/shm that a process maps: the MPI library's own, which it leaves behind when it is killed."""
    names = r" (/dev/shm/(?:mpich_|sm_segment\.)[\w.-]+)$"  # MPICH's, Open MPI's
    with contextlib.suppress(OSError):  # it ends just now, or shows nobody what it maps
        return set(re.findall(names, Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE))
    return set()


def clear_up(folder: Path, pids: dict[int, int], segments: set[str]) -> None:
    """Removes what nobody can use now that all have ended: shared memory, what of the run is half written, and records
    that no unfinished run needs."""
    jobs = {job for segment in segments if (job := segment.rpartition("_")[0]).startswith("/dev/shm/mpich_shm_")}
    seen = (*map(Path, segments), *(more for job in jobs for more in Path("/dev/shm").glob(f"{job[9:]}_*")))
    space, run = os.stat("/proc/self/ns/pid").st_ino, folder.with_suffix(".jsonl")
    named = (more for pid in pids.values() for more in Path("/dev/shm").glob(f"wiretax-{space}-{pid}-*"))
    claims = (folder / f"ended-{by}-{rank}" for rank in pids for by in ("by", "of", "at"))
    for left in (*seen, *named, *claims, *folder.parent.glob(f"{folder.stem}.*.part")):
        with contextlib.suppress(OSError):  # gone, or another user's of such a name
            left.unlink()
    with contextlib.suppress(OSError):  # there are none, or a stranger has put a link there
        samples = os.open(folder.with_suffix(".samples"), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        for name in os.listdir(samples):
            if name.endswith(".part"):
                os.unlink(name, dir_fd=samples)
    if run.exists() and b'"kind":"end"' not in run.read_bytes().splitlines()[-1]:
        return
    for name in (*(f"rank-{rank}" for rank in pids), "ended", "told"):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # gone already, or still in use by another host's ranks
        folder.rmdir()


if __name__ == "__main__":
    ranks = (item.split(":") for item in sys.argv[3:])
    main(Path(sys.argv[1]), set(filter(None, sys.argv[2].split(","))), {int(rank): int(pid) for rank, pid in ranks})
