"""What a command prints, and the statuses with which it exits."""

import os
import signal
import sys
from contextlib import suppress
from typing import TextIO

from wiretax.common.untrusted import printable

FINE, WRONG, USAGE, CANNOT, INTERRUPTED = 0, 1, 2, 3, 130  # exit statuses
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # that end a command in order
STATUS_TEXT = (
    "exit status:\n  0 fine; 1 a result was wrong or a rank was lost; "
    "2 the command line;\n  3 this machine cannot run that; 130 interrupted, "
)


def print_out(text: str, file: TextIO | None = None) -> None:
    """Prints at once, unless the stream is closed or its reader has left. Raises OSError."""
    stream = file or sys.stdout  # None if it is closed, which print accepts
    try:
        print(text, end="", file=stream, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the end would print it again
        if not isinstance(error, BrokenPipeError):
            raise


def say(speaker: str, sentence: str) -> None:
    """Prints `speaker: sentence` on standard error, if anybody reads it."""
    lines = "\n".join(map(printable, sentence.split("\n")))  # a traceback of ours has several
    with suppress(OSError):  # the launcher has gone, or the disk is full
        print(f"{speaker}: {lines}", file=sys.stderr, flush=True)
