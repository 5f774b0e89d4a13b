"""The commands of the collectives other than the all-reduce, with real ranks."""

import re

import pytest

from collectives.collective import COLLECTIVES
from tests.bench.launches import run

COMMANDS = {
    "allgather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "alltoall",
    "sendrecv": "sendrecv",
}
OURS = {
    ("direct_push", "copied"),
    ("direct_pull", "copied"),
    ("direct_pull", "registered"),
    ("auto", "registered"),
}


@pytest.mark.parametrize(("command", "name"), COMMANDS.items())
def test_every_form_is_measured_with_the_library_and_correct(tmp_path, command, name):
    options = "--sizes 100000 -d half --max-time 30 -n 2 -w 0"
    printed, result = run(tmp_path, options, command=command)
    collective = COLLECTIVES[name]
    for case in result.cases:
        assert (case.collective, case.status, case.n_wrong) == (name, "ok", 0)
        assert case.count * (2 if collective.cut else 1) * 2 == case.size_bytes
    forms = {(case.algorithm, case.variant) for case in result.cases}
    assert OURS | {("library", "plain")} <= forms
    shapes = [dict(shape) or None for shape in collective.shapes]
    assert all(shape in [case.shape for case in result.cases] for shape in shapes)
    assert re.search(r"^ *97\.7 KiB .* (direct_pull|direct_push)", printed, re.MULTILINE)
    assert ("ping-pong, there and back" in printed) == (name == "sendrecv")


def test_in_place_results_are_correct_if_supported(tmp_path):
    options = "--sizes 64K --in-place --mode isolated --max-time 30 -n 2"
    _, result = run(tmp_path, options, command="reduce_scatter")
    for case in result.cases:
        if case.algorithm == "library":
            assert "not in its own" in str(case.reason)
        else:
            assert case.n_wrong == 0
