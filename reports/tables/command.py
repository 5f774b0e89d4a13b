"""The command lines that made runs, for the pages' footers and for measuring again."""

import shlex

from reports.store.program import REPORTS, RUN, on_ranks
from reports.store.schema import Run


def command_of(run: Run, *without: str) -> str:
    """The command that made the run, without these options and their values; its file has each path
    as `<path>`, and hosts are the user's to name."""
    words = run.argv
    if not run.imported_from:
        words = [*shlex.split(on_ranks(run.world["size"], shlex.quote(run.benchmark))), *words]
    elif not words:
        words = [*shlex.split(f"{RUN}{REPORTS} import"), run.imported_from]

    pairs = zip(["", *words], words, strict=False)
    return shlex.join(word for before, word in pairs if {before, word}.isdisjoint(without))
