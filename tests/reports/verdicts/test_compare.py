"""`python -m reports compare`: its text, CSV and JSON of two variants, and the input that it
refuses."""

import re
import shutil
from functools import partial
from typing import Any

import pytest

from reports.verdicts.gate_rule import INCONCLUSIVE, PASS, REGRESSION, UNUSABLE, WORDS
from reports.verdicts.regress import judge
from reports.verdicts.verdict_pages import NEXT, campaign_page
from tests.reports.synthetic_campaign import (
    no_effect,
    slower,
    write_campaign,
    write_launch,
    write_launches,
)
from tests.reports.synthetic_fleet import label
from tests.reports.synthetic_run import mark_wrong, rewrite_head
from wiretax.record.manifest import read_manifest

pytestmark = pytest.mark.unit

ALIKE = {"main": no_effect, "new": no_effect}
# The fields that differ in the current run's head. A fact of another kind, such as a number for a
# word, must not end with a traceback, whose status 1 means a regression.
DIFFERENT: dict[str, dict[str, Any]] = {
    "machine": {"machine_id": "ffffff"},
    "clock": {"environment__cpu.governor": {"value": 7}},
    "world": {"world__ranks": [{"rank": 0, "gpu": "a"}, {"rank": 1, "gpu": None}]},
    "method": {"method": {"checks": 0}},
    "version": {"version": "0.0.9"},
}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """One case is 5 % slower."""
    folder = tmp_path_factory.mktemp("slower") / "campaign"
    return write_campaign(folder, {"main": no_effect, "new": slower(5)})


@pytest.fixture
def two(tmp_path):
    """The files of two launches."""
    return [write_launch(tmp_path, number).path for number in (1, 2)]


@pytest.fixture
def compared(reports):
    return partial(reports, "compare")


def rows_of(text):
    """The words of each row, by size and algorithm."""
    rows = re.findall(r"^(\S.*?) +(\d+ [KMG]?i?B) +(\d.*)", text, re.MULTILINE)
    return {f"{size} {algorithm}": words.split() for algorithm, size, words in rows}


def test_a_slowdown_of_one_case_is_named_and_the_others_are_the_same(campaign, compared):
    status, out, err = compared(campaign)
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    rows = rows_of(out)
    assert len(rows) == 6
    baseline, variant, ratio, low, high, verdict, mde, pairs = rows.pop("16 KiB two_shot")
    assert (verdict, mde[-1], pairs) == ("SLOWER", "%", "12")
    assert 1.04 < float(low[1:]) < float(ratio) < float(high[:-1]) < 1.06
    assert float(variant) / float(baseline) == pytest.approx(1.05, rel=0.01)
    assert {row[5] for row in rows.values()} == {"SAME"}
    printed = " ".join(out.split())
    assert re.match(r"SLOWER (4\.9|5\.0|5\.1)%: 16 KiB two_shot; no slowdown of", printed)
    assert "12 interleaved pairs of launches" in printed
    assert "SAME 5, SLOWER 1; of 6 cells" in printed


def test_single_launches_and_their_copies_are_unreplicated(two, compared, tmp_path):
    """Otherwise copies of a run would count as launches that agree with each other."""
    for run in two:
        (tmp_path / run.stem).mkdir()
        for copy in range(8):
            shutil.copy(run, tmp_path / run.stem / f"copy-{copy}.jsonl")
        (tmp_path / run.stem / "link.jsonl").symlink_to(run)
    status, out, _ = compared(*(tmp_path / run.stem for run in two))
    text = " ".join(out.split())
    assert (status, "is a copy of the run" in text) == (0, True)
    assert "link.jsonl is a link, which is not followed: left out" in text
    rows = rows_of(out)
    assert {row[3] for row in rows.values()} == {"unreplicated"}
    assert all("[" not in " ".join(row) for row in rows.values())
    assert "bench.campaign" in text
    assert "unreplicated 6; of 6 cells" in text


def test_a_side_with_an_empty_file_is_refused(two, compared, tmp_path):
    """Of the launch that could not store its run, nobody knows how it went."""
    for run in two:
        (tmp_path / run.stem).mkdir()
        shutil.copy(run, tmp_path / run.stem)
    empty = tmp_path / run.stem / "empty.jsonl"
    empty.touch()
    status, _, err = compared(*(tmp_path / run.stem for run in two))
    assert (status, f"{empty} is empty, not a run file" in err) == (2, True)


def test_launches_in_different_states_of_the_link_are_no_pairs(tmp_path, compared):
    """Times over the fast link are a third as long: main would seem far faster."""
    folder = write_campaign(tmp_path / "states", ALIKE, n_blocks=12)
    for path in sorted((folder / "main").glob("*.jsonl"))[:4]:
        path.write_text(
            re.sub(r'"link_rtt_ns":\[[\d.,]+\]', '"link_rtt_ns":[90,90]', path.read_text())
        )
    _, out, _ = compared(folder)
    text = " ".join(out.split())
    assert "8 interleaved pairs of launches" in text
    assert "4 pairs left out: between their launches the link changed its state" in text
    assert {row[5] for row in rows_of(out).values()} == {"SAME"}


def test_an_algorithm_can_be_compared_with_another(tmp_path, compared):
    """A ratio whose interval says nothing is not printed: `1.201 [0.000 >999]` looks like a
    slowdown of 20 %."""
    sides = [
        write_launches(tmp_path / name, 6, algorithms=[name], seed=seed)
        for seed, name in enumerate(("two_shot", "ring"))
    ]
    _, out, _ = compared(*sides)
    assert "algorithm: two_shot against ring" in out
    rows = rows_of(out)
    base_us, new_us = map(float, rows["16 KiB ring"][:2])
    assert new_us / base_us > 1.1
    assert [row[2:6] for row in rows.values()] == [["too", "noisy", "undecided", "-"]] * 2
    assert out.startswith("16 KiB ring, 64 KiB ring undecided"), "a headline without a ratio"


def test_bad_input_is_one_sentence(two, compared, tmp_path):
    base, new = two

    def refused(*paths):
        status, out, err = compared(*paths)
        assert (status, out, err.count("\n")) == (2, "", 1)
        return str(err)

    assert "no run file at" in refused(base, f"{tmp_path}/nothing-*.jsonl")
    assert "two sides" in refused(base)
    inner = tmp_path / "outer" / "inner"
    assert "has one" not in refused(base, inner.parent)
    inner.mkdir(parents=True)
    shutil.copy(new, inner)
    assert f"; the folder {inner} has one" in refused(base, inner.parent)


def test_sides_that_differ_in_everything_are_refused_in_one_short_sentence(tmp_path, compared):
    """The line had a thousand letters: every difference with both whole paths."""
    sides = [tmp_path / ("a long path " * 6) / name for name in ("old", "new")]
    for side in sides:
        write_launches(side, 2)
    for fields in DIFFERENT.values():
        for run in sides[1].glob("*.jsonl"):
            rewrite_head(run, **fields)
    status, _, err = compared(*sides)
    assert status == 4
    places = [f"({side.parent.name}/{side.name})" for side in sides]
    assert f"machine differs: a1b2c3 {places[0]} and ffffff {places[1]}, as do clock, " in err
    assert all(f"--allow {key}" in err for key in DIFFERENT)


def test_an_unfinished_campaign_has_no_verdict_of_a_difference(campaign, tmp_path, compared):
    """Somebody who looks after each launch and stops at the first SLOWER would find one. A damaged
    manifest names its line."""
    manifest = shutil.copytree(campaign, tmp_path / "c") / "campaign.jsonl"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines[:-1], ""]))
    out = compared(manifest.parent)[1]
    assert "THE CAMPAIGN IS NOT FINISHED" in " ".join(out.split())
    assert rows_of(out)["16 KiB two_shot"][5:7] == ["within", "+-5.1%"]
    manifest.write_text("\n".join([*lines[:2], lines[2][:-9], *lines[3:]]))
    status, _, err = compared(manifest.parent)
    assert (status, f"{manifest}, line 3" in err) == (2, True)


def test_launches_of_several_nodes_are_paired_on_each_node(tmp_path, compared):
    """Nodes with equal hardware differ by more than a change of code does."""
    factors = {"n1": 0, "n2": 20, "n3": 50}
    for side, order in (("old", ("n1", "n2", "n3")), ("new", ("n3", "n1", "n2"))):
        for number, node in enumerate(2 * order):
            serial = number + 10 * (side == "new")
            folder = tmp_path / side / "results/16K"
            label(write_launch(folder, serial, effect=slower(factors[node])).path, node)
    sides = [tmp_path / side / "results/16K" for side in ("old", "new")]
    status, out, _ = compared(*sides)
    assert status == 0
    assert "new/results/16K" in out
    assert max(abs(float(row[2]) - 1) for row in rows_of(out).values()) < 0.05


TOKEN = "--tpot-ms", "30", "--calls", "160"


def test_a_difference_is_worth_its_calls_of_a_token(campaign, compared):
    """A reviewer asks what microseconds a call are in served tokens: without the number of calls
    and the token nobody can say."""
    status, out, err = compared(campaign, *TOKEN)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    (found,) = re.findall(r"16 KiB two_shot: (\S+) \[(\S+) (\S+)\] ms by 160 calls, (\S+)%", text)
    ms, low, high, percent = map(float, found)
    assert ms == pytest.approx(160 * 0.05 * 4.11 / 1e3, rel=0.05)
    assert low < ms < high
    assert percent == pytest.approx(100 * ms / 30, abs=0.01)


def test_a_token_without_its_calls_is_refused(campaign, compared):
    for options, refused in (
        (TOKEN[:2], "compare needs both --tpot-ms and --calls, or neither"),
        (("--tpot-ms", "nan", *TOKEN[2:]), "'nan' is not a number of ms above 0"),
        ((*TOKEN[:2], "--calls", "1.5"), "'1.5' is not a whole number from 1"),
    ):
        status, out, err = compared(campaign, *options)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert refused in err


# The effect on the variant, the spread of launches, and the gate's status.
PAGES = {
    "a slower case": (slower(5), 0.002, REGRESSION),
    "a faster case": (slower(-8), 0.002, PASS),
    "no difference": (no_effect, 0.002, PASS),
    "a slower library, which is a control": (slower(8, "library"), 0.002, PASS),
    "noise that can hide no slowdown of its size": (no_effect, 0.05, PASS),
    "noise that can hide every slowdown": (no_effect, 0.3, INCONCLUSIVE),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_of_a_campaign_says_what_the_gate_says(tmp_path, name):
    effect, spread, status = PAGES[name]
    write_campaign(tmp_path / "c", ALIKE | {"new": effect}, spread=spread)
    page = campaign_page(tmp_path / "c")
    assert judge(f"{tmp_path}/c/main", f"{tmp_path}/c/new").status == status
    assert page.banner.word == WORDS[status]
    assert str(page.sections[0].sentences[0]).startswith(NEXT[status].partition(", among")[0])
    run = next(launch.run for launch in read_manifest(tmp_path / "c").launches)
    mark_wrong(tmp_path / "c" / str(run), 0)
    page = campaign_page(tmp_path / "c")
    assert judge(f"{tmp_path}/c/main", f"{tmp_path}/c/new").status == UNUSABLE
    assert page.banner.word == "UNUSABLE"
    assert "Mend the side" in str(page.sections[0])
