"""Runs a command and ends all that it has started, also what has left its process group: when the
command has ended, and when whoever started this program closes its standard input, as the kernel
does if that process is killed. The first line there is JSON: the command's environment, since its
library path is not one of this interpreter, and the signals that end it with the patience in
seconds after each.

    python -I -S guard.py COMMAND ...

Exits as the command does. On Linux the orphans of a *subreaper* become its children
(prctl(2), PR_SET_CHILD_SUBREAPER)."""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
NOT_STARTED = 127  # as shells say
MOST_S = 3.0  # to end what a command leaves
CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")
WAS_ENDED = threading.Event()  # before the command ended by itself
RESULTS_S = 2.0  # for ranks that write their results although mpirun has ended
LAST_WORDS_S = 0.5  # for processes that outlive the command, such as one that records who died


def start(command: list[str], environment: dict[str, str]) -> int:
    """The process id of the command, which reads nothing and gets SIGTERM if this process dies."""
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    os._exit(NOT_STARTED)


def end_children(patience_s: float) -> None:
    """Ends the children, and theirs, which become children of this process. One that waits for a
    disk may stay."""
    started_s = time.monotonic()
    with contextlib.suppress(ChildProcessError):  # none is left
        while (spent_s := time.monotonic() - started_s) < patience_s + MOST_S:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            if spent_s > patience_s:
                for pid in CHILDREN.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.01)


def end_at_eof(pid: int, endings: list[tuple[int, float]]) -> None:
    """Ends the command when nobody holds the other end of standard input any more."""
    sys.stdin.buffer.read()
    WAS_ENDED.set()
    for number, patience_s in endings:
        os.killpg(0, number)
        time.sleep(patience_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the command's group gets them
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN, not for the command
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    environment, endings = json.loads(sys.stdin.buffer.readline())
    pid = start(sys.argv[1:], environment)
    threading.Thread(target=end_at_eof, args=[pid, endings], daemon=True).start()
    _, status = os.waitpid(pid, 0)
    end_children(RESULTS_S if WAS_ENDED.is_set() else LAST_WORDS_S)
    sys.stderr.flush()
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
