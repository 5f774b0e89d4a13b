"""The line below the first table on a tail: where one is worth a look, and nowhere else."""

import json
import re

import pytest

from reports.tables.table import render
from tests.reports.synthetic_run import rewrite_cases
from tests.reports.synthetic_steps import write_steps
from wiretax.record.result import read
from wiretax.record.schema import Estimate

pytestmark = pytest.mark.unit


def tail_of_run(folder, *arguments, low=0.6, **fields):
    """What the first table says of the tail of such a run; the intervals of its shares begin at
    `low` times each, or where they do."""
    result = write_steps(folder, *arguments, n_blocks=27, **fields)
    for case in result.cases if low else ():
        share = case.slow_share.value
        case.slow_share = Estimate(value=share, ci_low=low * share, ci_high=1.5 * share)
    lines = render(result).splitlines()
    assert max(map(len, lines)) <= 80
    return [line for line in lines if line.startswith("tail")]


@pytest.mark.parametrize("low", [0.6, None])
def test_a_tail_that_is_worth_a_look_has_a_line(tmp_path, low):
    told = tail_of_run(tmp_path, 90, 4.0, low=low)
    assert told == ["tail: 16 KiB: 1 call in 90 takes 4 x the median (see --long)"]


def test_the_librarys_tail_is_told_as_its_own(tmp_path):
    told = tail_of_run(tmp_path, 90, 4.0, only="library")
    assert told == ["tail: 16 KiB, MPICH 5.0.2: 1 call in 90 takes 4 x the median (see --long)"]


def test_a_chain_is_no_call(tmp_path):
    """A token sees one of 90 chains, not one of 90 calls."""
    told = tail_of_run(tmp_path, 90, 12.0, mode="chained")
    assert told == ["tail: 16 KiB: 1 chain in 90 takes 12 x the median (see --long)"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": {"arrival_skew_us": 50.0}}, "one rank late by 50 us"),
        ({"shape": {"way": "one_way"}}, "one way"),
        ({"datatype": "int8"}, "int8 sum"),
    ],
    ids=["late", "way", "type"],
)
def test_a_tail_of_a_later_table_is_not_told_as_that_of_the_first(tmp_path, fields, words):
    """16 KiB has a row in both."""
    result = write_steps(tmp_path, 90, 4.0, modes=["isolated", "isolated"], n_blocks=27)
    for case in result.cases[2:]:
        for name, value in fields.items():
            setattr(case, name, value)
    said = " ".join(render(result).split())
    assert f" tail: 16 KiB, {words}: 1 call in 90 takes 4 x the median (see --long)" in said


@pytest.mark.parametrize(
    ("every", "times", "low"),
    [
        (None, 1.0, 0.6),  # no tail
        (90, 2.1, 0.6),  # calls that are hardly slow: they add less than 1 %
        (90, 4.0, 0.05),  # an interval that begins below 1 in 1,000
        (90, 4.0, 0.2),  # one by which they may add less than 1 %
        (300, 60.0, 0.6),  # nine of 2,700
    ],
)
def test_a_tail_that_says_little_has_none(tmp_path, every, times, low):
    """A line in every run would be read by nobody."""
    assert tail_of_run(tmp_path, every, times, low=low) == []


def test_the_worst_tail_is_told(tmp_path):
    """By what it adds to the time: a call in 30 that takes 3 x the median adds more than one in 90
    that takes 4 x."""
    result = write_steps(tmp_path, 30, 3.0, n_blocks=27)
    worse = write_steps(tmp_path / "worse", 90, 4.0, only="library", n_blocks=27)
    ours, theirs = result.cases[1].slow_share, worse.cases[0].slow_share
    for block, other in zip(result.blocks, worse.blocks, strict=True):
        if block.case == other.case == 0:
            block.steps = other.steps
    result.cases[1].slow_share = Estimate(value=ours.value, ci_low=0.7 * ours.value)
    result.cases[0].slow_share = Estimate(value=theirs.value, ci_low=0.7 * theirs.value)
    assert "tail: 16 KiB: 1 call in 30 takes 3 x the median" in render(result)


def test_work_without_a_message_has_steps(tmp_path, reports):
    """As of a stranger's layer, a step at a time: it makes no call that we know of."""
    line = {"name": "moe_layer", "size_bytes": 0, "ranks": 2, "n": 1}
    times_us = [400.0 if place % 90 else 1600.0 for place in range(2700)]
    log = tmp_path / "layer.log"
    log.write_text("".join(f"{json.dumps(line | {'time_us': us})}\n" for us in times_us))
    assert reports("import", log, "--machine", "rack", "--out", tmp_path / "runs")[0] == 0
    said = reports("show", tmp_path / "runs")[1]
    assert ": 1 step in 90 takes 4 x the median" in said


def of_chains(path):
    """What stands below the long table of a run on chains beside calls."""
    return re.findall(r"(\S+ 16 KiB chained): A chain's P99 is", render(read(path), long=True))


def test_a_chain_whose_tail_its_calls_do_not_explain_is_named(tmp_path):
    """Its calls alone are even, and one chain in 50 takes five times as long."""
    both = {"modes": ["isolated", "chained"], "n_blocks": 27}
    path = write_steps(tmp_path, 50, 5.0, **both).path
    assert of_chains(path) == ["auto 16 KiB chained"]
    assert of_chains(write_steps(tmp_path / "even", **both).path) == []

    def choose(case):
        if case["mode"] == "chained" and case["algorithm"] == "auto":
            case["chosen"] = "two_shot"

    rewrite_cases(path, choose)  # calls of another algorithm say nothing on it
    assert of_chains(path) == []
