"""`reports export`: a store as CSV, Parquet and OpenMetrics, read back by other programs' readers."""

import csv
import io
import math
import sys

import pandas as pd
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from reports.__main__ import main
from reports.imports.imported import (
    ImportedCase,
    ImportedFrom,
    ImportedRun,
    ImportedSummary,
    write_imported,
)
from reports.store.result import read
from reports.store.schema import End
from reports.tables.export import as_openmetrics
from reports.tables.formats import as_csv_text
from reports.tables.frame import case_rows
from tests.launch import ROOT
from tests.reports.synthetic_campaign import rewrite_head
from tests.reports.synthetic_run import write_run

SIZES, ALGORITHMS = (16384, 33554432), ("library", "auto")
RUN_ID = "2026-11-20T06-15-0{}Z-allreduce-1a2b3c"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four launches, the third of another machine, the fourth slowed on purpose, a log, and a file that is no run."""
    folder = tmp_path_factory.mktemp("store")
    for number in range(4):
        made = write_run(folder / f"day{number}", sizes=SIZES, algorithms=ALGORITHMS, n_blocks=6, n=4, seed=number,
                         run_id=RUN_ID.format(number))  # fmt: skip
    rewrite_head(made.path, world__slowed_percent=10)
    rewrite_head(folder / "day2" / f"{RUN_ID.format(2)}.jsonl", machine_id='quote " and \\n')
    log = ImportedRun(
        run_id="import-abc-1",
        benchmark="nccl-tests all_reduce",
        statistic="mean over iterations",
        world={"size": 2, "hosts": 2, "ranks": []},
        imported_from=ImportedFrom(
            file="=cmd().log", format="nccl-tests", first_line=1, last_line=9
        ),
    )
    case = ImportedCase(case=0, collective="all_reduce", size_bytes=8, time_us=ImportedSummary(mean=0.2), suspect=True,
                        max_error=5e-07)  # fmt: skip
    write_imported(folder, log, [case], End(status="complete"))
    (folder / "other.jsonl").write_text("hello\n")
    return folder


def median_us(case):
    assert case.time_us is not None
    return case.time_us.median


def export(capsysbinary, *arguments, status=0):
    assert main(["export", *map(str, arguments)]) == status
    out, err = capsysbinary.readouterr()
    return out, err.decode()


def test_the_csv_has_a_row_for_each_case_and_no_empty_column(store, capsysbinary):
    """A spreadsheet must show every case of a store, and no columns that nothing fills."""
    out, err = export(capsysbinary, store, "--csv")
    assert err.startswith("reports: left out: other.jsonl: ")
    assert err.count("\n") == 1
    head, *rows = csv.reader(io.StringIO(out.decode()))
    cases = [
        case
        for number in range(4)
        for case in read(store / f"day{number}/{RUN_ID.format(number)}.jsonl").cases
    ]
    assert len(rows) == len(cases) + 1
    assert all(any(column) for column in zip(*rows, strict=True))
    assert not {"snr_db", "routing", "shape"} & set(head)  # which no case of an all-reduce has
    of_case = [dict(zip(head, row, strict=True)) for row in rows]
    assert [float(row["time_us_median"]) for row in of_case[:-1]] == [
        median_us(case) for case in cases
    ]
    last = of_case[-1]
    names = "imported_from", "suspect", "hosts", "world_size"
    assert [last[name] for name in names] == ["'=cmd().log", "True", "2", "2"]
    alone, _ = export(capsysbinary, store / "day0" / f"{RUN_ID.format(0)}.jsonl", "--csv")
    assert "imported_from" not in alone.decode().partition("\n")[0]


def test_parquet_has_the_same_figures_as_csv(store, tmp_path, capsysbinary):
    """A notebook must read the figures of the store, not figures rounded on the way."""
    out, _ = export(capsysbinary, store, "--csv")
    export(capsysbinary, store, "--parquet", "-o", tmp_path / "store.parquet")
    frame, table = pd.read_parquet(tmp_path / "store.parquet"), pd.read_csv(io.BytesIO(out))
    assert list(frame.columns) == list(table.columns)
    assert len(frame) == len(table)
    for name in table.select_dtypes("number"):
        assert frame[name].astype(float).tolist() == pytest.approx(
            table[name].tolist(), rel=1e-12, nan_ok=True
        ), name
    assert frame.max_error.iloc[-1] == 5e-07
    assert str(frame.started.iloc[0]) == "2026-11-20 06:15:00+00:00"


def test_openmetrics_passes_the_parser_of_prometheus_and_keeps_the_figures(store, capsysbinary):
    """Prometheus refuses a whole file for one point out of order, one wrong unit or one bare quote."""
    out, _ = export(capsysbinary, store, "--openmetrics")
    text = out.decode()
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    times = families["wiretax_collective_time_seconds"]
    assert (times.type, times.unit) == ("gauge", "seconds")
    points = {
        (
            float(sample.timestamp),
            sample.labels["size_bytes"],
            sample.labels["algorithm"],
            sample.labels["mode"],
        ): sample
        for sample in times.samples
    }
    assert len(points) == len(times.samples) == 3 * 6  # neither the slowed run nor the log
    runs = [read(store / f"day{number}/{RUN_ID.format(number)}.jsonl") for number in range(3)]
    for number, run in enumerate(runs):
        for case in run.cases:
            sample = points[1795155300 + number, str(case.size_bytes), case.algorithm, case.mode]
            assert math.isclose(sample.value, median_us(case) / 1e6, rel_tol=1e-9)
            assert sample.labels["machine_id"] == run.run.machine_id
    busbw = families["wiretax_bus_bandwidth_bytes_per_second"]
    assert (busbw.unit, 1e8 < busbw.samples[0].value < 1e11) == ("bytes_per_second", True)
    assert families["wiretax_wrong_elements"].samples[0].value == 0


def test_no_csv_has_an_empty_column(store, capsys):
    """A spreadsheet of columns without a figure hides those with one."""
    rows: list[dict] = [
        {"a": 1, "b": "", "c": None, "d": [], "e": math.nan, "f": "", "g": False},
        {"a": None, "b": "", "c": None, "d": [], "e": math.nan, "f": "=x", "g": False},
    ]
    assert as_csv_text(rows) == "a,f,g\n1,,False\n,'=x,False\n"
    runs = [str(store / f"day{number}/{RUN_ID.format(number)}.jsonl") for number in (0, 1)]
    for words in (["compare", *runs, "--format", "csv"], ["show", runs[0], "--format", "csv"]):
        assert main(words) == 0
        head, *cells = csv.reader(io.StringIO(capsys.readouterr().out))
        assert len(cells) >= 6
        assert [
            name
            for name, column in zip(head, zip(*cells, strict=True), strict=True)
            if not any(column)
        ] == []


def test_suspect_figures_are_no_metrics(store):
    """A metric has no mark, so a figure that beats its bound must not become one."""
    row = next(case_rows(read(store / f"day0/{RUN_ID.format(0)}.jsonl")))
    assert "wiretax_collective_time_seconds{" in as_openmetrics([row])
    assert "{" not in as_openmetrics([row | {"suspect": True}])


def test_bad_commands_are_refused_in_one_sentence(store, tmp_path, capsysbinary, monkeypatch):
    commands = [
        (tmp_path, "--csv"),
        (store / "other.jsonl", "--csv"),
        (store / "gone", "--csv"),
        (store, "--csv", "-o", tmp_path / "no/folder.csv"),
    ]
    for arguments in commands:
        _, err = export(capsysbinary, *arguments, status=2)
        assert next(line for line in err.splitlines() if "left out" not in line).startswith(
            "reports: "
        ), arguments
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    _, err = export(capsysbinary, store, "--parquet", status=2)
    assert "Parquet needs pyarrow: python -m pip install pyarrow" in err
    assert str(ROOT) not in err
