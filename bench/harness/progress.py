"""Says on standard error what a command is doing; every benchmark and the campaign use it.

On a terminal one line rewrites itself. Elsewhere a line follows for each phase, and every ten
seconds. Only rank 0 writes, between blocks and never in a timed loop."""

import os
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from bench import STARTED_S
from bench.harness.console import print_out
from collectives.communicator import launched_rank

QUIET = "WIRETAX_QUIET"  # set by programs that read a benchmark's standard error
LINE_S, REWRITE_S = 10.0, 0.5
# Until the launcher has forwarded a line: otherwise it would need a core during a timed loop.
FORWARD_S = 0.003
LAUNCHERS = ("mpirun", "mpiexec", "prterun", "orterun")
CLEAR = "\r\x1b[K"


class Progress:
    """The progress of a command. It is silent if `quiet`, with $WIRETAX_QUIET and on other ranks.
    A write that fails changes nothing else."""

    def __init__(self, command: str, quiet: bool) -> None:
        self.command = command
        self.is_silent = quiet or bool(os.environ.get(QUIET)) or launched_rank() not in (None, 0)
        self.columns = 0 if self.is_silent else terminal_columns()
        self.phase, self.details, self.due_s = "", "", 0.0
        self.lock = threading.Lock()  # the watchdog shows long steps again

    def show(self, phase: str, details: str = "") -> None:
        """Shows a phase if it is new; with other details, if the last line is old enough."""
        with self.lock:
            now_s = time.monotonic()
            is_new, self.phase, self.details = phase != self.phase, phase, details
            if self.is_silent or not (is_new or now_s >= self.due_s):
                return
            self.due_s = now_s + (REWRITE_S if self.columns else LINE_S)
            line = self._line(f"{phase}: {readable(details)}" if details else phase)
            # The cursor stays in the first column, so that other output overwrites the line.
            self._write(f"{CLEAR}{line[: self.columns - 1]}\r" if self.columns else f"{line}\n")

    def compiling(self, file_name: str) -> None:
        """Shows that the current phase compiles a file, which takes seconds."""
        self.due_s = 0.0
        self.show(self.phase, f"compile {file_name}")

    def show_again(self) -> None:
        """Shows the current phase if the last line is old enough."""
        if self.phase:
            self.show(self.phase, self.details)

    def keep(self, text: str) -> None:
        """Writes a line that stays."""
        with self.lock:
            if not self.is_silent:
                self._write(f"{CLEAR * bool(self.columns)}{self._line(text)}\n")
                self.due_s = 0.0 if self.columns else self.due_s

    def clear(self) -> None:
        """Removes the line of the terminal, before other output."""
        with self.lock:
            if self.columns and self.phase:
                self._write(CLEAR)
            self.phase = ""

    def _line(self, text: str) -> str:
        return f"[{self.command} {time.monotonic() - STARTED_S:.0f} s] {text}"

    def _write(self, text: str) -> None:
        with suppress(OSError):
            print_out(text, sys.stderr)
        time.sleep(FORWARD_S)


def readable(details: str) -> str:
    """`16 KiB` in place of `16384 B`."""
    if " B" not in details:
        return details
    from reports.tables.sentences import size_text  # not at the top: other ranks show nothing

    return re.sub(r"\b(\d+) B\b", lambda match: size_text(int(match[1])), details)


def terminal_columns() -> int:
    """The width of the terminal that shows this process's standard error; 0 without a terminal. A
    rank asks for its launcher's: MPICH gives each rank a pipe, and Open MPI a terminal, wherever
    the output goes. srun is no parent of its ranks, so they get 0."""
    process = os.getpid() if launched_rank() is None else launcher()
    with suppress(OSError):
        # A pipe without a reader must not block.
        stream = os.open(f"/proc/{process}/fd/2", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            return os.get_terminal_size(stream).columns or 80
        finally:
            os.close(stream)
    return 0


def launcher() -> int | None:
    """The process id of the mpirun that started this rank; None if it is not an ancestor."""
    process = os.getppid()
    with suppress(OSError, ValueError, IndexError):
        while process > 1:
            name, _, rest = Path(f"/proc/{process}/stat").read_text().rpartition(") ")
            if name.partition("(")[2].startswith(LAUNCHERS):
                return process
            process = int(rest.split()[1])
    return None
