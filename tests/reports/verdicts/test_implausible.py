"""A head that does no work, and one that stalls in half of its blocks, pass no gate unsaid."""

import pytest

from reports.verdicts.compare import sentences
from reports.verdicts.gate_rule import decide
from reports.verdicts.judge import compare
from reports.verdicts.regress import as_markdown, as_text, gate_junit
from reports.verdicts.sides import read_sides
from reports.verdicts.verdict_pages import verdict_page
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign
from tests.reports.synthetic_run import rewrite

pytestmark = pytest.mark.unit


def outcome_of(folder):
    (comparison,) = compare(read_sides([str(folder)]))
    return decide(comparison, 0.05)


def stall(folder, name):
    """Makes two of the six blocks of each case of a launch a hundred times as slow."""
    for run in (folder / name).glob("*.jsonl"):
        slow_down(run, rounds=2, factor=100)


def slow_down(run, rounds, factor):
    """Makes the blocks of the first rounds of a launch slower."""

    def change(line):
        if line.get("kind") == "block" and line["round"] < rounds:
            for figure in ("time_us", "total_us", "mean_us"):
                line[figure] *= factor

    rewrite(run, change)


def forms_of(outcome):
    page = verdict_page(outcome.headline, [outcome])
    return [as_text(outcome), as_markdown(outcome), gate_junit(outcome), str(page)]


def test_a_head_a_thousand_times_as_fast_is_said_and_fails_nothing(tmp_path):
    folder = write_campaign(tmp_path / "c", {"main": no_effect, "new": lambda case: 1e-3})
    outcome = outcome_of(folder)
    assert outcome.status == 0
    for form in forms_of(outcome):
        said = " ".join(form.split())
        assert "suspect: new is up to 1000 times as fast in " in said.replace("1001", "1000")


def test_a_head_that_stalls_in_half_of_its_blocks_is_said(tmp_path):
    """The median of a launch is that of its other blocks."""
    folder = write_campaign(tmp_path / "c", {"main": no_effect, "new": no_effect})
    stall(folder, "new")
    outcome = outcome_of(folder)
    assert outcome.status == 0
    for form in forms_of(outcome):
        assert "stalls: more blocks of new take over 10 x the median of main" in " ".join(
            form.split()
        )
        assert "33% (main 0%)" in " ".join(form.split())


def test_slow_launches_of_equal_sides_are_no_stalls_of_the_variant(tmp_path):
    """By each pair's own baseline, a slow launch counted against the variant alone."""
    one = {"sizes": [16384], "algorithms": ["two_shot"]}
    both = {"main": no_effect, "new": no_effect}
    folder = write_campaign(tmp_path / "c", both, pairs=18, **one)
    for place, name in enumerate(both):
        for run in sorted((folder / name).glob("*.jsonl"))[place::3]:
            slow_down(run, rounds=6, factor=20)
    assert not [said for said in outcome_of(folder).findings if said.startswith("stalls")]


def test_all_cells_within_the_margin_that_was_set_before_are_said(tmp_path):
    """All together need no correction. A margin chosen after the launches proves nothing."""
    folder = write_campaign(tmp_path / "c", {"main": no_effect, "new": no_effect})
    said = "all 4 cells are within 5.0% of the baseline, either way"
    assert said in outcome_of(folder).findings
    (comparison,) = compare(read_sides([str(folder)]))
    assert said not in decide(comparison).findings
    assert said.replace("5.0", "1.0") in sentences(comparison)
    (wider,) = compare(read_sides([str(folder)]), margin=0.02)
    assert not [each for each in sentences(wider) if each.startswith("all 4 cells")]
    faster = write_campaign(tmp_path / "d", {"main": no_effect, "new": slower(-6)})
    assert said not in outcome_of(faster).findings, "either way"


def test_equal_sides_are_not_accused(tmp_path):
    """Also if both stall alike."""
    folder = write_campaign(tmp_path / "c", {"main": no_effect, "new": no_effect})
    quiet = outcome_of(folder)
    for name in ("main", "new"):
        stall(folder, name)
    for outcome in (quiet, outcome_of(folder)):
        assert not [said for said in outcome.findings if said.startswith(("suspect", "stalls"))]
