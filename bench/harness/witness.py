"""Records which rank of a host was killed together with its guard, and cleans up when all of its
ranks have exited.

`guard` runs this file as a script. It imports nothing of the project, to start in tens of
milliseconds."""

import json
import os
import select
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

LEFT_BEHIND_S, SILENT = 2.0, "ended without a word"
LAUNCHERS = {"mpirun", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy", "prterun", "prte", "prted"}
REMOTE_SHELLS = {"ssh", "rsh"}  # by which a launcher reaches other hosts
UNREACHABLE = "could not be reached"  # the words for a host behind a cut link
# How long a launcher may take to end by itself with our status, and over a cut link.
LAUNCHER_ENDS_S, CUT_OFF_S, LAUNCHER_OBEYS_S = 4.0, 0.5, 0.3
OTHERS_LOOK_S = 2.0  # in which other hosts read `ended`, before `clear_up` takes it away


def main(folder: Path, pids: dict[int, int], host: str) -> None:
    """Sees a run to its end on this host. `host`: its name in a run on several hosts, or empty."""
    launchers = list[psutil.Process]()  # of this host's ranks, in which they run
    if host:
        for pid in pids.values():
            with suppress(psutil.Error):  # it has gone
                above = psutil.Process(pid).parents()
                launchers += [each for each in above if each.name() in LAUNCHERS]
    watch(folder, pids, host)
    if launchers and (folder / "ended").exists():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a launcher waits for its ranks' pipes
        is_cut_off = UNREACHABLE in (folder / "ended").read_text()
        patience_s = CUT_OFF_S if is_cut_off else LAUNCHER_ENDS_S
        # Those that outlive the ranks by this time end, and their remote shells: over a cut link
        # they would wait for minutes.
        for number in signal.SIGTERM, signal.SIGKILL:
            _, launchers = psutil.wait_procs(launchers, patience_s)
            patience_s = LAUNCHER_OBEYS_S
            for launcher in launchers:
                with suppress(psutil.Error):
                    shells = [each for each in launcher.children() if each.name() in REMOTE_SHELLS]
                    for process in [*shells, launcher]:
                        process.send_signal(number)
    if host and (folder / "ended").exists() and not folder.with_suffix(".jsonl").exists():
        time.sleep(OTHERS_LOOK_S)
    clear_up(folder)


def watch(folder: Path, pids: dict[int, int], host: str) -> None:
    """Waits for the ends of the guards of this host's ranks, which outlive them, and records the
    first one that could not do so itself."""
    deaths, alive = select.epoll(), dict[int, int]()  # {pidfd: rank}
    guards = dict[int, int]()
    for rank, pid in pids.items():
        try:
            # A rank whose guard has gone before belongs to process 1, which never ends.
            parent = psutil.Process(pid).ppid()
            guards[rank] = parent if parent > 1 else pid
            pidfd = os.pidfd_open(guards[rank])
            deaths.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)
            alive[pidfd] = rank
        except (psutil.Error, ProcessLookupError):
            record_end(folder, rank, SILENT)
    while alive:
        dead = deaths.poll(LEFT_BEHIND_S if len(alive) < len(pids) else None)
        for rank in [alive.pop(pidfd) for pidfd, _ in dead]:
            # A rank that has finished removes its record.
            has_record = (folder / f"rank-{rank}").exists()
            if has_record and record_end(folder, rank, SILENT):
                name = f"rank {rank} on {host}" if host else f"rank {rank}"
                with suppress(OSError):  # the launcher has gone
                    print(f"wiretax: {name} {SILENT}", file=sys.stderr)
        if dead:
            continue
        for rank in alive.values():
            for pid in guards[rank], pids[rank]:
                if state_of(pid) == psutil.STATUS_STOPPED:  # the launcher would wait forever
                    os.kill(pid, signal.SIGKILL)


def record_end(folder: Path, rank: int, why: str, by: int | None = None, status: int = 1) -> bool:
    """Writes that `rank` ended the run into `ended`. Returns False if another process has. `by`:
    the rank that says so, if it is one."""
    try:
        with (folder / "ended").open("x") as file:
            json.dump({"rank": rank, "why": why, "by": by, "status": status}, file)
    except OSError as error:  # on a full disk the file stays empty
        return not isinstance(error, FileExistsError)
    return True


def state_of(pid: int) -> str | None:
    """The state of a process, as psutil names it; None if it is gone."""
    with suppress(psutil.Error):
        return psutil.Process(pid).status()
    return None


def clear_up(folder: Path) -> None:
    """Removes unfinished files, and the records unless a run was cut off."""
    run = folder.with_suffix(".jsonl")
    if not run.is_file() or b'"kind":"end"' in b"".join(run.read_bytes().splitlines()[-1:]):
        shutil.rmtree(folder, ignore_errors=True)
    for path in folder.parent.glob(f"{folder.stem}.*.part"):
        with suppress(OSError):  # gone, or another user's
            path.unlink()


if __name__ == "__main__":
    with suppress(OSError):  # a kernel before 5.3 has no pidfds
        main(
            Path(sys.argv[1]),
            {int(rank): pid for rank, pid in json.loads(sys.argv[2]).items()},
            sys.argv[3],
        )
