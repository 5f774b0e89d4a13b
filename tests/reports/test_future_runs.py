"""A run dated in the future, as by a node whose clock is wrong, would stay the newest for ever."""

import json
import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from reports.__main__ import main
from reports.verdicts.bits_report import baseline_for
from reports.verdicts.days import other_entries
from reports.verdicts.sides import Side
from reports.verdicts.verdict import MIN_PAIRS
from tests.reports.synthetic_bits import write_bits, written
from tests.reports.synthetic_campaign import write_launch
from tests.reports.synthetic_fleet import write_fleet
from tests.reports.synthetic_run import SIZES, mark_wrong, rewrite_head, run_id, write_run
from wiretax.record import folder as store
from wiretax.record.bits_record import read_bits

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


def test_a_textfile_has_no_figure_of_it_even_if_it_is_wrong(tmp_path, capsys):
    """A wrong one was left out for that alone, and stayed the newest: an alarm for ever."""
    for name in (run_id(1), AHEAD):
        write_run(tmp_path, run_id=name, **SMALL)
    ahead = tmp_path / f"{AHEAD}.jsonl"
    out = tmp_path / "wiretax.prom"
    words = ["export", str(tmp_path), "--openmetrics", "--textfile", str(out)]
    for change in (lambda: None, lambda: mark_wrong(ahead)):
        change()
        assert main(words) == 0
        assert SAID in capsys.readouterr().err
        found = re.findall(
            r"^wiretax_run_timestamp_seconds{.*} (\d+)$", out.read_text(), re.MULTILINE
        )
        assert found
        assert max(map(int, found)) < datetime.now(UTC).timestamp()


def test_fleet_leaves_it_out_but_names_a_node_that_computes_wrong(tmp_path, capsys):
    paths = write_fleet(tmp_path, [f"n{number}" for number in range(6)])
    rewrite_head(paths[0], run_id=AHEAD)
    rewrite_head(paths[3], run_id=AHEAD[:-1] + "4")
    mark_wrong(paths[3])
    assert main(["fleet", str(tmp_path)]) == 1
    out, _ = capsys.readouterr()
    assert out.startswith("n1 WRONG; of 6 nodes")
    assert SAID in " ".join(out.split())


def test_days_of_a_kept_baseline_leave_it_out(tmp_path):
    launches = [write_launch(tmp_path, number) for number in range(MIN_PAIRS + 1)]
    ahead = write_launch(tmp_path, MIN_PAIRS + 1)
    rewrite_head(ahead.path, run_id=AHEAD)
    sides = Side("", launches[:1]), Side("", launches[1:])
    assert [each.path for each in other_entries(*sides)] == [launches[0].path]


@pytest.mark.parametrize("place", ["record", "baseline"])
def test_bits_take_the_newest_record_that_can_have_happened(tmp_path, capsys, place):
    record = read_bits(write_bits(tmp_path / "record"))
    for name in ("2026-11-26T20-00-00Z-bits-1a2b3b", f"{AHEAD[:20]}-bits-1a2b3d"):
        written(msgspec.structs.replace(record, run_id=name), tmp_path)
    if place == "record":
        assert main(["bits", str(tmp_path), "--json"]) == 0
        out, err = capsys.readouterr()
        assert SAID in err
        assert json.loads(out)["record"]["run_id"].startswith("2026-11-26")
        return
    assert baseline_for([record], tmp_path).run_id.startswith("2026-11-26")


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
