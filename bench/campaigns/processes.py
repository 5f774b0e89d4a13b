"""Runs a command of a campaign to its end, with every process that it starts; says sentences."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bench.harness.options import print_out

PR_SET_PDEATHSIG = 1
# The signals that end a command, and the patience after each. On SIGINT a run writes its results.
ENDINGS = ((signal.SIGINT, 15.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, None))


class Stop(Exception):
    """The campaign ends with an exit status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def say(sentence: str) -> None:
    """Writes a sentence to standard error. Without a reader the campaign continues for its files.
    Raises OSError."""
    print_out(f"{sentence}\n", sys.stderr)


def time_text(seconds: float) -> str:
    """A duration such as `80 s` or `12 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def run_to_end(command: Sequence[str], folder: Path | None, environment: Mapping[str, str],
               limit_s: float | None = None) -> tuple[int, str | None]:
    """The exit status of a command in `folder` and its last line on standard error; None instead
    of the line if a signal interrupted this process, and so the command.

    No process of the command's group keeps running. If this process is killed, the kernel sends
    SIGTERM to the command; mpirun then ends its ranks.
    """
    prctl = ctypes.CDLL(None).prctl
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM))
        reason = None
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            reason = f"took longer than {limit_s:.0f} s"
        except KeyboardInterrupt:
            end_group(process)
            return process.returncode, None
        end_group(process)
        errors.seek(0)
        lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
    silent = f"exit status {process.returncode} without a message"
    return process.returncode, reason or next(filter(None, reversed(lines)), silent)


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process if it still runs, and then the rest of its process group."""
    for number, patience_s in ENDINGS:
        if process.poll() is not None:
            break
        os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
