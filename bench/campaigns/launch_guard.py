"""Runs a command and ends all that it has started, also what has left its process group: when the
command has ended, and when whoever started this program closes its standard input, as the kernel
does if that process is killed. The first line there is JSON: the command's environment, since its
library path is not one of this interpreter, and the signals that end it with the patience in
seconds after each.

    python -I -S guard.py COMMAND ...

Exits as the command does, or with 128 more than the number of the signal that ended it. On Linux
the orphans of a *subreaper* become its children (prctl(2), PR_SET_CHILD_SUBREAPER)."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
NOT_STARTED, SIGNALLED = 127, 128  # as shells say; a signal's number is added
MOST_S = 3.0  # to end what a command leaves
CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")
WAS_ENDED = threading.Event()  # before the command ended by itself
RESULTS_S = 2.0  # for ranks that write their results although mpirun has ended
LAST_WORDS_S = 0.5  # for processes that outlive the command, such as one that records who died


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


def end_at_eof(process: subprocess.Popen[bytes], endings: list[tuple[int, float]]) -> None:
    """Ends the command when nobody holds the other end of standard input any more."""
    sys.stdin.buffer.read()
    WAS_ENDED.set()
    for number, patience_s in endings:
        os.killpg(0, number)
        time.sleep(patience_s)
    process.kill()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the command's group gets them
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN, not for the command
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGCONT)  # its command may have stopped it
    environment, endings = json.loads(sys.stdin.buffer.readline())
    try:
        process = subprocess.Popen(
            sys.argv[1:],
            env=environment,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr)
        sys.exit(NOT_STARTED)
    threading.Thread(target=end_at_eof, args=[process, endings], daemon=True).start()
    status = process.wait()
    end_children(RESULTS_S if WAS_ENDED.is_set() else LAST_WORDS_S)
    os._exit(SIGNALLED - status if status < 0 else status)


if __name__ == "__main__":
    main()
