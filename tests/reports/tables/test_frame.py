"""`wiretax.load`: runs as a pandas DataFrame; and `show` of the newest run."""

import os
import re
import shutil

import pandas as pd
import pytest

import wiretax
from reports.__main__ import main as reports
from tests.launch import ROOT
from tests.reports.synthetic_run import write_run

pytestmark = pytest.mark.unit

OLD, NEW = "2026-11-20T06-15-00Z-allreduce-1a2b3c", "2026-11-21T06-15-00Z-allreduce-0a2b3c"


@pytest.fixture
def store(tmp_path):
    """Two runs; the older one, in a folder of a campaign, was written last."""
    results = tmp_path / "results"
    new = write_run(results, sizes=[16384, 65536], run_id=NEW)
    write_run(results / "campaign-1a2b3c4d" / "base", sizes=[16384], world_size=4, run_id=OLD)
    (results / "campaign-1a2b3c4d" / "campaign.jsonl").write_text("a manifest is no run")
    return new


def test_a_row_per_case_has_the_figures_of_the_file(store):
    frame = wiretax.load(store.path)
    assert len(frame) == len(store.cases)
    for (_, row), case in zip(frame.iterrows(), store.cases, strict=True):
        assert (row.case, row.algorithm, row.size_bytes, row["mode"]) == (
            case.case,
            case.algorithm,
            case.size_bytes,
            case.mode,
        )
        assert (row.time_us_median, row.time_us_mean) == (case.time_us.median, case.time_us.mean)
        assert (row.time_us_ci_low, row.time_us_ci_high) == (
            case.time_us.ci_low,
            case.time_us.ci_high,
        )
        assert row.bus_bw_gb_s == case.bus_bw_gb_s or pd.isna(row.bus_bw_gb_s)
    assert set(frame.run_id) == {NEW}
    assert frame.started[0] == pd.Timestamp("2026-11-21 06:15", tz="UTC")
    assert frame.size_bytes.dtype.kind == "i"
    assert frame.time_us_median.dtype.kind == "f"
    assert frame.imported_from.isna().all()


def test_the_column_node_has_the_labels_of_a_runs_hosts_and_older_runs_have_none(store, tmp_path):
    head, *lines = store.path.read_text().splitlines(keepends=True)
    for number, rank in enumerate(range(2), 1):
        head = head.replace(f'{{"rank":{rank},', f'{{"rank":{rank},"node":"n{number}",')
    (tmp_path / "two.jsonl").write_text("".join([head, *lines]))
    assert set(wiretax.load(tmp_path / "two.jsonl").node) == {"n1+n2"}
    assert wiretax.load(store.path).node.isna().all()


def test_a_row_per_block_has_the_columns_of_its_case(store):
    frame = wiretax.load(store.path, level="block")
    assert len(frame) == len(store.blocks)
    for (_, row), block in zip(frame.iterrows(), store.blocks, strict=True):
        assert (row.case, row.block, row.time_us) == (block.case, block.block, block.time_us)
        assert row.algorithm == store.cases[block.case].algorithm
        assert (row.link_rtt_before_ns, row.link_rtt_after_ns) == tuple(block.link_rtt_ns)


def test_a_run_counts_once_under_any_name_and_runs_of_one_name_both_count(store):
    """Otherwise a copied file would weigh twice, and files renamed to run.jsonl would lose all runs but one."""
    shutil.copy(store.path, store.path.with_name("copy.jsonl"))
    for path in [*store.path.parent.rglob("20*.jsonl")]:
        folder = store.path.parent / path.stem
        folder.mkdir()
        path.rename(folder / "run.jsonl")
    frame = wiretax.load(store.path.parent)
    assert {OLD, NEW} == set(frame.run_id)
    assert not frame.duplicated(["run_id", "case"]).any()


@pytest.mark.parametrize("level", ["case", "block"])
def test_every_column_is_documented(store, level):
    """A column's name is in `load`'s docstring or among the fields of docs/results.md, a part without its field."""
    text = str(wiretax.load.__doc__) + (ROOT / "docs" / "results.md").read_text()
    names = {
        re.sub("_(ci_low|ci_high|median|mean|p25|p75|p95|p99|min|max|n|n_blocks)$", "", str(name))
        for name in wiretax.load(store.path, level)
    }
    assert [name for name in names if f"`{name}`" not in text] == []


def test_csv_and_parquet_have_the_cells_of_load(store, tmp_path):
    """Three tables of one store with other names would be three formats to learn."""
    frame = wiretax.load(store.path.parent).dropna(axis="columns", how="all").drop(columns="path")
    for kind, read_back in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        file = tmp_path / f"store.{kind}"
        assert reports(["export", f"--{kind}", str(store.path.parent), "-o", str(file)]) == 0
        table = read_back(file)
        table["started"] = pd.to_datetime(table.started)
        assert list(table.columns) == list(frame.columns), kind
        for name in frame:
            assert table[name].isna().equals(frame[name].isna()), (kind, name)
            if frame[name].dtype.kind in "fi":
                assert table[name].astype(float).tolist() == pytest.approx(
                    frame[name].tolist(), nan_ok=True
                ), name
            else:
                assert table[name].dropna().tolist() == frame[name].dropna().tolist(), (kind, name)


def test_a_folder_gives_all_runs_below_it_and_names_what_it_left_out(store):
    folder = store.path.parent
    (folder / "2026-11-22T06-15-00Z-allreduce-bad.jsonl").write_text("{}\n")
    frame = wiretax.load(str(folder))
    assert list(dict.fromkeys(frame.run_id)) == [OLD, NEW]
    assert dict(frame.groupby("run_id").world_size.first()) == {OLD: 4, NEW: 2}
    (sentence,) = frame.attrs["unreadable"]
    assert "-bad.jsonl" in sentence


def test_an_imported_log_has_its_means_and_is_marked(store, tmp_path, capsys):
    log = tmp_path / "log.txt"
    log.write_text("""# nThread 1 nGpus 2 minBytes 16384 maxBytes 16384 step: 2(factor) warmup iters: 5 iters: 20
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
       16384          4096     float     sum      -1    10.00    1.64    1.64      0    11.00    1.49    1.49      0
# Out of bounds values : 0 OK
""")
    assert reports(["import", str(log), "--out", str(store.path.parent)]) == 0
    frame = wiretax.load(store.path.parent)
    imported = frame[frame.imported_from.notna()]
    assert list(imported.time_us_mean) == [10.0, 11.0]
    assert imported.time_us_median.isna().all()
    assert imported.started.isna().all()


@pytest.mark.parametrize(
    ("path", "level", "sentence"),
    [
        ("", "row", "level is 'row', and must be one of: case, block"),
        ("empty", "case", "empty holds no run"),
        ("nowhere.jsonl", "case", "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_sentence(tmp_path, path, level, sentence):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=sentence):
        wiretax.load(tmp_path / path, level)


def test_show_without_a_file_shows_the_newest_run_below_results(
    store, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert reports(["show", str(store.path)]) == 0
    newest = capsys.readouterr().out
    assert reports(["show"]) == 0
    assert capsys.readouterr().out == newest
    assert reports(["show", "results/campaign-1a2b3c4d"]) == 0
    assert "4 ranks" in capsys.readouterr().out
    shutil.rmtree("results")
    assert reports(["show"]) == 2
    assert "results cannot be read: No such file" in capsys.readouterr().err
    os.mkdir("results")
    assert reports(["show"]) == 2
    assert capsys.readouterr().err == "reports: results holds no run\n"
