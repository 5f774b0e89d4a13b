"""`reports export`: a store as CSV and OpenMetrics, read back by other programs' readers."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from reports.__main__ import main
from reports.tables.export import gauges
from tests.launch import ROOT
from tests.reports.synthetic_log import write_log
from tests.reports.synthetic_run import mark_wrong, rewrite_head, write_run
from wiretax.record.result import read

LABELS = "size_bytes", "algorithm", "mode"
SIZES, ALGORITHMS = (16384, 33554432), ("library", "auto")
RUN_ID = "2026-11-20T06-15-0{}Z-allreduce-1a2b3c"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three launches, the third of another machine, a log, and a file
    that is no run."""
    folder = tmp_path_factory.mktemp("store")
    for number in range(3):
        fields = {"sizes": SIZES, "algorithms": ALGORITHMS, "n_blocks": 6, "n": 4, "seed": number}
        write_run(folder / f"day{number}", run_id=RUN_ID.format(number), **fields)
    rewrite_head(run_of(folder, 2), machine_id='quote " and \\n')
    row = {"us": 0.2, "size_bytes": 8}
    write_log(folder, row, name="=cmd()", hosts=2, date="2026-11-30T00-00-00Z")
    (folder / "other.jsonl").write_text("hello\n")
    return folder


def run_of(folder, number):
    return folder / f"day{number}" / f"{RUN_ID.format(number)}.jsonl"


def median_us(case):
    assert case.time_us is not None
    return case.time_us.median


def export(capsysbinary, *arguments):
    assert main(["export", *map(str, arguments)]) == 0
    out, err = capsysbinary.readouterr()
    return out, err.decode()


def test_the_csv_has_a_row_for_each_case_and_no_empty_column(store, capsysbinary):
    """A spreadsheet must show every case of a store, and no columns that nothing fills."""
    out, err = export(capsysbinary, store, "--csv")
    assert err.startswith(f"reports: left out: {store / 'other.jsonl'}")
    assert err.count("\n") == 1
    head, *rows = csv.reader(io.StringIO(out.decode()))
    cases = [case for number in range(3) for case in read(run_of(store, number)).cases]
    assert len(rows) == len(cases) + 1
    assert all(any(column) for column in zip(*rows, strict=True))
    of_case = [dict(zip(head, row, strict=True)) for row in rows]
    assert [float(row["time_us_median"]) for row in of_case[:-1]] == [
        median_us(case) for case in cases
    ]
    last = of_case[-1]
    names = "imported_from", "hosts", "world_size"
    assert [last[name] for name in names] == ["'=cmd().log", "2", "2"]


def test_openmetrics_passes_the_parser_of_prometheus_and_keeps_the_figures(store, capsysbinary):
    """Prometheus refuses a whole file for one point out of order, one wrong unit or one bare
    quote."""
    out, _ = export(capsysbinary, store, "--openmetrics")
    text = out.decode()
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    times = families["wiretax_collective_time_seconds"]
    assert (times.type, times.unit) == ("gauge", "seconds")
    points = {
        (float(sample.timestamp), *(sample.labels[name] for name in LABELS)): sample
        for sample in times.samples
    }
    assert len(points) == len(times.samples) == 3 * 6 + 1
    for number in range(3):
        run = read(run_of(store, number))
        for case in run.cases:
            labels = (str(getattr(case, name)) for name in LABELS)
            sample = points[(1795155300 + number, *labels)]
            assert math.isclose(sample.value, median_us(case) / 1e6, rel_tol=1e-9)
            assert sample.labels["machine_id"] == run.run.machine_id
    assert families["wiretax_wrong_elements"].samples[0].value == 0


def test_a_textfile_is_replaced_at_once_and_has_no_times(store, capsysbinary, tmp_path):
    """node_exporter refuses a file with times, and reads it while it is written."""
    path = tmp_path / "wiretax.prom"
    for _ in range(2):
        assert export(capsysbinary, store, "--openmetrics", "--textfile", path)[0] == b""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(len(re.sub("{.*}", "", line).split()) == 2 for line in lines)
    # Three launches of one machine but for the third: a series has its newest figure alone.
    assert (
        len([line for line in lines if line.startswith("wiretax_collective_time_seconds{")]) == 13
    )
    newest = read(run_of(store, 1)).cases[0]
    assert f"}} {median_us(newest) / 1e6:.12g}\n" in path.read_text()
    assert [*tmp_path.iterdir()] == [path]
    if promtool := shutil.which("promtool"):  # of Debian's Prometheus
        subprocess.run([promtool, "check", "metrics"], stdin=path.open(), check=True)


def test_a_case_that_is_right_again_has_no_wrong_figure_in_a_textfile(tmp_path, capsysbinary):
    """Its status was a label, so an alarm never ended."""
    for night, is_wrong in enumerate((True, False)):
        made = write_run(
            tmp_path,
            run_id=f"2026-11-2{night}T06-15-00Z-allreduce-{night:06d}",
            sizes=[16384],
            algorithms=["two_shot"],
            modes=["isolated"],
            n_blocks=6,
            n=2,
        )
        if is_wrong:
            mark_wrong(made.path, 0)
    path = tmp_path / "wiretax.prom"
    export(capsysbinary, tmp_path, "--openmetrics", "--textfile", path)
    found = [line for line in path.read_text().splitlines() if "wrong_elements{" in line]
    assert [line.split()[-1] for line in found] == ["0"]


def test_an_incomplete_run_is_not_ok_and_tells_its_age(tmp_path, capsysbinary):
    write_log(tmp_path, {"us": 5}, status="incomplete")
    out = export(capsysbinary, tmp_path, "--openmetrics")[0].decode()
    assert 'status="ok"' not in out
    assert re.search(r'run_complete{.*status="incomplete"} 0 1795155300\n', out)
    assert re.search("run_timestamp_seconds{.*} 1795155300 1795155300\n", out)


def test_the_grafana_dashboard_asks_for_gauges_that_there_are():
    panels = json.loads((ROOT / "examples/grafana.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    names = {name for text in asked for name in re.findall(r"wiretax_\w+", text)}
    assert len(names) > 4
    assert names <= {name for name, *_ in gauges()}


def test_a_textfile_that_cannot_be_written_or_is_anothers_is_refused(store, capsys, tmp_path):
    other = tmp_path / "other.prom"
    other.write_text("# HELP smart_temperature\n")
    refusals = {
        (other, "--openmetrics"): "is another program's",
        (tmp_path / "wiretax.txt", "--openmetrics"): "node_exporter reads files *.prom",
        (Path("/proc/wiretax.prom"), "--openmetrics"): "cannot be written",
        (tmp_path / "a.prom", "--csv"): "--textfile takes --openmetrics",
    }
    for (path, form), words in refusals.items():
        assert main(["export", str(store), form, "--textfile", str(path)]) == 2
        out, err = capsys.readouterr()
        assert (out, words in err, err.splitlines()[-1].startswith("reports: ")) == ("", True, True)
    assert other.read_text() == "# HELP smart_temperature\n"
    assert [*tmp_path.iterdir()] == [other]
