"""`python -m reports accept`: stores each machine's baseline; no other command changes a
baseline."""

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import reports.verdicts.accept
from reports.__main__ import main
from tests.bench.faulty_runs import wait_for
from tests.launch import ROOT
from tests.reports.synthetic_campaign import slower, write_launches
from tests.reports.synthetic_run import rewrite_head
from tests.reports.verdicts.test_regress import gate
from wiretax.record.writing import write_whole

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """Two folders of equal launches."""
    folder = tmp_path_factory.mktemp("alike")
    return [write_launches(folder / name, 8, seed=seed) for seed, name in enumerate(("old", "new"))]


@pytest.fixture
def accept(tmp_path, capsys):
    """A function that accepts runs, and returns the status and the one sentence that it prints."""

    def run(current, *options, reason="fewer copies"):
        sides = ["--baseline", str(tmp_path / "baselines"), "--current", str(current)]
        status = main(["accept", *sides, "--reason", reason, *options])
        out, err = capsys.readouterr()
        assert (out + err).count("\n") == 1
        return status, out + err

    return run


@pytest.fixture
def baselines(tmp_path, accept, alike):
    """The folder of baselines, with one of machine a1b2c3."""
    status, printed = accept(alike[0], reason="the first one")
    assert (status, "8 launches of " in printed) == (0, True)
    assert "are now the baseline of machine a1b2c3" in printed
    return tmp_path / "baselines"


def entries(folder):
    return [json.loads(line) for line in (folder / "accepted.jsonl").read_text().splitlines()]


def test_a_baseline_is_stored_by_machine_and_moved_and_used(baselines, accept, tmp_path, capsys):
    [first] = entries(baselines)
    assert (first["machine_id"], first["reason"]) == ("a1b2c3", "the first one")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["when"])
    slowed = write_launches(tmp_path / "a", 8, seed=3, effect=slower(5))
    assert accept(slowed, reason="slower, but right")[0] == 0
    [_, second] = entries(baselines)
    assert second["reason"] == "slower, but right"
    # The former runs are gone.
    stored = sorted(run.stem for run in (baselines / "a1b2c3").iterdir())
    assert sorted(second["run_ids"]) == stored
    slowest = write_launches(tmp_path / "c", 14, seed=4, effect=slower(25))
    status, printed = gate(capsys, baselines, slowest)
    assert status == 1
    assert re.search(r"16 KiB two_shot: 1\.(18|19|20)", printed)
    assert "14 launches against 8, not interleaved" in printed
    hint = shlex.split(printed.partition("all cells: python -m reports ")[2])
    assert main(hint) == 0, hint
    # `compare` reads runs, of which the folder of all machines holds none itself.
    assert main(["compare", str(baselines), str(slowest)]) == 2
    assert f"; the folder {baselines}/a1b2c3 has one\n" in capsys.readouterr().err


def of_another_machine(folder, seed):
    launches = write_launches(folder, 6, seed=seed)
    for run in launches.glob("*.jsonl"):
        rewrite_head(run, machine_id="ffffff")
    return launches


def test_another_machine_has_no_baseline_until_a_user_accepts_one(
    baselines, accept, tmp_path, capsys
):
    elsewhere = of_another_machine(tmp_path / "b", 2)
    status, printed = gate(capsys, baselines, elsewhere)
    assert status == 4
    for word in ("machine", "a1b2c3", "ffffff"):
        assert word in printed
    assert accept(elsewhere)[0] == 0
    assert gate(capsys, baselines, of_another_machine(tmp_path / "c", 3))[0] in (0, 3)
    assert {run.name for run in baselines.iterdir()} == {"a1b2c3", "ffffff", "accepted.jsonl"}


def test_accept_refuses_runs_that_cannot_be_a_baseline(accept, alike, tmp_path):
    assert accept(alike[0], reason="  ") == (
        2,
        "reports: --reason is empty: say why the baseline moves\n",
    )
    assert "5 launches" in accept(write_launches(tmp_path / "few", 5))[1]
    run = sorted((write_launches(tmp_path / "cut", 6)).glob("*.jsonl"))[2]
    run.write_bytes(run.read_bytes()[:-20])
    status, printed = accept(tmp_path / "cut")
    assert (status, str(run) in printed) == (5, True)
    assert not (tmp_path / "baselines").exists()


@pytest.mark.parametrize("machine_id", ["..", ""])
def test_runs_that_would_harm_a_baseline_change_nothing(accept, tmp_path, machine_id):
    """Otherwise accept would store the runs outside the folder and remove the files there as a
    former baseline."""
    runs = write_launches(tmp_path / "runs", 6)
    for run in runs.glob("*.jsonl"):
        rewrite_head(run, machine_id=machine_id)
    (tmp_path / "precious.jsonl").write_text("{}")
    status, printed = accept(runs)
    assert (status, "cannot name a file" in printed) == (2, True)
    assert (tmp_path / "precious.jsonl").exists()


def test_a_link_in_place_of_a_machines_folder_leads_nowhere(accept, alike, tmp_path):
    """A store may come from elsewhere, and its link led `accept` to remove files there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.jsonl").write_text("kept\n")
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "a1b2c3").symlink_to(elsewhere)
    status, sentence = accept(alike[0])
    assert (status, "a1b2c3 is no folder of its own" in sentence) == (2, True)
    assert [path.name for path in elsewhere.iterdir()] == ["mine.jsonl"]


def test_an_interrupted_move_leaves_the_former_baseline(
    baselines, accept, alike, tmp_path, capsys, monkeypatch
):
    """The process is killed after it stored the new runs and before it wrote the line: the gate
    still compares with the former baseline."""

    def killed(path, content):
        if path.name == "accepted.jsonl":
            raise KeyboardInterrupt
        write_whole(path, content)

    monkeypatch.setattr(reports.verdicts.accept, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        accept(write_launches(tmp_path / "b", 8, seed=2, effect=lambda case: 3.0))
    status, printed = gate(capsys, baselines, alike[1])
    assert (status in (0, 3), "8 launches against 8" in printed) == (True, True)


@pytest.mark.parametrize("kept_bytes", [None, 20_000])
def test_a_damaged_run_of_the_baseline_is_refused(baselines, alike, capsys, kept_bytes):
    """Otherwise its launch would be judged by fewer blocks or none."""
    run = max((baselines / "a1b2c3").iterdir())
    content = run.read_bytes()
    run.unlink()
    if kept_bytes:
        run.write_bytes(content[:kept_bytes])
    status, printed = gate(capsys, baselines, alike[1])
    assert (status, run.stem in printed) == (2, True)


def test_a_damaged_list_of_baselines_is_one_sentence(baselines, accept, alike, capsys):
    """A traceback ends with status 1, which means a regression."""
    with (baselines / "accepted.jsonl").open("a") as file:
        file.write('{"machine_id":\n')
    status, printed = gate(capsys, baselines, alike[1])
    assert status == 2
    assert re.fullmatch(rf"reports: {baselines}/accepted\.jsonl, line 2: [^\n]+\n", printed)
    assert accept(alike[0])[0] == 2


def test_of_two_at_once_no_line_is_lost(baselines, alike):
    log, command = baselines / "accepted.jsonl", [sys.executable, "-m", "reports", "accept"]
    folder = os.open(baselines, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    sides = ["--baseline", str(baselines), "--current", str(alike[1]), "--reason", "later"]
    with subprocess.Popen([*command, *sides], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        waits = re.compile(rf"-> FLOCK .* {process.pid} ")
        wait_for(lambda: waits.search(Path("/proc/locks").read_text()))
        other = log.read_text().replace("a1b2c3", "d4e5f6")
        log.write_text(log.read_text() + other)
        os.close(folder)
    machines = [(entry["machine_id"], entry["reason"]) for entry in entries(baselines)]
    first = "the first one"
    assert machines == [("a1b2c3", first), ("d4e5f6", first), ("a1b2c3", "later")]
