"""The states of the link in a gate: those that go with the side are judged, others leave pairs
out."""

import random
import re

import msgspec
import pytest

from tests.reports.synthetic_campaign import no_effect, slower, write_campaign, write_launches
from tests.reports.synthetic_run import rewrite_head
from tests.reports.verdicts.test_regress import forms, gate, judge, text_of

pytestmark = pytest.mark.unit

SLOWER_FLAGS = r"a flag's round trip is 1\.60 times as long: 86\d ns in new, 5[34]\d ns in main; "


def flags(factor):
    """A change of blocks: a flag's round trip takes `factor` as long."""
    return lambda block: msgspec.structs.replace(
        block, link_rtt_ns=tuple(factor * ns for ns in block.link_rtt_ns)
    )


@pytest.mark.parametrize("pairs", [6, 12])
def test_a_side_whose_flags_are_slower_is_judged(tmp_path, capsys, pairs):
    """All pairs were left out: status 3, which the Action calls a warning."""
    variants = {"main": no_effect, "new": slower(45)}
    slow = {"new": {"change": flags(1.6)}}
    folder = write_campaign(tmp_path / "slow", variants, pairs=pairs, options=slow)
    options, files = forms(tmp_path)
    status, printed = judge(capsys, folder, *options)
    assert status == 1
    assert re.match(rf"REGRESSION: SLOWER 4\d\.\d%: 16 KiB two_shot; {SLOWER_FLAGS}", printed)
    assert "left out" not in printed
    assert all(re.search(SLOWER_FLAGS, text_of(file)) for file in files)
    # The other way round.
    status, printed = gate(capsys, folder / "new", folder / "main")
    assert status == 0
    assert re.match(r"PASS: a flag's round trip is 0\.6\d times as long: 5.* ns in main, ", printed)


def test_flags_alone_that_are_slower_are_told_in_the_headline(tmp_path, capsys):
    """At sizes that hang on bandwidth no cell is slower."""
    variants, slow = {"main": no_effect, "new": no_effect}, {"new": {"change": flags(1.6)}}
    folder = write_campaign(tmp_path / "slow", variants, options=slow)
    status, printed = judge(capsys, folder)
    assert (status, re.match(f"PASS: {SLOWER_FLAGS}no slowdown of", printed) is None) == (0, False)


def test_a_machine_that_changes_the_state_by_itself_fails_no_gate(tmp_path, capsys):
    """Its launches over the slow link take five times as long, on either side."""
    draw = random.Random(1)
    folder = write_campaign(tmp_path / "mixed", {"main": no_effect, "new": no_effect}, pairs=16)
    for run in sorted(folder.glob("*/*.jsonl")):
        if draw.random() < 0.4:
            slow = write_campaign(
                tmp_path / run.stem,
                {"main": lambda case: 5.0},
                pairs=1,
                options={"main": {"change": flags(5.0)}},
            )
            (made,) = slow.glob("main/*.jsonl")
            rewrite_head(made, run_id=run.stem)
            made.replace(run)
    status, printed = judge(capsys, folder)
    assert (status in (0, 3), "times as long" in printed) == (True, False), printed
    assert "pairs left out: between their launches the link changed its state" in printed


def kept(folder, days, factors, **options):
    """Six launches on each of these days, whose flags take these factors as long."""
    for day, factor in zip(days, factors, strict=True):
        for run in sorted(
            write_launches(
                folder / f"day-{day}", 6, seed=day, change=flags(factor), **options
            ).glob("*")
        ):
            run_id = run.stem.replace("2026-11-20", f"2026-11-{day:02d}")
            rewrite_head(run, run_id=run_id)
            run.rename(folder / f"{run_id}.jsonl")
        (folder / f"day-{day}").rmdir()
    return folder


@pytest.mark.parametrize(
    ("factors", "status", "said"),
    [
        ((1.0, 1.0, 1.0, 1.0, 1.0), 1, "1.60 times as long, by machine or code: 86"),
        # The nights after the one that was slower first.
        ((1.0, 1.0, 1.0, 1.6, 1.6), 1, "1.60 times as long, by machine or code: 86"),
        ((1.0, 1.6, 1.0, 1.0, 1.6), 3, "its state, as it does between runs of one side"),
    ],
)
def test_beside_a_kept_baseline_a_machine_is_blamed_if_it_is_known_to_change(
    tmp_path, capsys, factors, status, said
):
    store = tmp_path / "nightly"
    store.mkdir()
    kept(store, range(1, 6), factors)
    slow = {"effect": lambda case: 1.5}
    kept(store, [6], [1.6], **slow)
    sides = [f"{store}/2026-11-{day:02d}*.jsonl" for day in (1, 6)]
    assert (gate(capsys, *sides)[0], said in gate(capsys, *sides)[1]) == (status, True)
