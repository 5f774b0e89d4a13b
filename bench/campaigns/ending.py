"""How a command that starts launches ends: a signal, or a failure, as an exit status and one
sentence."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from bench.campaigns.campaign_options import Stop
from bench.harness.console import INTERRUPTED, SIGNALS, USAGE, say
from reports.__main__ import open_closed_streams
from wiretax.common.owners import shown
from wiretax.record.result import ResultError

FAILURES = (Stop, ResultError, OSError, MemoryError, KeyboardInterrupt)


def interrupt(*_: Any) -> NoReturn:
    """Ends the command in order. Later signals are ignored: they would cut the ending short."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def signals_wait() -> Iterator[None]:
    """Delays `interrupt` to the end of the block: Python drops what a signal raises within a fork,
    and the signals after it would be ignored. Blocking them in this thread is not enough: other
    threads of the process would take them, and Python would raise here all the same."""
    waiting: list[int] = []
    delayed = [number for number in SIGNALS if signal.getsignal(number) is interrupt]
    for number in delayed:
        signal.signal(number, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        for number in delayed:
            signal.signal(number, interrupt)
        if waiting:
            interrupt()


def run_command(
    name: str, run: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None
) -> int:
    """Runs a command that starts launches on its command line, and returns its exit status; a
    failure is one sentence."""
    open_closed_streams()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        return run(argv)
    except FAILURES as error:
        status, sentence = ending_of(error)
    say(name, sentence)
    return status


def ending_of(error: BaseException) -> tuple[int, str]:
    """The exit status and the sentence of a command that one of FAILURES ends."""
    if isinstance(error, (Stop, ResultError)):
        return error.exit_status, shown(str(error))
    if isinstance(error, OSError):
        what = error.filename or "the results cannot be written"  # an open file has no name
        return USAGE, shown(f"{what}: {error.strerror}")
    if isinstance(error, MemoryError):
        return USAGE, "the memory is full"
    return INTERRUPTED, "interrupted; finished launches are kept"
