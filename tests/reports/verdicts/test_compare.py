"""`python -m reports compare`: its text, CSV and JSON of two variants, and the input that it refuses."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports.__main__ import main
from reports.store.result import read
from reports.verdicts.compare import FORMATS
from reports.verdicts.comparison import cells_of, compare
from reports.verdicts.sides import read_sides, within_one_state
from tests.launch import ROOT
from tests.reports.synthetic_campaign import (
    no_effect,
    rewrite_head,
    slower,
    write_campaign,
    write_launch,
    write_launches,
)
from tests.reports.synthetic_fleet import label

pytestmark = pytest.mark.unit

DIFFERENT: dict[str, dict[str, Any]] = {  # the fields that differ in the current run's head
    "machine": {"machine_id": "ffffff"},
    "clock": {
        "environment__cpu.governor": {"value": "powersave", "source": "sysfs", "status": "ok"}
    },
    "world": {"world__ranks": [{"rank": 0, "device": "cpu", "arch": "haswell", "cpus": [0]}]},
    "statistic": {"world__dispatch": "python"},
    "version": {"version": "0.0.9"},
}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """One case is 5 % slower, and fresh pairs of its size confirm it; the campaign has a control."""
    return write_campaign(
        tmp_path_factory.mktemp("slower") / "campaign",
        {"main": no_effect, "new": slower(5)},
        fresh=10,
        fresh_sizes=[16384],
        control=True,
    )


def rows_of(text: str) -> dict[str, list[str]]:
    """The words of each row, by size and group."""
    rows, group = {}, ""
    for line in text.splitlines():
        if match := re.match(r" *(\d+ [KMG]?i?B)  +(.*)", line):
            rows[f"{match[1]} {group}"] = match[2].split()
        elif line and not line.startswith(" "):
            group = line
    return rows


def test_a_slowdown_of_one_case_is_named_and_the_others_are_the_same(campaign, capsys):
    assert main(["compare", str(campaign)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    rows = rows_of(out)
    assert len(rows) == 6
    baseline, variant, ratio, low, high, verdict, mde, pairs = rows.pop("16 KiB two_shot")
    assert verdict == "SLOWER*"
    assert 1.04 < float(low[1:]) < float(ratio) < float(high[:-1]) < 1.06
    assert float(variant) / float(baseline) == pytest.approx(1.05, rel=0.01)
    assert (mde[-1], pairs) == ("%", "10")
    assert {row[5] for row in rows.values()} == {"SAME"}
    printed = " ".join(out.split())
    assert re.match(
        r"new takes 1\.00x the time of main at 16 KiB, 1\.00x at 64 KiB \(median of 3 algorithms\): 16 KiB "
        r"two-shot slower; nothing else slower than 0\.\d% anywhere new against main",
        printed,
    )
    for words in (
        "new against main, the baseline: 8 interleaved pairs of launches, 10 fresh ones of 16 KiB",
        "above 1, the variant is slower",
        "flag round trip 5",
        "ns 100% of the pairs",
        "SLOWER 1, FASTER 0, SAME 5, within +-x% 0",
        "control, the baseline's launches against each other: 0 of 6 cells suspected",
        "* a suspect of the first stage",
        "note: virtual machine",
    ):
        assert words in printed


def test_every_format_says_the_same(campaign, capsys):
    main(["compare", str(campaign), "--format", "csv"])
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    main(["compare", str(campaign), "--format", "json"])
    objects = json.loads(capsys.readouterr().out)
    main(["compare", str(campaign), "--format", "markdown"])
    markdown = capsys.readouterr().out
    slower_one = table[(table.compared == "new") & (table.verdict == "SLOWER")]
    assert slower_one[["algorithm", "size_bytes"]].values.tolist() == [["two_shot", 16384]]
    assert [cell["compared"] for cell in objects] == ["new"] * 6 + ["control"] * 6
    (cell,) = (cell for cell in objects if cell["verdict"] == "SLOWER")
    assert (cell["algorithm"], cell["is_fresh"], cell["baseline"]) == ("two_shot", True, "main")
    assert cell["ratio"] == pytest.approx(slower_one.ratio.iloc[0])
    assert re.search(r"\| two_shot \| 16 KiB \|.*\| SLOWER\\\* \|", markdown)
    assert len(re.findall(r"^\| \w+ \| \d+ KiB", markdown, re.MULTILINE)) == 6


def test_single_launches_are_unreplicated_and_the_text_suggests_a_campaign(tmp_path, capsys):
    base, new = (write_launch(tmp_path, number).path for number in (1, 2))
    assert main(["compare", str(base), str(new)]) == 0
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert {row[3] for row in rows.values()} == {"unreplicated"}
    assert all("[" not in " ".join(row) for row in rows.values())
    assert "bench.campaign" in out
    assert "SLOWER 0, FASTER 0" in " ".join(out.split())


def test_launches_without_a_campaign_are_reported_as_not_interleaved(tmp_path, capsys):
    base, new = write_launches(tmp_path / "a", 8), write_launches(tmp_path / "b", 7, seed=1)
    assert main(["compare", str(base), f"{new}/*.jsonl"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "7 launches against 8, not interleaved" in printed
    assert "differences are by machine or code" in printed


@pytest.mark.parametrize("key", DIFFERENT)
def test_a_difference_is_named_and_stays_visible_if_allowed(key, tmp_path, capsys):
    base, new = (write_launch(tmp_path, number).path for number in (1, 2))
    rewrite_head(new, **DIFFERENT[key])
    assert main(["compare", str(base), str(new)]) == 4
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{key} differs" in err
    assert f"--allow {key}" in err
    for kind in ("text", "markdown", "csv", "json"):
        assert main(["compare", str(base), str(new), "--allow", key, "--format", kind]) == 0
        assert f"allowed to differ: {key} differs" in " ".join(capsys.readouterr().out.split())


def test_ranks_spread_otherwise_over_the_hosts_are_another_world(tmp_path, capsys):
    base, new = (write_launch(tmp_path, number, world_size=4).path for number in (1, 2))
    for path, places in ((base, (0, 0, 1, 1)), (new, (0, 0, 0, 1))):
        world = read(path).run.world
        ranks = [rank | {"host": host} for rank, host in zip(world["ranks"], places, strict=True)]
        rewrite_head(path, world=world | {"hosts": 2, "ranks": ranks})
    assert main(["compare", str(base), str(new)]) == 4
    assert "world differs: (4, [2, 2]," in capsys.readouterr().err


def test_another_type_is_not_comparable(tmp_path, capsys):
    base, new = write_launch(tmp_path, 1).path, write_launch(tmp_path, 2, datatype="float16").path
    assert main(["compare", str(base), str(new)]) == 4
    assert "type differs" in capsys.readouterr().err
    assert main(["compare", str(base), str(new), "--allow", "type"]) == 0
    assert "datatype: float32 against float16" in capsys.readouterr().out


def test_two_copies_of_a_run_are_one_launch(tmp_path, capsys):
    """Otherwise copies of a run would count as launches that agree with each other."""
    base, new = write_launches(tmp_path / "a", 1), write_launches(tmp_path / "b", 1, seed=1)
    for folder in (base, new):
        (path,) = Path(folder).glob("*.jsonl")
        for copy in range(8):
            shutil.copy(path, path.with_name(f"copy-{copy}.jsonl"))
    assert main(["compare", str(base), str(new)]) == 0
    out, err = capsys.readouterr()
    assert {row[3] for row in rows_of(out).values()} == {"unreplicated"}
    assert "is a copy of the run" in err


def test_pairs_are_compared_within_their_common_state(tmp_path, capsys):
    """main also sees the fast link, on which times are a third as long. Over all blocks main would seem far faster."""
    folder = write_campaign(
        tmp_path / "states",
        {"main": no_effect, "new": no_effect},
        n_blocks=12,
        options={"main": {"fast_rounds": range(6)}, "new": {"fast_rounds": [0]}},
    )
    main(["compare", str(folder)])
    out = capsys.readouterr().out
    assert {row[5] for row in rows_of(out).values()} == {"SAME"}
    assert "flag round trip 54" in " ".join(out.split())


def test_of_several_states_a_pair_takes_the_one_that_most_pairs_share():
    pairs = [[1.0, 10.0], [np.nan, 20.0], [3.0, 30.0], [4.0, np.nan], [np.nan, np.nan]]
    for rows, ratios, states in (
        (pairs, [1.0, 20.0, 3.0, 4.0, np.nan], [0, 1, 0, 0, -1]),  # both states three times
        (pairs[:3], [10.0, 20.0, 30.0], [1, 1, 1]),
    ):
        chosen, of_pairs = within_one_state(np.array([rows]))
        np.testing.assert_array_equal(chosen, [ratios])
        assert of_pairs.tolist() == [states]


def test_pairs_without_a_common_state_give_no_figure(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "apart",
        {"main": no_effect, "new": no_effect},
        n_blocks=6,
        options={"main": {"fast_rounds": range(6)}},
    )
    assert main(["compare", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [row[:2] + row[2:4] for row in rows_of(out).values()] == [
        ["-", "-", "-", "undecided"]
    ] * 6
    assert "8 of 8 pairs have no state of the link in common" in " ".join(out.split())
    assert cells_of(folder).pairs.median() == 0
    same = write_campaign(tmp_path / "same", {"main": no_effect, "new": no_effect})
    assert cells_of(same).pairs.median() == 8


def test_an_algorithm_can_be_compared_with_another(tmp_path, capsys):
    base = write_launches(tmp_path / "a", 6, algorithms=["two_shot"])
    new = write_launches(tmp_path / "b", 6, algorithms=["ring"], seed=1)
    assert main(["compare", str(base), str(new)]) == 0
    out = capsys.readouterr().out
    assert "algorithm: two-shot against ring" in out
    base_us, new_us = map(float, rows_of(out)["16 KiB ring"][:2])
    assert new_us / base_us > 1.1


def test_a_ratio_whose_interval_says_nothing_is_not_printed(tmp_path, capsys):
    """`1.201 [0.000 >999]` looks like a slowdown of 20 %, and an MDE of 5601394.2% like a figure."""
    sides = [
        write_launches(tmp_path / name, 6, algorithms=[name], seed=seed)
        for seed, name in enumerate(("two_shot", "ring"))
    ]
    main(["compare", *map(str, sides)])
    out = capsys.readouterr().out
    assert [row[2:6] for row in rows_of(out).values()] == [
        ["too", "noisy", "undecided", ">99%"]
    ] * 2
    assert "MDE, the minimum detectable effect: median >99%, at most >99%." in out
    assert out.startswith("16 KiB ring, 64 KiB ring undecided"), (
        "the headline must not name a ratio either"
    )


def test_a_threat_on_only_one_side_comes_first(tmp_path, capsys):
    """Four sentences about the machine must not hide a slowdown on purpose."""
    base, new = (write_launch(tmp_path, number).path for number in (1, 2))
    common = [f"Threat {letter}." for letter in "abcdef"]
    rewrite_head(base, notes=[*common, "The load was 1.2 over the minute before."])
    rewrite_head(
        new, notes=[*common, "The load was 2.9 over the minute before.", "Slowed on purpose: 3 %."]
    )
    main(["compare", str(base), str(new)])
    threats = " ".join(capsys.readouterr().out.split("\n\n")[0].split()).split("note: ")[1:]
    assert len(threats) == 4
    assert re.fullmatch(r"Slowed on purpose: 3 %. \(.*-000002.jsonl alone\) ", threats[0])
    assert not any("load" in threat for threat in threats)


def test_words_show_the_verdict_without_a_terminal(campaign):
    command = [sys.executable, "-m", "reports", "compare", str(campaign)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "SLOWER*" in done.stdout
    assert "\x1b" not in done.stdout


def test_an_unfinished_campaign_says_so(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "cut", {"main": no_effect, "new": no_effect}, end=False, sizes=[16384]
    )
    main(["compare", str(folder)])
    assert "THE CAMPAIGN IS NOT FINISHED" in " ".join(capsys.readouterr().out.split())


def damage_line(path: Path, number: int, change) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = change(lines[number - 1])
    path.write_bytes(b"\n".join(lines))


def test_bad_input_is_one_sentence_that_names_file_and_line(tmp_path, capsys):
    base, new = write_launch(tmp_path, 1).path, write_launch(tmp_path, 2).path
    whole = new.read_bytes()

    def refused(*paths: Path | str) -> str:
        assert main(["compare", *map(str, paths)]) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        return str(captured.err)

    damage_line(new, 5, lambda line: line[:20])
    assert f"{new}, line 5" in refused(base, new)
    new.write_bytes(whole)
    damage_line(new, 4, lambda line: re.sub(rb'"time_us":[\d.]+', b'"time_us":NaN', line))
    assert f"{new}, line" in refused(base, new)
    new.write_bytes(whole)
    rewrite_head(new, schema=99)
    assert "schema 99 is newer" in refused(base, new)
    assert str(new) in refused(base, new)
    new.write_bytes(b"")
    assert "is empty" in refused(base, new)
    assert "no run file at" in refused(base, f"{tmp_path}/nothing-*.jsonl")
    assert "no run file at" in refused(base, tmp_path / "nowhere")
    assert "two sides" in refused(base)


def test_the_complete_part_of_an_incomplete_run_counts_and_is_reported(tmp_path, capsys):
    base, new = write_launch(tmp_path, 1).path, write_launch(tmp_path, 2).path
    content = new.read_bytes().split(b"\n")
    lines = [
        line for line in content if b'"kind":"case"' not in line and b'"kind":"end"' not in line
    ][:-1]
    new.write_bytes(b"\n".join(lines)[:-30])
    assert main(["compare", str(base), str(new)]) == 0
    out, err = capsys.readouterr()
    assert f"{new} is incomplete: it was cut off" in err
    assert len(rows_of(out)) == 6


def test_foreign_files_are_left_out(campaign, capsys):
    (campaign / "new" / "notes.txt").write_text("mine")
    try:
        assert main(["compare", str(campaign)]) == 0
    finally:
        (campaign / "new" / "notes.txt").unlink()
    err = capsys.readouterr().err
    assert ("notes.txt is not part of this campaign: left out" in err, err.count("\n")) == (True, 1)


def test_extreme_figures_of_a_campaign_fit_80_columns(tmp_path, capsys):
    """Ratios above 999, infinite intervals, one pair with a figure."""
    names = {"a" * 40: no_effect, "b" * 40: slower(500_000)}
    folder = write_campaign(tmp_path / "x", names, pairs=6, spread=0.5, sizes=[1 << 30, 16384])
    for path in sorted(folder.rglob("*.jsonl"))[:4]:
        if path.parent != folder:
            rewrite_head(path, notes=["word " * 40])
    main(["compare", str(folder)])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert ">999" in out
    assert re.findall(r"^ +(\d+ [KG]iB)", out, re.MULTILINE) == ["16 KiB", "1 GiB"] * 3


def test_manifest_faults_name_file_and_line(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "c", {"main": no_effect, "new": no_effect}, pairs=2, sizes=[16384]
    )
    manifest = folder / "campaign.jsonl"
    damage_line(manifest, 3, lambda line: line[:-9])
    assert main(["compare", str(folder)]) == 2
    assert f"{manifest}, line 3" in capsys.readouterr().err


def test_json_has_no_infinity(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "few", {"main": no_effect, "new": no_effect}, pairs=3, sizes=[16384]
    )
    main(["compare", str(folder), "--format", "json"])
    cells = json.loads(capsys.readouterr().out)
    assert [cell["low"] for cell in cells] == [None] * 3
    assert all(np.isfinite(cell["ratio"]) for cell in cells)
    (comparison,) = compare(read_sides([str(folder)]))
    comparison.cells.loc[0, "needed"] = (
        np.inf
    )  # no number of pairs settles an estimate that equals the margin
    assert json.loads(FORMATS["json"]([comparison]))[0]["needed"] is None
    assert "inf" not in FORMATS["csv"]([comparison])


def test_launches_of_several_nodes_are_paired_on_each_node(tmp_path, capsys):
    """Nodes with equal hardware differ by more than a change of code does."""
    factors = {"n1": 0, "n2": 20, "n3": 50}
    for side, order in (("old", ("n1", "n2", "n3")), ("new", ("n3", "n1", "n2"))):
        for number, node in enumerate(2 * order):
            serial = number + 10 * (side == "new")
            label(write_launch(tmp_path / side, serial, effect=slower(factors[node])).path, node)
    assert main(["compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    ratios = [float(row[2]) for row in rows_of(capsys.readouterr().out).values()]
    assert max(abs(ratio - 1) for ratio in ratios) < 0.05
    first, other = (min((tmp_path / side).glob("*.jsonl")) for side in ("old", "new"))  # n1 and n3
    main(["compare", str(first), str(other)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "The sides ran on different nodes, n1 and n3, and nodes differ." in printed
