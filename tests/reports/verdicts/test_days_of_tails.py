"""A percentile beside a kept baseline: tails differ between days too, and by more than medians."""

import re

import numpy as np
import pytest

from tests.reports.synthetic_nights import write_night
from tests.reports.synthetic_run import rewrite_head
from tests.reports.verdicts.test_regress import gate

pytestmark = pytest.mark.unit

LAUNCHES, DAYS = 6, 19  # launches of a day that is judged; other days have two
JUDGED = 1, 6  # and the last two
USUAL, MANY = 25, 26  # days


def on_day(store, day, slow, launches=LAUNCHES):
    """The launches of a day, whose steps are slow with this share."""
    for number in range(launches):
        path = write_night(store, 10 * day + number, slow, sizes=[16384])
        run_id = f"2026-11-{day:02d}T03-0{number}-00Z-allreduce-made{day}{number}"
        rewrite_head(path, run_id=run_id)
        path.rename(path.with_name(f"{run_id}.jsonl"))
    return f"{store}/2026-11-{day:02d}*.jsonl"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Nights of which some have more slow steps, a usual one, and one with many."""
    folder = tmp_path_factory.mktemp("nightly")
    shares = 0.005 * np.random.default_rng(4).lognormal(0, 0.4, DAYS + 1)
    for day, share in enumerate(shares, 1):
        on_day(folder, day, float(share), LAUNCHES if day in JUDGED else 2)
    on_day(folder, USUAL, 0.007)
    on_day(folder, MANY, 0.2)
    return folder


def days(store, day):
    return f"{store}/2026-11-{day:02d}*.jsonl"


def test_a_day_with_more_slow_steps_by_chance_is_no_regression(store, capsys):
    """Days whose medians are alike have P99s that differ by half: as medians are judged, nearly
    every third night is a slowdown."""
    status, printed = gate(capsys, days(store, 1), days(store, USUAL), "--quantile", 99)
    assert status in (0, 3), printed
    differ = re.search(r"days differ by ([\d.]+)%, estimated from 21 other days", printed)
    assert differ
    assert float(differ[1]) > 10
    assert "days differ by 0" in gate(capsys, days(store, 1), days(store, USUAL))[1]


def test_a_day_with_many_slow_steps_is_one(store, capsys):
    status, printed = gate(capsys, days(store, 6), days(store, MANY), "--quantile", 99)
    assert (status, "P99 SLOWER" in printed) == (1, True), printed
    assert gate(capsys, days(store, 6), days(store, MANY))[0] != 1


def test_with_few_other_days_nothing_is_decided(tmp_path, capsys):
    """Of two nights alone, with days that were assumed to differ by 2 %, 12 to 35 % of equal ones
    were a slowdown; with ten other days 8 %."""
    for day in range(3, 9):
        on_day(tmp_path, day, 0.001, launches=2)
    first, second = (on_day(tmp_path, day, share) for day, share in ((1, 0.001), (2, 0.05)))
    status, printed = gate(capsys, first, second, "--quantile", 99)
    assert status == 3
    assert "how much the P99 differs between days is not known" in printed
    assert "a P99 slowdown of 100.0% could hide" in printed
    # It has no interval, so that no --min-effect would pass; and 100 is the largest one.
    for percent in (100, 5):
        options = "--quantile", 99, "--min-effect", percent
        assert "larger --min-effect" not in gate(capsys, first, second, *options)[1]
