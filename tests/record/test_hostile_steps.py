"""Steps in a stranger's file: each damage is one sentence and status 2 where the run is asked for,
and leaves the run out where a folder is read."""

from base64 import b64encode

import pytest

from reports.__main__ import main
from tests.reports.synthetic_run import ONE, rewrite, write_run
from wiretax.record.folder import read_store
from wiretax.record.histogram import steps_of
from wiretax.record.result import ResultError, read
from wiretax.record.tails import steps_of_case

pytestmark = pytest.mark.unit

N = 20
SHORTEST_US, LONGEST_US, COUNTS = 5.0, 80.0, steps_of([5.0] * (N - 1) + [80.0]).counts
TOO_MANY = b64encode(bytes([0xFE] + [0xFF] * 8 + [0x03])).decode()


def with_steps(block):
    block.steps = steps_of([SHORTEST_US] * (N - 1) + [LONGEST_US])
    return block


@pytest.fixture(params=[True, False], ids=["complete", "cut off"])
def run(request, tmp_path):
    run = write_run(tmp_path / "runs", **ONE | {"n": N}, change=with_steps, finish=request.param)
    return run.path


def damage(path, **changes):
    """Changes a case line, or the steps of a block, of the run."""

    def change(line):
        if line["kind"] == "case":
            line |= changes
        elif line["kind"] == "block" and line["block"] == 3 and "steps" in changes:
            line["steps"] = changes["steps"]

    return rewrite(path, change)


STEPS = {
    "a count of 2^63": [SHORTEST_US, LONGEST_US, TOO_MANY],
    "bins out of order": [SHORTEST_US, LONGEST_US, b64encode(bytes([0, 38])).decode()],
    "another number of steps": [SHORTEST_US, LONGEST_US, steps_of([5.0, 80.0]).counts],
    "the shortest above the longest": [LONGEST_US, SHORTEST_US, COUNTS],
    "a longest that no bin has": [SHORTEST_US, 1e9, COUNTS],
    "a negative time": [-1.0, LONGEST_US, COUNTS],
    "no number": [None, LONGEST_US, COUNTS],
    "a time that is too long": [SHORTEST_US, 1e15, COUNTS],
    "16 MB of text": [SHORTEST_US, LONGEST_US, "A" * 15_900_000],
    "16 MB of empty bins": [SHORTEST_US, LONGEST_US, "AQEB" * 3_900_000],
    "no text": [SHORTEST_US, LONGEST_US, 7],
    "too few values": [SHORTEST_US],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_damaged_steps_are_one_sentence_or_leave_the_run_out(run, steps, capsys):
    assert main(["show", str(run)]) == 0
    capsys.readouterr()
    damage(run, steps=steps)
    for command in (["show"], ["export", "--csv"]):
        assert main([*command, str(run)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert run.name in err
        assert "steps" in err
    store = read_store(run.parent)
    assert not store.entries
    assert len(store.complaints) == 1


@pytest.mark.parametrize(
    "percentiles",
    [
        {"step_p50_us": {"value": 5.0}, "step_p99_us": {"value": 4.0}},
        {"step_p90_us": {"value": 5.0}, "step_worst_us": 4.9},
    ],
)
def test_percentiles_of_a_case_that_contradict_each_other_are_refused(tmp_path, percentiles):
    path = write_run(tmp_path, **ONE).path
    damage(path, step_p50_us={"value": 5.0}, step_p99_us={"value": 5.0}, step_worst_us=5.0)
    assert read(path).complete
    damage(path, **percentiles)
    with pytest.raises(ResultError, match=r"jsonl: its steps are damaged: percentiles of case 0"):
        read(path)


def test_the_steps_of_a_case_are_of_all_its_blocks(run):
    result = read(run)
    found = steps_of_case(result, 0)
    assert found
    assert found.n == N * len(result.blocks)
    assert (found.least_us, found.most_us) == (SHORTEST_US, LONGEST_US)


def test_a_run_without_steps_in_one_block_has_no_steps(run):
    damage(run, steps=None)
    assert steps_of_case(read(run), 0) is None


@pytest.mark.parametrize("checks", ["1", None, [1], 10**300, -1])
def test_a_number_of_checks_that_is_none_is_refused(run, checks, capsys):
    """Where a case had slow steps, `show` ended in a traceback."""
    rewrite(run, lambda line: line.get("kind") == "run" and line["method"].update(checks=checks))
    assert main(["show", str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
