"""The index of a store: the reports say the same with it and without it, whatever happens to its
files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports.__main__ import main
from reports.site import across
from reports.store import index
from reports.store.columns import entry_of
from reports.store.index import Contents, read_entries
from reports.store.parts import FOLDER, SUFFIX
from reports.store.result import read
from reports.verdicts import sides, store_costs
from tests.launch import ROOT
from tests.reports.synthetic_run import mark_wrong, write_run

NIGHTS = 8
SMALL = {
    "sizes": [16384, 65536],
    "algorithms": ["library", "two_shot"],
    "modes": ["isolated"],
    "n": 4,
}
STORE = Path("results")  # in the working directory, so that texts do not depend on its place


def run_id(night):
    return f"2026-11-{night + 1:02d}T03-00-00Z-allreduce-{night:06d}"


def write(folder, night, **options):
    """Writes a run that is in both states of the link, each long enough to count."""
    fast = range(night % 3, night % 3 + 6)
    made = {"n_blocks": 12, "fast_rounds": fast, "seed": night, "run_id": run_id(night)}
    return write_run(folder, **SMALL | made | options).path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Nights, one of which was cut off and one wrong, and a file that is no run; and their
    index."""
    folder = tmp_path_factory.mktemp("model") / STORE
    for night in range(NIGHTS):
        write(folder / f"week{night // 4}", night, finish=night != 5)
    mark_wrong(folder / "week1" / f"{run_id(6)}.jsonl")
    (folder / "other.jsonl").write_text("hello\n")
    assert main(["index", str(folder)]) == 0
    return folder


@pytest.fixture
def part(model, tmp_path, monkeypatch):
    """The only file of the index of a fresh store, which is the working directory's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, STORE)
    [path] = (STORE / FOLDER).iterdir()
    return path


@pytest.fixture
def reports(part, capsys):
    """Prints reports on the store."""

    def run(*words):
        assert main([words[0], str(STORE), *words[1:]]) in (0, 1)
        return capsys.readouterr()

    return run


@pytest.fixture
def texts(reports):
    """A function that reads the store by several reports."""

    def run():
        return [
            reports(*words).out
            for words in (["history", "--json"], ["export", "--csv"], ["export", "--openmetrics"])
        ]

    return run


@pytest.fixture
def expected(part, texts):
    """What the reports say without an index; a small store gets one on demand only."""
    folder, aside = STORE / FOLDER, Path("aside")
    folder.rename(aside)
    said = texts()
    assert not folder.exists()
    aside.rename(folder)
    return said


def test_reports_are_the_same_with_and_without_an_index(expected, texts, monkeypatch):
    assert texts() == expected
    assert read_entries(STORE).n_read == 1  # the file that is no run
    monkeypatch.setattr(across, "MOST_RUNS", 2)  # with a page
    pages = []
    for index_is_there in (True, False):
        if not index_is_there:
            shutil.rmtree(STORE / FOLDER)
        assert main(["dashboard", str(STORE), "-o", "site"]) == 0
        pages.append({path.name: path.read_text() for path in Path("site").glob("*.html")})
    assert pages[0] == pages[1]


def test_costs_are_those_that_verdicts_use(tmp_path):
    """Launches with two states of the link, blocks between states, and without probes."""

    def change(block):
        trips = {0: None, 1: (100.0, 300.0)}.get(block.round, block.link_rtt_ns)
        return msgspec.structs.replace(block, link_rtt_ns=trips)

    results = [read(write(tmp_path, night, change=change)) for night in range(3)]
    launches = [sides.Launch(result) for result in results]
    rtt_ns = sides.find_costs(launches, ())
    entries = list(map(entry_of, results))
    [costs] = store_costs.find_costs(Contents(tmp_path, entries), [entries])
    assert costs.rtt_ns == pytest.approx(rtt_ns, rel=0.005)
    assert len(rtt_ns) == 2
    for row, launch in enumerate(launches):
        for column, key in enumerate(costs.keys):
            own = enumerate(costs.us[row, column].tolist())
            assert {state: us for state, us in own if not np.isnan(us)} == launch.costs[key] != {}


def test_a_new_run_is_added_and_a_changed_one_read_again(reports, texts):
    def n_read():
        return int(json.loads(reports("index", "--json").out)["read"])

    assert n_read() == 0
    write(STORE / "week1", 20)
    assert n_read() == 1
    shutil.rmtree(STORE / "week0")
    cut_off = STORE / "week1" / f"{run_id(5)}.jsonl"
    # A run that is being written has another length later.
    cut_off.write_bytes(cut_off.read_bytes()[:-100])
    assert n_read() == 1
    assert len(list((STORE / FOLDER).iterdir())) == 1  # small parts are joined
    after = texts()
    shutil.rmtree(STORE / FOLDER)
    assert texts() == after


@pytest.mark.parametrize("damage", ["cut", "foreign", "gone while read"])
def test_a_damaged_index_costs_time_and_no_run(part, expected, texts, damage):
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:1000])
    elif damage == "foreign":
        pq.write_table(pa.table({"path": [b"a"], "head": [b"{}"]}), part)
    else:
        (STORE / FOLDER / f"0{SUFFIX}").symlink_to("nothing")
    assert texts() == expected
    assert read_entries(STORE).n_read == 1  # it was repaired; the file that is no run


# A column of a part, and a function from its sound values to such as no run has.
SENSELESS = {
    "case": lambda rows: [[number + 2**30 for number in rows[0]], *rows[1:]],
    "cost_us": lambda rows: [[float("inf"), *rows[0][1:]], *rows[1:]],
    "round_trips": lambda rows: [[2**30, 1], *rows[1:]],
    "head": lambda rows: [rows[0].replace(b'"ranks":[', b'"ranks":["no rank",'), *rows[1:]],
    "path": lambda rows: [rows[0]] * len(rows),
    "cell_bus_bw_gb_s": lambda rows: [values[1:] for values in rows],
}


@pytest.mark.parametrize("column", SENSELESS)
def test_senseless_values_in_an_index_are_read_from_the_runs(part, expected, texts, column):
    table = pq.read_table(part)
    place = table.schema.get_field_index(column)
    values = SENSELESS[column](table[column].to_pylist())
    changed = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(place, column, changed), part)
    assert texts() == expected
    assert read_entries(STORE).n_read == 1


def test_an_index_that_cannot_be_kept_is_done_without(expected, texts, capsys):
    """Only the command that makes one fails."""
    shutil.rmtree(STORE / FOLDER)
    (STORE / FOLDER).write_text("in the way")
    assert main(["index", str(STORE)]) == 2
    captured = capsys.readouterr()
    sentence = f"reports: {STORE} has no index: none of its 8 runs can be kept"
    assert (captured.out, captured.err.splitlines()[-1]) == ("", sentence)
    assert texts() == expected


def test_a_large_store_gets_an_index_by_itself_or_says_once_what_helps(
    expected, reports, monkeypatch
):
    shutil.rmtree(STORE / FOLDER)
    monkeypatch.setattr(index, "LEAST_RUNS", 4)
    assert reports("history", "--json").out == expected[0]
    assert (STORE / FOLDER).is_dir()  # made by itself
    shutil.rmtree(STORE / FOLDER)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    captured = reports("history", "--json")
    assert captured.out == expected[0]
    assert captured.err.count("\n") == 1
    assert "pip install pyarrow" in captured.err
    assert main(["index", str(STORE)]) == 2


def test_a_store_can_be_read_while_it_grows(part, texts):
    """Reports at the same time as writers and each other: nobody fails, and in the end all runs are
    there."""
    command = [sys.executable, "-m", "reports", "index", str(STORE.absolute())]
    readers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for night in range(20, 26):
        write(STORE / "week2", night)
    assert [reader.communicate()[1] for reader in readers] == [b"", b""]
    assert [reader.returncode for reader in readers] == [0, 0]
    after = texts()
    shutil.rmtree(STORE / FOLDER)
    assert texts() == after
