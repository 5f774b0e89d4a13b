"""Runs a command to its end: within a time limit, with its last line, and with all that it has
started. No process that it starts outlives it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TextIO, cast

import psutil

from bench.campaigns import launch_guard
from bench.campaigns.ending import signals_wait

LAST_WORDS_BYTES = 1 << 20  # of a command's errors, in which its last line is found
# MPICH's line that names a signal, below its banner, stays.
MPIRUN_ADDS = re.compile(
    r"(?ms)^-{20,}\nprterun (detected|noticed).*?(\n-{20,}|\Z)"
    r"|^={20,}\n=   BAD TERMINATION.*?(\n={20,}|\Z)"
    r"|^This typically refers to a problem with your application\.\n[^\n]*suggestions$"
)
TIMED_OUT = 124  # the status of a command that exits with 0 when it is ended, as of `timeout`
# The signals that end a command, and the patience after each. On SIGINT a run writes its results.
ENDINGS = ((signal.SIGINT, 15.0), (signal.SIGTERM, 3.0))


def run_to_end(
    command: Sequence[str],
    folder: Path | None,
    variables: Mapping[str, str],
    limit_s: float | None = None,
    log: Path | None = None,
) -> tuple[int, str]:
    """The exit status of a command in `folder`, not 0 if its time ran out, and its last line on
    standard error, without those that mpirun adds, or else on standard output, where IMB writes
    what is wrong. `log` keeps its output, in `log`.out.txt and `log`.err.txt.

    Nothing that the command starts keeps running: its guard ends it, also if a signal raises
    KeyboardInterrupt here or kills this process."""
    with open_output(log, "out") as output, open_output(log, "err") as errors:
        reason = None
        with ExitStack() as ending:
            with signals_wait():
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", launch_guard.__file__, *command],
                    cwd=folder,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
                assert process.stdin
                ending.callback(end_guard, process)  # last
                ending.callback(process.stdin.close)  # has the guard end the command
                process.stdin.write(json.dumps([{**variables}, ENDINGS]).encode() + b"\n")
                process.stdin.flush()
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                reason = f"took longer than {limit_s:.0f} s"
        lines = last_lines(errors) or last_lines(output) or ["it printed nothing"]
    if reason:
        return process.returncode or TIMED_OUT, reason
    return process.returncode, lines[-1].strip()


def end_guard(guard: subprocess.Popen[bytes]) -> None:
    """Waits until the guard, whose standard input is closed, has ended, and what it started. Its
    command may have stopped it, again and again, or killed it."""
    patience_s = sum(patience_s for _, patience_s in ENDINGS) + launch_guard.RESULTS_S
    if guard.poll() is None:
        os.killpg(guard.pid, signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            guard.wait(patience_s + 2 * launch_guard.MOST_S)
    if guard.returncode in (None, -signal.SIGKILL):
        kill_started(guard.pid)
    guard.kill()
    guard.wait()


def kill_started(guard_pid: int) -> None:
    """Kills what is in the session of the guard, and its descendants, until none is left. A guard
    that lives is stopped: their orphans become its children. One that waits for a disk may stay."""
    late_s = time.monotonic() + launch_guard.MOST_S
    while time.monotonic() < late_s:
        started = dict[int, psutil.Process]()
        for each in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # it has ended meanwhile
                if os.getsid(each.pid) == guard_pid:
                    if each.pid == guard_pid:
                        each.suspend()
                    found = each, *each.children(recursive=True)
                    started |= {own.pid: own for own in found if own.pid != guard_pid}
        alive = [each for each in started.values() if is_alive(each)]
        if not alive:
            return
        for each in alive:
            with suppress(psutil.Error):
                each.kill()
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs: a zombie waits for its parent alone."""
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def with_status(sentence: str, status: int) -> str:
    """The sentence and how its command ended: `no device (exit status 2)`, `killed by SIGSEGV: no
    device`. Shells and launchers report a signal as 128 more."""
    with suppress(ValueError):  # no signal
        number = signal.Signals(-status if status < 0 else status - 128)
        return f"killed by {number.name}: {sentence}"
    return f"{sentence} (exit status {status})"


def last_lines(file: TextIO) -> list[str]:
    """The last lines with a word of a command's output."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
    said = MPIRUN_ADDS.sub("", file.read())
    return [line for line in said.splitlines() if re.search(r"\w", line)]


def open_output(log: Path | None, stream: str) -> TextIO:
    """A file for a stream of a command's output: beside `log`, or one that nobody sees."""
    if log is None:
        return cast(TextIO, tempfile.TemporaryFile("w+", errors="replace"))
    return log.with_suffix(f".{stream}.txt").open("x+", errors="replace")  # never through a link
