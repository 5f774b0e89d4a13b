"""`wiretax.load`: runs as a pandas DataFrame; and `show` of the newest run."""

import re
import shutil

import pandas as pd
import pytest

import wiretax
from reports.__main__ import COMMANDS
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
    for name in ("case", "algorithm", "size_bytes", "mode"):
        assert frame[name].tolist() == [getattr(case, name) for case in store.cases]
    for name in ("median", "mean", "ci_low", "ci_high"):
        times_us = [getattr(case.time_us, name) for case in store.cases]
        assert frame[f"time_us_{name}"].tolist() == times_us
    assert frame.bus_bw_gb_s.tolist() == [case.bus_bw_gb_s for case in store.cases]
    assert set(frame.run_id) == {NEW}
    assert frame.started[0] == pd.Timestamp("2026-11-21 06:15", tz="UTC")
    assert frame.imported_from.isna().all()


def test_every_column_is_documented(store):
    """A column's name is in `load`'s docstring or among the fields of docs/results.md, a part
    without its field."""
    text = str(wiretax.load.__doc__) + (ROOT / "docs" / "results.md").read_text()
    names = {
        re.sub("_(ci_low|ci_high|median|mean|n_blocks)$", "", str(name))
        for name in wiretax.load(store.path)
    }
    assert [name for name in names if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("empty", "empty holds no run"), ("nowhere.jsonl", "cannot be read: No such file")],
)
def test_what_cannot_be_loaded_is_refused_in_one_sentence(tmp_path, path, sentence):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=sentence):
        wiretax.load(tmp_path / path)


def test_show_without_a_file_shows_the_newest_run_below_results(
    store, tmp_path, monkeypatch, reports
):
    monkeypatch.chdir(tmp_path)
    newest = reports("show", store.path)
    assert (newest[0], reports("show")) == (0, newest)
    assert "4 ranks" in reports("show", "results/campaign-1a2b3c4d")[1]
    shutil.rmtree("results")
    none = "reports: results holds no run yet: type mpirun -n 2 python -m bench.allreduce\n"
    assert reports("show") == (2, "", none)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("shw", ": unknown command 'shw': did you mean show?"),
        ("", f": missing command: choose from {', '.join(COMMANDS)}"),
        ("accept --base x --reasn=y", " accept: unknown option --reasn: did you mean --reason?"),
        ("show --bogus", " show: unrecognized arguments: --bogus"),
    ],
)
def test_a_mistyped_command_or_option_gets_a_suggestion(reports, line, sentence):
    assert reports(*line.split()) == (2, "", f"python -m reports{sentence}\n")
