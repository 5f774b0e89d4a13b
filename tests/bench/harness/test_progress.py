"""Progress on standard error: a line for each phase, and none if nobody wants it."""

import json
import re
from typing import Any

from tests.launch import ROOT, end_of, mpirun
from tests.reliability.launch_matrix import AS_ROOT, SMALL, allreduce, command
from wiretax.record.result import read

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


# Counts the lines inside and outside of timed work; each may follow the last one at once.
COUNTED = """
import json, runpy
from bench.harness import progress, timing, watchdog
from bench.harness.session import Session

write, perform, trip = progress.Progress.write, timing.perform, Session.round_trip_ns.func
place, lines = ["outside"], {"inside": 0, "outside": 0}

def counted(shown, text):
    lines[place[-1]] += not shown.is_silent
    write(shown, text)

def inside(function):
    def wrapper(*arguments):
        place.append("inside")
        try:
            return function(*arguments)
        finally:
            place.pop()
    return wrapper

progress.LINE_S, watchdog.LOOK_S = 0.0, 0.001
progress.Progress.write, timing.perform = counted, inside(perform)
Session.round_trip_ns = property(lambda session: inside(trip(session)))
try:
    runpy.run_module("bench.allreduce", run_name="__main__")
finally:
    if lines["outside"]:
        print("lines", json.dumps(lines))
"""


def test_no_line_is_written_inside_timed_work(tmp_path, monkeypatch):
    """Also none of the watchdog, which looks every millisecond here; the timed work is longer."""
    monkeypatch.delenv("WIRETAX_QUIET")
    words = "--sizes 1M --algorithm ring,library --mode isolated -n 60"
    done = mpirun(2, "-c", COUNTED, *words.split(), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [counts] = re.findall("^lines (.*)$", done.stdout, re.MULTILINE)
    assert json.loads(counts)["inside"] == 0
    assert json.loads(counts)["outside"] > 12
    [result] = map(read, tmp_path.glob("*.jsonl"))
    assert sum(block.n * (block.mean_us or 0) for block in result.blocks) > 20e3
