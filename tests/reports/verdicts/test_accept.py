"""`python -m reports accept`: stores each machine's baseline; no other command changes a baseline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import reports.verdicts.accept
from reports.__main__ import main
from reports.store.writing import write_whole
from tests.reports.synthetic_campaign import (
    no_effect,
    rewrite_head,
    slower,
    write_campaign,
    write_launches,
)
from tests.reports.verdicts.test_regress import gate

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    return write_campaign(
        tmp_path_factory.mktemp("alike") / "campaign", {"main": no_effect, "new": no_effect}
    )


def accept(capsys, baseline, current, *options, reason="fewer copies") -> tuple[int, str]:
    status = main(
        [
            "accept",
            "--baseline",
            str(baseline),
            "--current",
            str(current),
            "--reason",
            reason,
            *options,
        ]
    )
    out, err = capsys.readouterr()
    assert (out + err).count("\n") == 1
    return status, out + err


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "accepted.jsonl").read_text().splitlines()]


def test_a_baseline_is_stored_by_machine_and_moved_with_its_effects_and_used(
    alike, tmp_path, capsys
):
    baselines = tmp_path / "baselines"
    status, printed = accept(capsys, baselines, alike / "main", reason="the first one")
    assert (status, "8 launches of main are now the baseline of machine a1b2c3" in printed) == (
        0,
        True,
    )
    first = entries(baselines)[0]
    assert (first["machine_id"], first["reason"], first["effects"]) == (
        "a1b2c3",
        "the first one",
        None,
    )
    assert sorted(first["run_ids"]) == sorted(run.stem for run in (baselines / "a1b2c3").iterdir())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["when"])

    slowed = write_launches(tmp_path / "a", 8, seed=1, effect=slower(5))
    assert accept(capsys, baselines, slowed, reason="slower, but right")[0] == 0
    assert (
        accept(capsys, baselines, write_launches(tmp_path / "b", 14, seed=2), reason="fast again")[
            0
        ]
        == 0
    )
    *_, second, third = entries(baselines)
    assert second["reason"] == "slower, but right"
    effects = {effect["case"]: effect for effect in second["effects"]}
    assert (
        effects["16 KiB two-shot"]["low"]
        < effects["16 KiB two-shot"]["ratio"]
        == pytest.approx(1.05, abs=0.01)
    )
    assert len(effects) == 6
    # The former runs are gone.
    assert sorted(third["run_ids"]) == sorted(run.stem for run in (baselines / "a1b2c3").iterdir())

    status, printed = gate(
        capsys, baselines, write_launches(tmp_path / "c", 14, seed=3, effect=slower(20))
    )
    assert (status, re.search(r"16 KiB two-shot: 1\.(19|20)", printed) is not None) == (1, True)
    assert "14 launches against 14, not interleaved" in printed
    assert "samples" not in printed


def test_another_machine_has_no_baseline_until_a_user_accepts_one(alike, tmp_path, capsys):
    baselines, elsewhere = tmp_path / "baselines", write_launches(tmp_path / "b", 6, seed=2)
    accept(capsys, baselines, alike / "main")
    for run in elsewhere.glob("*.jsonl"):
        rewrite_head(run, machine_id="ffffff")
    status, printed = gate(capsys, baselines, elsewhere)
    assert (status, "machine" in printed, "a1b2c3" in printed, "ffffff" in printed) == (
        4,
        True,
        True,
        True,
    )
    assert accept(capsys, baselines, elsewhere)[0] == 0
    again = write_launches(tmp_path / "c", 6, seed=3)
    for run in again.glob("*.jsonl"):
        rewrite_head(run, machine_id="ffffff")
    assert gate(capsys, baselines, again)[0] in (0, 3)
    assert {run.name for run in baselines.iterdir()} == {"a1b2c3", "ffffff", "accepted.jsonl"}


def test_accept_refuses_runs_that_cannot_be_a_baseline(alike, tmp_path, capsys):
    baselines = tmp_path / "baselines"
    assert accept(capsys, baselines, alike / "main", reason="  ") == (
        2,
        "reports: --reason is empty: say why the baseline moves\n",
    )
    few = write_launches(tmp_path / "few", 5)
    status, printed = accept(capsys, baselines, few)
    assert (status, "5 launches" in printed) == (2, True)
    for number, run in enumerate(sorted(few.glob("*.jsonl"))):
        (few / f"copy-{number}.jsonl").write_bytes(run.read_bytes())
    assert accept(capsys, baselines, few)[0] == 2  # copies of a launch do not count as launches
    run = sorted((write_launches(tmp_path / "cut", 6)).glob("*.jsonl"))[2]
    run.write_bytes(run.read_bytes()[:-20])
    status, printed = accept(capsys, baselines, tmp_path / "cut")
    assert (status, str(run) in printed) == (5, True)
    for run in write_launches(tmp_path / "up", 6).glob("*.jsonl"):
        rewrite_head(run, machine_id="../up")
    assert accept(capsys, baselines, tmp_path / "up")[0] == 2
    assert not baselines.exists()


def test_a_baseline_of_another_version_is_replaced_only_with_the_option(alike, tmp_path, capsys):
    baselines, newer = tmp_path / "baselines", write_launches(tmp_path / "b", 6, seed=2)
    accept(capsys, baselines, alike / "main")
    for run in newer.glob("*.jsonl"):
        rewrite_head(run, version="9.9")
    status, printed = accept(capsys, baselines, newer)
    assert (status, "version differs" in printed) == (4, True)
    assert len(entries(baselines)) == 1
    assert accept(capsys, baselines, newer, "--allow", "version")[0] == 0


def test_an_interrupted_move_leaves_the_former_baseline(alike, tmp_path, capsys, monkeypatch):
    """The process is killed after it stored the new runs and before it wrote the line: the gate still compares with the
    former baseline."""
    baselines = tmp_path / "baselines"
    accept(capsys, baselines, alike / "main")

    def killed(path, content):
        if path.name == "accepted.jsonl":
            raise KeyboardInterrupt
        write_whole(path, content)

    monkeypatch.setattr(reports.verdicts.accept, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        accept(
            capsys, baselines, write_launches(tmp_path / "b", 8, seed=2, effect=lambda case: 3.0)
        )
    status, printed = gate(capsys, baselines, alike / "new")
    assert (status in (0, 3), "8 launches against 8" in printed) == (True, True)


def test_a_damaged_baseline_is_one_sentence(alike, tmp_path, capsys):
    baselines = tmp_path / "baselines"
    accept(capsys, baselines, alike / "main")
    run = next((baselines / "a1b2c3").glob("*.jsonl"))
    run.unlink()
    status, printed = gate(capsys, baselines, alike / "main")
    assert (status, run.stem in printed) == (2, True)
    (baselines / "accepted.jsonl").write_text("{")
    status, printed = gate(capsys, baselines, alike / "main")
    assert (status, f"{baselines / 'accepted.jsonl'}" in printed) == (2, True)


@pytest.mark.parametrize("machine_id", ["..", "", "a/b"])
def test_a_machine_id_that_is_no_folder_name_changes_nothing(tmp_path, capsys, machine_id):
    """Otherwise accept would store the runs outside the folder and remove the files there as a former baseline."""
    runs = write_launches(tmp_path / "runs", 6)
    for run in runs.glob("*.jsonl"):
        rewrite_head(run, machine_id=machine_id)
    (tmp_path / "precious.jsonl").write_text("{}")
    status, printed = accept(capsys, tmp_path / "baselines", runs)
    assert (status, "cannot name a file" in printed) == (2, True)
    assert (tmp_path / "precious.jsonl").exists()


def test_runs_whose_files_share_a_name_are_all_kept(tmp_path, capsys):
    for number, run in enumerate(sorted(write_launches(tmp_path / "runs", 6).glob("*.jsonl"))):
        (tmp_path / str(number)).mkdir()
        run.rename(tmp_path / str(number) / "result.jsonl")
    baselines = tmp_path / "baselines"
    assert accept(capsys, baselines, f"{tmp_path}/[0-9]/*.jsonl")[0] == 0
    assert len(list((baselines / "a1b2c3").iterdir())) == 6
    assert (
        "6 launches against 6"
        in gate(capsys, baselines, write_launches(tmp_path / "new", 6, seed=1))[1]
    )


def test_a_damaged_run_of_the_baseline_is_refused(alike, tmp_path, capsys):
    """Otherwise its launch would be judged by fewer blocks or none."""
    baselines = tmp_path / "baselines"
    accept(capsys, baselines, alike / "main")
    run = sorted((baselines / "a1b2c3").iterdir())[2]
    run.write_bytes(run.read_bytes()[: run.stat().st_size // 2])
    assert main(["regress", "--baseline", str(baselines), "--current", str(alike / "new")]) == 2
    assert re.fullmatch(
        rf"reports: {run} was complete when accepted, but not now\n", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        '{"machine_id":"a1b2c3","run_ids":3}',
        '{"machine_id":["x"],"run_ids":["x"]}',
        '{"when":"","reason":"","machine_id":"..","run_ids":[]}',
        '{"machine_id":',
    ],
)
def test_a_damaged_list_of_baselines_is_one_sentence_with_its_line(alike, tmp_path, capsys, line):
    """A traceback ends with status 1, which means a regression."""
    baselines = tmp_path / "baselines"
    accept(capsys, baselines, alike / "main")
    with (baselines / "accepted.jsonl").open("a") as file:
        file.write(f"{line}\n")
    assert main(["regress", "--baseline", str(baselines), "--current", str(alike / "new")]) == 2
    assert re.fullmatch(
        rf"reports: {baselines}/accepted\.jsonl, line 2: [^\n]+\n", capsys.readouterr().err
    )
    assert accept(capsys, baselines, alike / "main")[0] == 2


def test_a_run_slowed_on_purpose_cannot_be_a_baseline(tmp_path, capsys):
    runs = write_launches(tmp_path / "runs", 6)
    for run in runs.glob("*.jsonl"):
        rewrite_head(run, world__slowed_percent=3.0)
    status, printed = accept(capsys, tmp_path / "baselines", runs)
    assert (status, "was slowed on purpose" in printed) == (2, True)
