"""Sides that did not run in turn: another day must not be taken for a slowdown."""

import re

import pytest

from tests.reports.synthetic_campaign import write_launch, write_launches
from tests.reports.synthetic_run import rewrite_head
from tests.reports.verdicts.test_regress import gate

pytestmark = pytest.mark.unit


def on_day(day, folder, shift=1.0, event=1.0):
    """Eight launches of a day; `shift` is the factor on their times, `event` on the first one's."""
    for number in range(8):
        factor = shift if number else shift * event
        run = write_launch(folder, number, seed=day, effect=lambda case, by=factor: by)
        run_id = run.run.run_id.replace("2026-11-20", f"2026-11-{day:02d}")
        rewrite_head(run.path, run_id=run_id)
        run.path.rename(run.path.with_name(f"{run_id}.jsonl"))
    return f"{folder}/2026-11-{day:02d}*.jsonl"


def test_regress_takes_the_spread_from_five_other_days_or_says_what_it_assumes(tmp_path, capsys):
    """Nightly runs in one folder differ by 4 % between days, so that a night of 6 % is none of the
    code's; a night of 50 % is told. The slow night itself is not one of the days."""
    store = tmp_path / "nightly"
    shifts = enumerate((1.0, 1.04, 0.96, 1.02, 0.98), 1)
    first, *_ = (on_day(day, store, shift) for day, shift in [*shifts])
    status, printed = gate(capsys, first, on_day(6, store, 1.06))
    assert (status in (0, 3), "estimated from 5 other days" in printed) == (True, True)
    status, printed = gate(capsys, first, on_day(7, store, 1.5))
    assert (status, "estimated from 6 other days" in printed) == (1, True)
    assert re.match(r"REGRESSION: SLOWER up to \d\d\.\d% by machine or code: ", printed)
    base, new = write_launches(tmp_path / "a", 8), write_launches(tmp_path / "b", 8, seed=1)
    assert "days are assumed to differ by 2.0%" in gate(capsys, base, new)[1]


def test_a_launch_that_an_event_slows_sets_neither_the_level_nor_the_scatter_of_its_day(
    tmp_path, capsys
):
    """By means and plain variances such events would pass for the scatter of all launches, so that
    any other day is a slowdown; or for the spread between days, which hides one."""
    store = tmp_path / "nightly"
    days = enumerate(zip((1.0, 1.04, 0.96, 1.02, 0.98), (1, 5, 2, 10, 3), strict=True), 1)
    first, *_ = (on_day(day, store, shift, event) for day, (shift, event) in [*days])
    status, printed = gate(capsys, first, on_day(6, store, 1.06))
    assert (status in (0, 3), "estimated from 5 other days" in printed) == (True, True), printed
    status, printed = gate(capsys, first, on_day(7, store, 1.3))
    assert (status, "estimated from 6 other days" in printed) == (1, True), printed


@pytest.mark.parametrize("spread", [0.3, 0.01])
def test_a_gate_that_decides_little_does_not_pass(tmp_path, capsys, spread):
    """Launches that scatter by 30 %, or cells that are slower by 0 to 60 %: a margin that only
    follows them would pass both."""

    def grows(case):
        return 1.6 if spread < 0.1 and case.size_bytes > 16384 else 1.0

    base = write_launches(tmp_path / "base", 8, spread=spread)
    new = write_launches(tmp_path / "new", 8, seed=1, spread=spread, effect=grows)
    status, printed = gate(capsys, base, new)
    assert status == 3
    assert "the slowdown to exclude: 5.0%, the default beside a kept baseline" in printed
