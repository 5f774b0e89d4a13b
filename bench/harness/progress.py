"""Says on standard error what a command is doing; every benchmark and the campaign use it.

A line follows for each phase, and every ten seconds. Only rank 0 writes, between blocks and never
in a timed loop."""

import os
import sys
import time
from contextlib import suppress

from bench import STARTED_S
from bench.harness.console import print_out
from wiretax.common.launched import launched_rank

QUIET = "WIRETAX_QUIET"  # set by programs that read a benchmark's standard error
LINE_S = 10.0
# Until the launcher has forwarded a line: otherwise it would need a core during a timed loop.
FORWARD_S = 0.003


class Progress:
    """The progress of a command. It is silent if `quiet`, with $WIRETAX_QUIET and on other ranks.
    A write that fails changes nothing else."""

    def __init__(self, command: str, quiet: bool) -> None:
        self.command = command
        self.is_silent = bool(quiet or os.environ.get(QUIET) or launched_rank())
        self.phase, self.details, self.due_s = "", "", 0.0

    def show(self, phase: str, details: str = "") -> None:
        """Shows a phase if it is new; with other details, if the last line is old enough."""
        is_new, self.phase, self.details = phase != self.phase, phase, details
        if is_new or time.monotonic() >= self.due_s:
            self.due_s = time.monotonic() + LINE_S
            self.write(f"{phase}: {details}" if details else phase)

    def compiling(self, file_name: str) -> None:
        """Shows that the current phase compiles a file, which takes seconds."""
        self.due_s = 0.0
        self.show(self.phase, f"compile {file_name}")

    def write(self, text: str) -> None:
        """Writes a line."""
        if not self.is_silent:
            with suppress(OSError):
                seconds = time.monotonic() - STARTED_S
                print_out(f"[{self.command} {seconds:.0f} s] {text}\n", sys.stderr)
            time.sleep(FORWARD_S)
