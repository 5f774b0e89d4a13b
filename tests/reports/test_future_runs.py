"""A run dated in the future, as by a node whose clock is wrong, would stay the newest for ever."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from reports.__main__ import main
from tests.reports.synthetic_run import SIZES, run_id, write_run
from wiretax.record import folder as store

pytestmark = pytest.mark.unit
AHEAD = f"{datetime.now(UTC) + timedelta(days=400):%Y-%m-%dT%H-%M-%SZ}-allreduce-a1b2c3"
SMALL = {"sizes": SIZES[:1], "modes": ["isolated"], "n_blocks": 6}
SAID = "left out, dated in the future: 1 ("


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in (run_id(1), run_id(2), AHEAD):
        write_run(folder, run_id=name, **SMALL)
    return folder


def test_show_takes_the_newest_run_that_can_have_happened(runs, capsys):
    assert main(["show", "--json", str(runs)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["run"]["run_id"] == run_id(2)
    assert SAID in err


@pytest.mark.parametrize("command", ["history", "dashboard"])
def test_reports_on_many_runs_leave_it_out_and_say_so(command, runs, tmp_path, capsys):
    options = ["--out", str(tmp_path / "site")] if command == "dashboard" else []
    main([command, str(runs), "--json", *options])
    out, err = capsys.readouterr()
    assert SAID in " ".join(json.loads(out)["left_out"]) + err
    assert not [page for page in tmp_path.rglob("run-*") if AHEAD[:10] in page.name]


def test_clocks_may_differ_by_a_day(tmp_path):
    soon = f"{datetime.now(UTC) + timedelta(hours=20):%Y-%m-%dT%H-%M-%SZ}-allreduce-a1b2c3"
    write_run(tmp_path, run_id=soon, **SMALL)
    assert [each.left_out for each in store.read_store(tmp_path).entries] == [""]


def test_a_run_that_vanishes_while_a_folder_is_exported_is_left_out(
    runs, tmp_path, monkeypatch, capfd
):
    """A clean-up at night ended the export of the 59 other runs with status 2."""
    for number in (1, 2):
        write_run(tmp_path, run_id=run_id(number), **SMALL)
    ordered = store.in_order

    def delete_one(entries):
        found = ordered(entries)
        found[0].path.unlink()
        return found

    monkeypatch.setattr(store, "in_order", delete_one)
    assert main(["export", "--csv", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert run_id(2) in out
    assert f"left out: {tmp_path / run_id(1)}" in err
