"""The bill of our own steps, from the parts that a run of bench.decode stores."""

import json
import re
from typing import Any

import pytest

from reports.__main__ import main
from reports.tables.show import text
from tests.reports.breakdown.small_trace import write_trace
from tests.reports.synthetic_run import mark_wrong, rewrite, write_run
from tests.reports.synthetic_together import steps
from wiretax.record.lateness_file import read_lateness
from wiretax.record.result import ResultError, read
from wiretax.record.traced import TracedSteps
from wiretax.record.writing import to_line

pytestmark = pytest.mark.unit
OURS, LIBRARY = 1, 2  # the cases' numbers


def traced(**changes):
    """Ten steps of 64 calls: 1 ms of compute, 640 us of transport, and rank 0 waits for 160 us."""
    fields: dict[str, Any] = {
        "case": OURS,
        "form": "one_shot_push copied",
        "calls": 64,
        "slowdown": 1.03,
        "compute_us": [[1000.0] * 10, [1160.0] * 10],
        "transport_us": [640.0] * 10,
        "waiting_us": [[160.0] * 10, [0.0] * 10],
        "hideable_us": [[400.0] * 10, [500.0] * 10],
        "last_share": [0.1, 0.9],
    }
    return TracedSteps(**fields | changes)


def write_steps(folder, *records):
    """A run whose steps have these parts."""
    path = steps(folder, 1.0, 1.8, 2.5).path
    with path.open("ab") as file:
        file.writelines(map(to_line, records))
    return path


def breakdown(capsys, *words):
    status = main(["breakdown", *map(str, words)])
    return status, *capsys.readouterr()


def bill(capsys, path):
    status, printed, _ = breakdown(capsys, path, "--json")
    assert status == 0
    return json.loads(printed)


def test_a_run_gives_the_bill_of_each_split_as_traces_do(tmp_path, capsys):
    path = write_steps(tmp_path, traced(), traced(case=LIBRARY, form="MPICH 5.0.2 plain"))
    told = bill(capsys, path)
    of_step = {
        "steps": 10,
        "step_us": 1800.0,
        "compute_us": 1080.0,
        "transport_us": 640.0,
        "waiting_us": 80.0,
        "overlap_us": 0.0,
        "hidden_at_most_us": 450.0,
    }
    assert {name: told[name] for name in of_step} == of_step
    assert told["idle_us"] is None, "nobody measured it"
    (call,) = told["calls"]
    of_call = {
        "collective": "all_reduce",
        "by": "Wiretax",
        "size_bytes": 32768,
        "n_calls": 640,
        "transport_us": 10.0,
        "waiting_us": [2.5, 0.0],
        "last_share": [0.1, 0.9],
    }
    assert {name: call[name] for name in of_call} == of_call
    assert [split["calls"][0]["by"] for split in told["splits"]] == ["Wiretax", "MPICH 5.0.2"]
    _, printed, _ = breakdown(capsys, path)
    said = " ".join(printed.split())
    assert "would save at most 0.45 [0.45 0.45] ms, 25.0 %, of a step" in said
    assert "gemv_allreduce, which was faster, has the call inside its kernel" in said
    assert "Timestamps make a step 1.03 times as long" in said
    assert said.count("An engine's step has more compute") == 1, "not again for each split"
    assert bill(capsys, tmp_path) == told, "a folder is its newest run"
    assert max(map(len, printed.splitlines())) <= 80


def test_each_split_has_its_tables_on_the_page(tmp_path, capsys):
    library = traced(case=LIBRARY, form="MPICH 5.0.2 plain", waiting_us=[[0.0] * 10] * 2)
    path, page = write_steps(tmp_path, traced(), library), tmp_path / "page.html"
    assert breakdown(capsys, path, "--html", page)[0] == 0
    headings = re.findall("<h2>(.*?)</h2>", page.read_text())
    assert len([each for each in headings if each.startswith("The calls")]) == 2
    assert len({*headings}) == len(headings)


def test_a_run_of_few_steps_needs_more_time_not_a_profile(tmp_path, capsys):
    few = {name: [[1.0] * 3] * 2 for name in ("compute_us", "waiting_us", "hideable_us")}
    (call,) = bill(capsys, write_steps(tmp_path, traced(transport_us=[5.0] * 3, **few)))["calls"]
    assert call["verdict"] == "inconclusive"
    assert "--max-time" in call["next_step"]


def test_the_table_of_a_run_ends_with_the_parts(tmp_path):
    """Shares of the mean step, 80 columns wide."""
    slow = "a step with notes of the time takes 1.40 times as long"
    none = TracedSteps(
        case=LIBRARY,
        form="MPICH 5.0.2 plain",
        reason=slow,
    )
    shown = text(read(write_steps(tmp_path, traced(), none)))
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = (line for line in lines if "one_shot_push copied" in line)
    assert row.split()[4:] == ["1800", "60%", "36%", "4%", "1:", "90%", "25%"]
    assert slow in " ".join(shown.split())


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([], "has no parts of a step: it is older than they, or ended early; run it again"),
        (
            [
                TracedSteps(
                    case=1,
                    form="ring copied",
                    reason="time ran out",
                )
            ],
            "tells no parts of a step: ring copied: time ran out",
        ),
        (
            [
                traced(
                    compute_us=[[1.0] * 10],
                    waiting_us=[[1.0] * 10],
                    hideable_us=[[1.0] * 10],
                    last_share=[1.0],
                )
            ],
            "its parts are not of its 2 ranks",
        ),
        ([traced(case=99)], "belongs to a case that was not planned"),
    ],
)
def test_a_run_that_tells_no_parts_is_refused_in_one_sentence(tmp_path, capsys, records, sentence):
    status, printed, error = breakdown(capsys, write_steps(tmp_path, *records))
    assert (status, printed, error.count("\n")) == (2, "", 1)
    assert sentence in error


def test_other_runs_and_several_are_refused(tmp_path, capsys):
    path = write_steps(tmp_path / "a", traced())
    other = write_run(tmp_path / "b").path
    status, _, error = breakdown(capsys, other)
    assert (status, "is a run of allreduce" in error) == (2, True)
    status, _, error = breakdown(capsys, path, path)
    assert (status, "one run at a time" in error) == (2, True)
    status, _, error = breakdown(capsys, path, "--one", path)
    assert (status, "not with a run of ours" in error) == (2, True)
    status, _, error = breakdown(capsys, path, "--save-lateness", tmp_path / "late.csv")
    assert (status, "needs traces" in error) == (2, True)
    mark_wrong(path, OURS)
    status, _, error = breakdown(capsys, path)
    assert (status, "has wrong results" in error) == (2, True)


@pytest.mark.parametrize(
    "change",
    [
        {"compute_us": [[1000.0] * 10, [1160.0] * 9]},
        {"waiting_us": [[160.0] * 10]},
        {"transport_us": [640.0] * 9},
        {"calls": 0},
        {"calls": -1},
        {"compute_us": [["much"] * 10, [1.0] * 10]},
        {"hideable_us": [[-5.0] * 10, [1.0] * 10]},
    ],
)
def test_a_damaged_record_of_parts_is_refused(tmp_path, change):
    """Lists of unlike lengths would otherwise be broadcast, or end in a traceback."""
    path = write_steps(tmp_path, traced())
    rewrite(path, lambda line: line.update(change if line["kind"] == "traced_steps" else {}))
    with pytest.raises(ResultError, match="not a `traced_steps` line"):
        read(path)


def test_traces_give_the_lateness_that_bench_decode_repeats(tmp_path, capsys):
    """Rank 1 is 7 us late at each of six calls: rank 0 waits so long for it."""
    traces = [
        write_trace(tmp_path / "rank0.json", 0, late_us=7.0),
        write_trace(tmp_path / "rank1.json", 1),
    ]
    path = tmp_path / "late.csv"
    status, _, _ = breakdown(capsys, *traces, "--save-lateness", path)
    assert status == 0
    assert read_lateness(path).tolist() == [[0.0, 7.0]] * 6
    status, _, error = breakdown(capsys, traces[0], "--save-lateness", tmp_path / "none.csv")
    assert (status, "calls of all their ranks" in error) == (2, True)
    assert not (tmp_path / "none.csv").exists()
