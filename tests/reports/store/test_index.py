"""The index of a store: the reports say the same with it and without it, whatever happens to its files."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports.__main__ import main
from reports.site import across
from reports.store import index, parts
from reports.store.columns import entry_of
from reports.store.index import Contents, read_entries
from reports.store.parts import FOLDER, SUFFIX, make_part
from reports.store.result import read
from reports.verdicts import sides, store_costs
from tests.launch import ROOT
from tests.reports.synthetic_run import mark_wrong, write_run
from tests.reports.synthetic_store import write_store

NIGHTS = 8
SMALL: dict[str, Any] = {
    "sizes": [16384, 65536],
    "algorithms": ["library", "two_shot"],
    "modes": ["isolated"],
    "n": 4,
}


def run_id(night: int) -> str:
    return f"2026-11-{night + 1:02d}T03-00-00Z-allreduce-{night:06d}"


def write(folder: Path, night: int, **options: Any) -> Path:
    """Writes a run that is in both states of the link, each long enough to count."""
    fast = range(night % 3, night % 3 + 6)
    return write_run(
        folder, n_blocks=12, fast_rounds=fast, seed=night, run_id=run_id(night), **SMALL | options
    ).path


@pytest.fixture
def store(tmp_path):
    """Nights, one of which was cut off and one wrong, a campaign's run, and a file that is no run."""
    folder = tmp_path / "results"
    for night in range(NIGHTS):
        write(folder / f"week{night // 4}", night, finish=night != 5)
    mark_wrong(folder / "week1" / f"{run_id(6)}.jsonl")
    (folder / "other.jsonl").write_text("hello\n")
    return folder


@pytest.fixture
def reports(store, capsys):
    """Prints reports on the store."""

    def run(*words: str) -> Any:
        assert main([words[0], str(store), *words[1:]]) in (0, 1)
        return capsys.readouterr()

    return run


def all_of(reports: Any) -> list[str]:
    return [
        text
        for words in (["history", "--json"], ["export", "--csv"], ["export", "--openmetrics"])
        for text in reports(*words)
    ]


def test_reports_are_the_same_with_and_without_an_index(
    store, reports, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(across, "MOST_RUNS", 2)  # with a page
    before = all_of(reports)
    assert main(["dashboard", str(store), "-o", str(tmp_path / "site")]) == 0
    pages = {path.name: path.read_text() for path in (tmp_path / "site").glob("*.html")}
    capsys.readouterr()
    assert not (store / FOLDER).exists()  # a small store gets an index on demand only
    assert json.loads(reports("index", "--json").out)["runs"] == NIGHTS
    assert all_of(reports) == before
    assert main(["dashboard", str(store), "-o", str(tmp_path / "site")]) == 0
    assert {path.name: path.read_text() for path in (tmp_path / "site").glob("*.html")} == pages
    assert read_entries(store).n_read == 1  # the file that is no run


def test_costs_are_those_that_verdicts_use(tmp_path):
    """Launches with two states of the link, blocks between states, and without probes."""

    def change(block):
        trips = {0: None, 1: (100.0, 300.0)}.get(block.round, block.link_rtt_ns)
        return msgspec.structs.replace(block, link_rtt_ns=trips)

    results = [read(write(tmp_path, night, change=change)) for night in range(3)]
    launches = [sides.Launch(result, "first", 0) for result in results]
    rtt_ns = sides.find_costs(launches, ())
    entries = list(map(entry_of, results))
    [costs] = store_costs.find_costs(Contents(tmp_path, entries), [entries])
    assert costs.rtt_ns == pytest.approx(rtt_ns, rel=0.005)
    assert len(rtt_ns) == 2
    for row, launch in enumerate(launches):
        for column, key in enumerate(costs.keys):
            own = {
                state: cost_us
                for state, cost_us in enumerate(costs.us[row, column].tolist())
                if not np.isnan(cost_us)
            }
            assert own == launch.costs[key] != {}


def test_a_new_run_is_added_and_a_changed_one_read_again(store, reports):
    def n_read() -> int:
        return int(json.loads(reports("index", "--json").out)["read"])

    assert [n_read(), n_read()] == [NIGHTS, 0]
    write(store / "week1", 20)
    assert n_read() == 1
    shutil.rmtree(store / "week0")
    cut_off = store / "week1" / f"{run_id(5)}.jsonl"
    cut_off.write_bytes(
        cut_off.read_bytes()[:-100]
    )  # as a run that is being written has another length later
    assert n_read() == 1
    assert len(list((store / FOLDER).iterdir())) == 1  # small parts are joined
    after = all_of(reports)
    shutil.rmtree(store / FOLDER)
    assert all_of(reports) == after


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign", "gone while read"])
def test_a_damaged_index_costs_time_and_no_run(store, reports, damage, monkeypatch):
    before = all_of(reports)
    reports("index")
    [part] = (store / FOLDER).iterdir()
    content = bytearray(part.read_bytes())
    if damage == "cut":
        part.write_bytes(content[: len(content) // 2])
    elif damage == "flip":  # every page of blocks: the small columns are still fine
        metadata = pq.ParquetFile(part).metadata.row_group(0)
        for place in range(metadata.num_columns):
            column = metadata.column(place)
            if column.path_in_schema.split(".")[0] in (
                "case",
                "bin",
                "cost_us",
                "environment",
                "cell_time_us_median",
            ):
                content[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
        part.write_bytes(content)
    elif damage == "empty":
        part.write_bytes(b"")
    elif damage == "foreign":
        pq.write_table(pa.table({"path": [b"a"], "head": [b"{}"]}), part)
    else:
        (store / FOLDER / f"0{SUFFIX}").symlink_to("nothing")
    assert all_of(reports) == before
    assert all_of(reports) == before
    assert read_entries(store).n_read == 1  # it was repaired; the file that is no run


def senseless(column: str, rows: list[Any]) -> list[Any]:
    """The values of a column of a part, of which some are such as no run has."""
    first, rest = rows[0], rows[1:]
    changed: dict[str, Callable[[], list[Any]]] = {
        "case": lambda: [[number + 2**30 for number in first], *rest],
        "bin": lambda: [first[1:], *rest],
        "cost_us": lambda: [[float("inf"), *first[1:]], *rest],
        "round_trips": lambda: [[2**30, 1], *rest],
        "head": lambda: [first.replace(b'"ranks":[', b'"ranks":["no rank",'), *rest],
        "statuses": lambda: [b'["ok"]' for _ in rows],
        "path": lambda: [first] * len(rows),
        "cell_time_us_median": lambda: [["text"] * len(values) for values in rows],
        "cell_bus_bw_gb_s": lambda: [values[1:] for values in rows],
    }
    return changed[column]()


@pytest.mark.parametrize(
    "column",
    [
        "case",
        "bin",
        "cost_us",
        "round_trips",
        "head",
        "statuses",
        "path",
        "cell_time_us_median",
        "cell_bus_bw_gb_s",
    ],
)
def test_senseless_values_in_an_index_are_read_from_the_runs(store, reports, column):
    before = all_of(reports)
    reports("index")
    [path] = (store / FOLDER).iterdir()
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    values = senseless(column, table[column].to_pylist())
    is_text = column.startswith("cell_time")
    column_type = pa.list_(pa.string()) if is_text else table.schema.field(column).type
    pq.write_table(table.set_column(place, column, pa.array(values, column_type)), path)
    assert all_of(reports) == before
    assert all_of(reports) == before
    assert read_entries(store).n_read == 1


def test_an_environment_that_is_no_object_is_read_from_the_run(store, reports):
    reports("index")
    [path] = (store / FOLDER).iterdir()
    table = pq.read_table(path)
    place = table.schema.get_field_index("environment")
    contents = read_entries(store)
    sound = [entry.environment for entry in contents.load("environment", contents.entries)]
    pq.write_table(
        table.set_column(place, "environment", pa.array([b"[1]"] * len(table), pa.binary())), path
    )
    contents = read_entries(store)
    assert [entry.environment for entry in contents.load("environment", contents.entries)] == sound
    assert not path.exists()


def test_a_small_file_that_claims_many_rows_is_refused_unread(store, reports, monkeypatch):
    reports("index")
    [path] = (store / FOLDER).iterdir()
    table = pq.read_table(path)
    monkeypatch.setattr(parts, "MOST_VALUES", table["case"].combine_chunks().values.nbytes // 4 - 1)
    with pytest.raises(ValueError, match="more values than runs can have"):
        parts.open_part(path)
    monkeypatch.undo()
    many = store / FOLDER / f"0{SUFFIX}"
    rows = parts.MOST_ROWS + 1
    pq.write_table(pa.table({name: pa.repeat(table[name][0], rows) for name in parts.SMALL}), many)
    assert many.stat().st_size < 100_000
    with pytest.raises(ValueError, match="10001 rows"):
        parts.open_part(many)
    assert read_entries(store).n_read == 1
    assert not many.exists()


def test_a_pipe_in_the_index_is_left_alone(store, reports):
    reports("index")
    pipe = store / FOLDER / f"0{SUFFIX}"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "reports", "index", "--json", str(store)]
    answer = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, check=True)
    assert json.loads(answer.stdout)["read"] == 0
    assert pipe.exists()


def test_a_sound_part_is_kept_where_the_system_fails(store, reports):
    """Here with too many open files."""
    reports("index")
    [path] = (store / FOLDER).iterdir()
    read_entries(store)  # imports what it needs
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    contents, paths = (
        Contents(store),
        {str(run.relative_to(store)): run for run in store.glob("*/*.jsonl")},
    )
    stamps = {name: (run.stat().st_size, run.stat().st_mtime_ns) for name, run in paths.items()}
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert index._add_part(contents, path, paths, stamps) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(stamps) == NIGHTS
    assert path.exists()
    assert read_entries(store).n_read == 1


def test_rows_that_two_builders_wrote_are_written_once(store, reports):
    reports("index")
    [path] = (store / FOLDER).iterdir()
    shutil.copy(path, store / FOLDER / f"zz{SUFFIX}")
    assert read_entries(store).n_read == 1
    write(store / "week1", 20)
    reports("index")
    [path] = (store / FOLDER).iterdir()
    names = pq.read_table(path, columns=["path"])["path"].to_pylist()
    assert len(names) == len({*names}) == NIGHTS + 1


def test_parts_whose_runs_alternate_are_each_read_once(store, reports, monkeypatch):
    before = all_of(reports)
    reports("index")
    [path] = (store / FOLDER).iterdir()
    table = pq.read_table(path)
    order = np.argsort(table["path"].to_pylist())
    for number in range(2):
        pq.write_table(table.take(order[number::2]), store / FOLDER / f"{number}{SUFFIX}")
    path.unlink()
    paths = list[Path]()

    def counted(path: Path) -> Any:
        paths.append(path)
        return parts.cells_of_part(path)

    monkeypatch.setattr(index, "cells_of_part", counted)
    assert all_of(reports) == before
    assert len(paths) == 2 * 2  # for each export


def test_a_history_needs_no_pandas(store, reports):
    """Its import takes 0.3 s."""
    code = "import sys; from reports.__main__ import main; main(sys.argv[1:]); assert 'pandas' not in sys.modules"
    reports("index")
    subprocess.run(
        [sys.executable, "-c", code, "history", str(store)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_a_part_that_another_process_has_merged_loses_no_run(store, reports, capsys, monkeypatch):
    before = all_of(reports)

    def merged(*arguments: Any) -> Any:
        path, *rest = make_part(*arguments)
        if path:
            path.unlink()
        return path, *rest

    monkeypatch.setattr("reports.store.index.make_part", merged)
    assert main(["index", str(store)]) == 2
    capsys.readouterr()
    assert all_of(reports) == before


def test_an_index_that_cannot_be_kept_is_done_without(store, reports, tmp_path, capsys):
    """Only the command that makes one fails."""
    before = all_of(reports)
    (store / FOLDER).write_text("in the way")
    (tmp_path / "empty").mkdir()
    for folder, n_runs in ((store, 8), (tmp_path / "empty", 0)):
        assert main(["index", str(folder)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert (
            captured.err.splitlines()[-1]
            == f"reports: {folder} has no index: none of its {n_runs} runs can be kept"
        )
        assert ("cannot be made" in captured.err) == (n_runs > 0)
    assert all_of(reports) == before


def test_without_pyarrow_a_large_store_says_once_what_helps(store, reports, monkeypatch):
    before = all_of(reports)
    monkeypatch.setattr(index, "LEAST_RUNS", 4)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    captured = reports("history", "--json")
    assert [captured.out] == before[:1]
    assert captured.err.count("\n") == 1
    assert "pip install pyarrow" in captured.err
    assert main(["index", str(store)]) == 2


def test_a_large_store_gets_an_index_by_itself_and_series_for_each_node(
    tmp_path, capsys, monkeypatch
):
    """Two nodes with the same hardware are two series, and each has a page; an older run's page is made on demand."""
    monkeypatch.setattr(index, "LEAST_RUNS", 20)
    monkeypatch.setattr(across, "MOST_RUNS", 2)
    folder = write_store(tmp_path / "results", 60, 2, sizes=[16384], rounds=6)
    assert main(["history", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {series["node"] for series in answer["series"]} == {"n000", "n001"}
    assert {series["runs"] for series in answer["series"]} == {30}
    assert (folder / FOLDER).is_dir()
    site = tmp_path / "site"
    assert main(["dashboard", str(folder), "-o", str(site)]) == 0
    assert len(list(site.glob("node-*.html"))) == 2
    assert len(list(site.glob("run-*.html"))) == 2
    older = min(path.stem for path in folder.glob("*/*.jsonl"))
    assert main(["dashboard", str(folder), "-o", str(site), "--run", older]) == 0
    assert len(list(site.glob(f"run-{older[:20]}*.html"))) == 1
    assert len(list(site.glob("run-*.html"))) == 3
    assert main(["dashboard", str(folder), "-o", str(site), "--run", "none"]) == 2
    assert "no run here has this id" in capsys.readouterr().err


def test_a_store_can_be_read_while_it_grows(store, reports):
    """Reports at the same time as writers and each other: nobody fails, and in the end all runs are there."""
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "reports", "index", str(store)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for night in range(20, 26):
        write(store / "week2", night)
    assert [reader.communicate()[1] for reader in readers] == [b"", b""]
    assert [reader.returncode for reader in readers] == [0, 0]
    after = all_of(reports)
    shutil.rmtree(store / FOLDER)
    assert all_of(reports) == after
