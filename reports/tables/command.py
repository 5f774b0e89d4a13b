"""The command lines that made runs, for the pages' footers and for measuring again."""

import shlex

from reports.store.schema import Run


def command_of(run: Run, *without: str) -> str:
    """The command that made the run, without these options and their values; its file has each path
    as `<path>`, and hosts are the user's to name."""
    words = run.argv
    if not run.imported_from:
        program = "mpirun", "-n", str(run.world["size"]), "python", "-m", f"bench.{run.benchmark}"
        words = [*program, *words]
    elif not words:
        words = ["python", "-m", "reports", "import", run.imported_from]

    pairs = zip(["", *words], words, strict=False)
    return shlex.join(word for before, word in pairs if {before, word}.isdisjoint(without))
