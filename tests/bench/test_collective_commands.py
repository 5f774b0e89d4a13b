"""Tests real launches of the collectives' commands other than `bench.allreduce`: their measurements and refusals."""

import re

import pytest

from collectives.collective import COLLECTIVES
from reports.store.result import read
from tests.launch import mpirun

pytestmark = pytest.mark.alone

COMMANDS = {
    "allgather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "alltoall",
    "sendrecv": "sendrecv",
}


@pytest.mark.parametrize(("command", "name"), COMMANDS.items())
def test_every_form_is_measured_with_the_library_and_correct(tmp_path, command, name):
    options = ["--sizes", "16K,100000", "-d", "half", "--max-time", "30", "-n", "2", "--lean"]
    done = mpirun(2, "-m", f"bench.{command}", *options, "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = tmp_path.glob("*.jsonl")
    cases = read(path).cases
    collective = COLLECTIVES[name]
    assert {case.count * (2 if collective.cut else 1) * 2 for case in cases} == {
        case.size_bytes for case in cases
    }
    measured = [case for case in cases if case.status in ("ok", "wrong")]
    assert {(case.collective, case.n_wrong) for case in measured} == {(name, 0)}
    forms = {(case.algorithm, case.variant) for case in measured}
    ours = {
        ("direct_push", "copied"),
        ("direct_pull", "copied"),
        ("direct_pull", "registered"),
        ("auto", "registered"),
    }
    assert ours <= forms
    # MPICH reduces half precision and moves any type.
    assert ("library", "plain") in forms
    shapes = [dict(shape) or None for shape in collective.shapes]
    assert all(shape in [case.shape for case in measured] for shape in shapes)
    unsupported = {(case.mode, str(case.shape)) for case in cases if case.status == "unsupported"}
    assert not unsupported
    assert re.search(r"^ *16 KiB .* (direct_pull|direct_push|ring)", done.stdout, re.MULTILINE)
    assert ("ping-pong, there and back" in done.stdout) == (name == "sendrecv")


def test_in_place_results_are_correct_if_supported(tmp_path):
    for command in ("allgather", "reduce_scatter"):
        folder = tmp_path / command
        options = [
            "--sizes",
            "64K",
            "--in-place",
            "--max-time",
            "30",
            "-n",
            "2",
            "--lean",
            "--out",
            str(folder),
        ]
        done = mpirun(2, "-m", f"bench.{command}", *options)
        assert (done.returncode, done.stderr) == (0, "")
        (path,) = folder.glob("*.jsonl")
        cases = read(path).cases
        library = [case for case in cases if case.algorithm == "library"]
        assert {case.n_wrong for case in cases if case not in library} == {0}
        if command == "allgather":
            assert {case.n_wrong for case in library} == {0}
        else:
            assert all("not in its own" in str(case.reason) for case in library)
