"""How texts name our commands: `python -m bench.tune` in a checkout, which an editable installation
runs too, and `wiretax tune` where a wheel has put all folders inside the package `wiretax`."""

import sys
from contextlib import suppress

from reports.store.untrusted import printable

IS_CHECKOUT = __name__ == "reports.store.program"
RUN, BENCH, REPORTS = (
    ("python -m ", "bench.", "reports") if IS_CHECKOUT else ("", "wiretax ", "wiretax")
)


def on_ranks(ranks: object, command: str) -> str:
    """How a user starts the ranks of a benchmark; `wiretax` starts them itself."""
    if IS_CHECKOUT:
        return f"mpirun -n {ranks} {RUN}{BENCH}{command}"
    return f"{BENCH}{command} -n {ranks}"


def complain(sentence: str) -> None:
    """Writes the sentence to standard error, which may be full: the exit status says enough."""
    with suppress(OSError):
        print(f"{REPORTS}: {printable(sentence)}", file=sys.stderr, flush=True)
