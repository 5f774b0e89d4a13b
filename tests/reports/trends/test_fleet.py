"""`fleet` on stores of synthetic fleets: slow, wrong and failed nodes and pairs are named, and
nothing else."""

import os
import re
import time
from itertools import combinations

import pytest

from reports.site.fleet_page import fleet_page
from reports.trends.fleet import fleet_of
from tests.reports.synthetic_fleet import write_fleet
from tests.reports.synthetic_run import disturb, mark_wrong
from wiretax.record.folder import read_store

NODES = [f"n{number:02d}" for number in range(12)]


@pytest.fixture
def fleet(reports):
    """A function that asks, and returns the exit status, and the text or the error."""

    def run(*words):
        status, out, error = reports("fleet", *words)
        return status, out or error

    return run


def test_a_slow_node_is_named_with_one_interval_in_headline_table_and_picture(tmp_path, fleet):
    """Otherwise readers would ask which of two figures is right."""
    write_fleet(tmp_path, NODES, slower={"n07": 0.08})
    status, text = fleet(tmp_path)
    figure = text.partition("; of 12 nodes\n")[0].removeprefix("n07 SLOW ")
    value, low, high = map(float, re.findall(r"\+([\d.]+)%", figure))
    assert status == 1
    assert 7 < value < 9
    assert low < 8 < high
    assert re.search(r"(?m)^11 other nodes: -\d\.\d% to \+\d\.\d% slower than the median$", text)
    assert re.search(rf"(?m)^n07 +3 +SLOW +{re.escape(figure)}$", text)
    contents = read_store(tmp_path)
    row = fleet_page(fleet_of(contents), contents).sections[1].rows[0]
    assert (row["node"][0][0], row["slower [95 %]"]) == ("n07", figure)


def test_equal_nodes_have_no_alarm_and_the_report_says_what_it_could_find(tmp_path, fleet):
    write_fleet(tmp_path, NODES)
    status, text = fleet(tmp_path)
    assert (status, text.splitlines()[0]) == (0, "no node differs; of 12 nodes")
    assert re.search(
        r"A node that is \d\.\d% slower than its equals is found four times in five",
        " ".join(text.split()),
    )


def test_many_nodes_with_one_run_each_fit_on_a_page_and_the_slow_one_is_a_suspect(tmp_path, fleet):
    names = [f"r{number // 20}-n{number:03d}" for number in range(100)]
    write_fleet(tmp_path, names, runs=1, slower={"r3-n071": 0.09})
    status, text = fleet(tmp_path)
    assert text.startswith("r3-n071 SUSPECT +")
    assert status == 3
    assert "Measure again on r3-n071." in " ".join(text.split())
    assert len(text.splitlines()) <= 40


def test_wrong_nodes_come_first_and_then_failed_ones(tmp_path, fleet):
    """A wrong result matters more than any time."""
    paths = write_fleet(tmp_path, NODES, slower={"n05": 0.3})
    mark_wrong(paths[3 * 9])  # the other runs of n09 are right
    cut(*paths[3 * 3 : 3 * 4])
    status, text = fleet(tmp_path)
    assert status == 1
    assert re.match(r"n09 WRONG; n03 FAILED; n05 SLOW \+", text)
    assert f"WRONG: n09 ({paths[27].stem})" in text


def test_the_page_calls_no_node_with_wrong_results_fine(tmp_path):
    """Below "n09 WRONG" its row said "fine", as its other runs were as fast as those of others."""
    paths = write_fleet(tmp_path, NODES)
    mark_wrong(paths[3 * 9])
    contents = read_store(tmp_path)
    page = fleet_page(fleet_of(contents), contents)
    [section] = [each for each in page.sections if each.rows]
    verdicts = {row["node"][0][0]: row["verdict"] for row in section.rows}
    assert verdicts.pop("n09") == "WRONG"
    assert {*verdicts.values()} == {"fine"}


def cut(*paths, written_s_ago=3600):
    """Removes the end of these runs, as in a run that is still written or was killed."""
    for path in paths:
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        os.utime(path, (time.time() - written_s_ago,) * 2)


def test_a_run_that_is_still_written_has_not_failed(tmp_path, fleet):
    paths = write_fleet(tmp_path, NODES, runs=1)
    cut(paths[3], written_s_ago=20)
    status, text = fleet(tmp_path)
    assert (status, text.splitlines()[0]) == (0, "no node differs; of 11 nodes")
    assert "left out, still running: 1" in text
    flight = paths[3].with_suffix(".flight")
    flight.mkdir()
    (flight / "ended").write_text('{"rank": 1}')  # by which a run that died at once is known
    cut(paths[4])
    status, text = fleet(tmp_path)
    assert (status, text.splitlines()[0]) == (1, "n03, n04 FAILED; of 12 nodes")


def test_disturbed_launches_alone_make_a_suspect(tmp_path, fleet):
    """A neighbour on the host is no reason to return a node; one undisturbed launch is."""
    paths = write_fleet(tmp_path, NODES, slower={"n07": 0.3})
    own = paths[3 * 7 : 3 * 8]
    for path in own:
        disturb(path)
    status, text = fleet(tmp_path)
    assert (status, text.split(" +")[0]) == (3, "n07 SUSPECT")
    disturb(own[0], 0.0)
    assert fleet(tmp_path)[1].startswith("n07 SLOW +")


def test_other_hardware_has_its_own_equals(tmp_path, fleet):
    """Nodes of another model must neither be slow nor make the spread wide."""
    write_fleet(tmp_path, NODES, runs=2)
    write_fleet(
        tmp_path,
        [f"m{number}" for number in range(6)],
        machine_id="d4e5f6",
        slower={**{f"m{number}": 1.0 for number in range(6)}, "m2": 1.3},
    )
    status, text = fleet(tmp_path)
    assert status == 1
    assert re.match(r"m2 SLOW \+1\d\.\d% .*; of 18 nodes\n", text)


@pytest.mark.parametrize(
    ("is_slow", "headline"),
    [
        (lambda pair: "n03" in pair, "n03 SLOW in 6 of 6 pairs; of 7 nodes"),
        (lambda pair: pair == ("n01", "n04"), r"n01\+n04 SLOW \+[23]\d\.\d% \[.*\]; of 7 nodes"),
    ],
)
def test_pairs_tell_a_slow_node_from_a_slow_pair(is_slow, headline, tmp_path, fleet):
    pairs = list(combinations(NODES[:7], 2))
    write_fleet(
        tmp_path,
        ["+".join(pair) for pair in pairs],
        slower={"+".join(pair): 0.3 for pair in pairs if is_slow(pair)},
    )
    status, text = fleet(tmp_path)
    assert status == 1
    assert re.match(headline, text), text


def test_few_nodes_are_no_fleet(tmp_path, fleet):
    write_fleet(tmp_path, NODES[:3], slower={NODES[0]: 1.0})
    status, text = fleet(tmp_path)
    assert (status, text.splitlines()[0]) == (
        3,
        "too few nodes to compare, which takes 4 with equal hardware and runs; of 3 nodes",
    )
