"""Progress on standard error: a line for each phase, and none if nobody wants it."""

import re
from typing import Any

from tests.launch import ROOT, end_of
from tests.reliability.launch_matrix import AS_ROOT, SMALL, allreduce, command

LINE = re.compile(r"\[allreduce \d+ s\] \S.*")


def test_each_phase_has_a_line_and_a_quiet_run_has_none(tmp_path, monkeypatch):
    """Also of compiling: the cache is empty."""
    monkeypatch.delenv("WIRETAX_QUIET")
    variables: Any = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), **AS_ROOT}
    line = command("mpich", 2, *allreduce(tmp_path / "results"))
    done = end_of(*line, **variables)
    assert done.returncode == 0
    assert all(LINE.fullmatch(line) for line in done.stderr.splitlines()), done.stderr
    seen = [re.sub(r"\[.*?\] |:.*", "", line) for line in done.stderr.splitlines()]
    order = [
        "start MPI, 2 ranks",
        "open the device",
        "map the peers",
        "compile",
        "pilot",
        "measure",
        "results",
    ]
    assert [phase for phase in dict.fromkeys(seen) if phase in order] == order
    assert seen[0] == order[0]
    assert "\x1b" not in done.stderr + done.stdout
    line = command("mpich", 2, *allreduce(tmp_path / "quiet", *SMALL, "--quiet"))
    done = end_of(*line, **variables)
    assert (done.returncode, done.stderr) == (0, "")
