"""Keeps the process that the launcher has started, and runs the rank in a child of it.

Any code in a rank can end it: a library calls exit(0), a kernel crashes. No launcher takes status 0
for a fault, and one that sees a rank die kills the others before they have spoken. The guard sees
how its rank has ended, names it, and exits with the status of the run."""

import ctypes
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.harness.console import INTERRUPTED, SIGNALS, WRONG, say
from bench.harness.witness import record_end
from collectives.communicator import LAUNCHER
from wiretax.common.launched import launched_rank
from wiretax.record.flight_records import read_flight, sentence_on

PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that a process gets when its parent ends
LAUNCHER_S = 0.4  # by then the other ranks have exited
SAID_S = 0.2  # by then the launcher has passed on what a guard has said
SHM, LEAST_SHM_BYTES = Path("/dev/shm"), 64 << 20  # of eight ranks of MPICH, which fills it unasked
PEER_S = 0.2  # by then the guard of a rank that was lost before has spoken


def start_rank() -> mmap.mmap:
    """Returns in a child, which is the rank from now on, memory that takes the path of its flight
    record. It goes before any thread. Raises OSError."""
    told = mmap.mmap(-1, mmap.PAGESIZE)  # a path has a page at most
    libc, rank = ctypes.CDLL(None), os.fork()
    if rank == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        return told

    def pass_on(number: int, _: Any) -> None:
        # SIGHUP means that the launcher has gone: a terminal sends its own to the rank too.
        if number == signal.SIGHUP and os.getppid() == LAUNCHER:
            return
        if not told[0]:  # within MPI's start no handler runs in the rank
            os._exit(INTERRUPTED)
        with suppress(ProcessLookupError):
            os.kill(rank, number)

    for number in SIGNALS:
        signal.signal(number, pass_on)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    code = os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1])
    os._exit(status_of(code, Path(os.fsdecode(told[:].rstrip(b"\0")))))


def start_witness(folder: Path, pids: dict[int, int], host: str) -> None:
    """Starts this host's witness: a process in its own session that exits after the ranks. `host`:
    the host's name in a run on several hosts."""
    script, null = Path(__file__).with_name("witness.py"), subprocess.DEVNULL
    command = [sys.executable, str(script), str(folder), json.dumps(pids), host]
    subprocess.Popen(command, stdin=null, stdout=null, start_new_session=True)


def status_of(code: int, record: Path) -> int:
    """The exit status for the launcher, from that of the rank, or minus its signal. Says how a rank
    ended whose flight record is still there, unless a watchdog or another guard has spoken."""
    folder, rank, why = record.parent, launched_rank() or 0, f"exited with status {code}"
    if code < 0:
        why = f"was ended by signal {-code}, {signal.strsignal(-code)}"
    hint = ""
    if -code == signal.SIGBUS and SHM.is_dir() and shutil.disk_usage(SHM).free < LEAST_SHM_BYTES:
        hint = f"; MPI lacks room in {SHM}: give the container --shm-size=1g"
    if not record.is_file():  # it has not begun, or has finished
        if code >= 0:
            return code
        say("wiretax", f"rank {rank} {why}, outside of its run{hint}")
        time.sleep(SAID_S)
        os.kill(os.getpid(), -code)  # within MPI's start a launcher ends the others for a signal
        return WRONG
    if code > 0 and not (folder / "ended").exists():  # perhaps by a library that lost its peer
        time.sleep(PEER_S)
    # When a rank's pipes close, MPICH's launcher kills the other ranks, and the exit status may
    # become that signal. `sleep` keeps this rank's pipes open until the others have exited.
    with suppress(OSError):
        subprocess.Popen(["sleep", str(LAUNCHER_S)], close_fds=False)
    if not record_end(folder, rank, why, rank):
        return code if code == INTERRUPTED else WRONG
    if page := read_flight(folder).ranks.get(rank):
        say("wiretax", sentence_on(page, why) + hint)
    return WRONG
