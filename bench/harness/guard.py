"""Keeps the process that the launcher has started, and runs the rank in a child of it.

Any code in a rank can end it: a library calls exit(0), a kernel crashes. No launcher takes status 0
for a fault, and one that sees a rank die kills the others before they have spoken. The guard sees
how its rank has ended, names it, and exits with the status of the run."""

import contextlib
import ctypes
import json
import mmap
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.harness.console import WRONG, say
from bench.harness.watchdog import sentence_on
from bench.harness.witness import record_end
from collectives.communicator import LAUNCHER, launched_rank
from reports.store.result import read_flight

PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent ends
PASSED_ON = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
TOLD_BYTES = 2 * mmap.PAGESIZE  # a path has a page at most
LAUNCHER_S = 0.4  # by then the other ranks have exited
PEER_S = 0.2  # by then the guard of a rank that was lost before has spoken


def start_rank() -> mmap.mmap:
    """Returns in a child, which is the rank from now on, what `tell` needs. It goes before any
    thread. Raises OSError."""
    told, guard = mmap.mmap(-1, TOLD_BYTES), os.getpid()
    libc, rank = ctypes.CDLL(None), os.fork()
    if rank == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(WRONG)
        return told

    def pass_on(number: int, _: Any) -> None:
        # SIGHUP means that the launcher has gone: a terminal sends its own to the rank too.
        if number != signal.SIGHUP or os.getppid() != LAUNCHER:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    code = os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1])
    os._exit(status_of(code, told[:].rstrip(b"\0")))


def tell(told: mmap.mmap, folder: Path, rank: int, host: str) -> None:
    """Tells the guard where this rank's flight record is; `host` only where there are several."""
    told.write(json.dumps([str(folder), rank, host]).encode())


def status_of(code: int, told: bytes) -> int:
    """The exit status for the launcher, from that of the rank, or minus its signal. Says how a rank
    ended whose flight record is still there, unless a watchdog or another guard has spoken."""
    why = f"exited with status {code}"
    if code < 0:
        why = f"was ended by signal {-code}, {signal.strsignal(-code)}"
    name, rank, host = json.loads(told or f'["", {launched_rank() or 0}, ""]')
    folder = Path(name)
    if not told or not (folder / f"rank-{rank}").exists():  # it has not begun, or has finished
        if code < 0 and -code not in PASSED_ON:
            say("wiretax", f"rank {rank} {why}, outside of its run")
        return code if code >= 0 else 128 - code
    lost_peer = code > 0 or code == -signal.SIGABRT  # perhaps: a library may end its rank then
    if lost_peer and not (folder / "ended").exists():
        time.sleep(PEER_S)
    # When a rank's pipes close, MPICH's launcher kills the other ranks, and the exit status may
    # become that signal. `sleep` keeps this rank's pipes open until the others have exited.
    with contextlib.suppress(OSError):
        subprocess.Popen(["sleep", str(LAUNCHER_S)], close_fds=False)
    is_first = record_end(folder, rank, why, f"rank {rank}", WRONG)
    flight = read_flight(folder)
    if is_first and flight and rank in flight.ranks:
        say("wiretax", sentence_on(flight.ranks[rank], why, host))
    # A full disk leaves `ended` empty.
    return int(flight.ended["status"]) if flight and flight.ended else WRONG
