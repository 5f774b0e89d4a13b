"""Traces with a planted defect: `breakdown` says what is wrong, and averages nothing away."""

import json
import re

import numpy as np
import pytest

from tests.calibration.synthetic_traces import CLOCK_US, Engine, contents, play, write

pytestmark = pytest.mark.unit
STEPS, LATE_US = 20, 90.0
LATE = Engine(late_rank=1, late_us=LATE_US)


@pytest.fixture
def planted():
    """The traces of two ranks of which the second is late, to be damaged."""
    return contents(play(LATE, STEPS, np.random.default_rng(5)))


@pytest.fixture
def bill(reports, tmp_path):
    """The JSON, status and words of `breakdown` of such traces."""

    def run(of_ranks, *words):
        paths = write(of_ranks, tmp_path)
        status, out, err = reports("breakdown", *paths, "--json", *words)
        return status, json.loads(out) if status == 0 else {}, err

    return run


def told(answer, pattern):
    """Whether a note of the bill, or the refusal, says so."""
    status, fields, err = answer
    sentences = fields["notes"] if status == 0 else [err]
    assert status in (0, 2, 4)
    return any(re.search(pattern, sentence, re.IGNORECASE) for sentence in sentences)


def of_cat(content, cat, text=""):
    return [
        each for each in content["traceEvents"] if each.get("cat") == cat and text in each["name"]
    ]


def calls(content):
    return of_cat(content, "kernel", "AllReduce")


def test_nothing_is_said_of_sound_traces(planted, bill):
    """Beside how the steps were cut, and what would tell the time of a call alone."""
    status, fields, _ = bill(planted)
    assert status == 0
    assert all(re.search("Steps are cut|alone", note) for note in fields["notes"])
    assert fields["calls"][0]["verdict"] == "waiting"


def test_files_in_another_order_name_the_same_late_rank(planted, bill):
    """The first file is rank 1's."""
    _, fields, _ = bill(planted[::-1])
    assert sorted(fields["ranks"]) == [0, 1]
    waits = dict(zip(fields["ranks"], fields["calls"][0]["waiting_us"], strict=True))
    assert waits[1] < 1 < LATE_US / 2 < waits[0]
    last = dict(zip(fields["ranks"], fields["calls"][0]["last_share"], strict=True))
    assert last[1] > 0.9


def test_a_rank_given_twice_is_told(planted, bill):
    """Of two equal traces none would ever wait."""
    assert told(bill([planted[0], planted[0]]), r"rank 0")


def test_more_traces_than_ranks_are_told(planted, bill):
    third = json.loads(json.dumps(planted[1]))
    third["distributedInfo"]["rank"] = 2
    assert told(bill([*planted, third]), r"\b3\b.*\b2\b|\b2\b.*\b3\b")


def test_ranks_of_different_runs_are_told(planted, bill):
    other = contents(play(Engine(calls=3), STEPS, np.random.default_rng(6)))
    assert told(bill([planted[0], other[1]]), r"80.*60|calls")


@pytest.mark.parametrize("place", [0, 37, -1])
def test_a_call_missing_in_one_rank_is_told_and_the_others_keep_their_partners(
    place, planted, bill
):
    """Matched one call off, calls that wait would seem to wait for a step."""
    planted[1]["traceEvents"].remove(calls(planted[1])[place])
    answer = bill(planted)
    assert told(answer, r"1 of 20 steps are left out.*4 and 3")
    for call in answer[1].get("calls", []):
        assert call["waiting_us"][0] == pytest.approx(LATE_US, rel=0.05)
        assert call["transport_us"] == pytest.approx(20, abs=1)


def test_clocks_a_second_apart_are_told_and_change_no_figure(bill):
    played = play(LATE, STEPS, np.random.default_rng(5))
    together, apart = (
        bill(contents(played, [CLOCK_US, CLOCK_US + seconds * 1e6]))[1] for seconds in (0, 1)
    )
    notes = together.pop("notes")
    (note,) = [each for each in apart.pop("notes") if each not in notes]
    assert "the clocks are +1.000000 s apart" in note
    assert apart == together


@pytest.mark.parametrize("ranks", [(1,), (0, 1)])
def test_nanoseconds_for_microseconds_are_told(ranks, planted, bill):
    """Of both ranks they make steps of 0.3 s, in which each call takes 20 ms."""
    for rank in ranks:
        for each in planted[rank]["traceEvents"][1:]:
            each["ts"], each["dur"] = each["ts"] * 1000, each["dur"] * 1000
    assert told(bill(planted), r"nanosecond|\bns\b")


def test_steps_that_overlap_are_told(planted, bill):
    """Two batches are in flight at once: nobody can tell whose kernels are whose."""
    for content in planted:
        for each in of_cat(content, "user_annotation")[6:8]:
            each["dur"] *= 1.8
    assert told(bill(planted), r"steps? .*overlap")


def test_a_stream_that_runs_two_kernels_at_once_is_told(planted, bill):
    """No device does: times are wrong, or two devices are one."""
    for each in of_cat(planted[0], "kernel", "gemv")[::4]:
        each["dur"] *= 1.2
    assert told(bill(planted), r"begin while their stream runs another")


def test_streams_that_overlap_are_counted_once(bill):
    """The parts add up to the step, whatever runs beside what."""
    played = play(Engine(beside_us=9.0), STEPS, np.random.default_rng(5))
    of_ranks = contents(played)
    _, fields, _ = bill(of_ranks)
    parts = ("compute", "transport", "waiting", "overlap", "idle")
    assert sum(fields[f"{part}_us"] for part in parts) == pytest.approx(fields["step_us"])
    truth = played.parts_us()
    for part in (*parts, "step"):
        assert fields[f"{part}_us"] == pytest.approx(truth[part].mean(), rel=0.05, abs=0.1)


def test_another_number_of_steps_in_a_rank_is_told(planted, bill):
    """Its profiler began later."""
    begins = of_cat(planted[1], "user_annotation")[3]["ts"]
    planted[1]["traceEvents"] = [
        each for each in planted[1]["traceEvents"] if each.get("ts", begins) >= begins
    ]
    answer = bill(planted)
    assert told(answer, r"step|calls")
    for call in answer[1].get("calls", []):
        assert call["waiting_us"][0] == pytest.approx(LATE_US, rel=0.05)
