"""A run is wrong wherever its file says so, whatever the statuses of its cases say."""

import json
import shutil

import pytest

from reports.__main__ import main
from tests.reports.synthetic_campaign import write_launches
from tests.reports.synthetic_run import rewrite
from wiretax.record.folder import WRONG, read_store

pytestmark = pytest.mark.unit

PLACE: dict[str, object] = {"rank": 1, "iteration": 0, "offset_bytes": 16, "element": 4}
PLACE |= {"expected": "12.0 (0x41400000)", "got": "13.0 (0x41500000)"}
# What stands in a line of a kind.
PLACES = {
    "a block": ("block", {"n_wrong": 12, "first_wrong": PLACE}),
    "a first wrong element": ("block", {"first_wrong": PLACE}),
    "a case": ("case", {"n_wrong": 12}),
    "a case that was not measured": ("case", {"n_wrong": 12, "status": "not measured"}),
    "the end": ("end", {"n_wrong": 12}),
}


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    folder = tmp_path_factory.mktemp("right")
    for name in ("base", "new"):
        write_launches(folder / name, 6, seed=("base", "new").index(name), sizes=[16384])
    return folder


@pytest.fixture
def copied(right, tmp_path):
    return shutil.copytree(right, tmp_path / "copied")


@pytest.mark.parametrize("place", PLACES)
def test_a_wrong_element_counts_wherever_it_stands(place, copied, capsys):
    run = max((copied / "new").glob("*.jsonl"))
    kind, said = PLACES[place]

    def change(line):
        if line["kind"] == kind and line.get("case", 1) == 1 and line.get("block", 2) == 2:
            line |= said

    rewrite(run, change)
    sides = ["--baseline", str(copied / "base"), "--current", str(copied / "new")]

    def told(*words):
        return main([*words]), " ".join(capsys.readouterr().out.split())

    status, text = told("show", str(run))
    assert (status, text.startswith("allreduce: WRONG RESULTS in ")) == (0, True)
    status, text = told("regress", *sides)
    assert (status, f"(the first: {run})" in text) == (5, True)
    assert f"of copied/new: {'1' if 'first' in place else '12'} elements were wrong" in text
    status, text = told("compare", *sides[1::2])
    assert (status, "; WRONG: 16 KiB " in text) == (0, True)
    by_path = {entry.path: entry.left_out for entry in read_store(copied).entries}
    assert by_path.pop(run) == WRONG
    assert {*by_path.values()} == {""}
    status, text = told("history", "--json", str(copied))
    assert (status, json.loads(text)["wrong"]) == (1, [run.stem])
