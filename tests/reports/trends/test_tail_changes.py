"""`history --quantile`: changes of a tail over weeks of runs, by the real command."""

import json
import re

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from reports.trends.changes import judge
from reports.trends.tail_changes import confirmed, limit_of, rank_sum_p, runs_to_tell, size_by_ranks
from tests.reports.synthetic_nights import write_night
from tests.reports.synthetic_run import run_id

pytestmark = pytest.mark.unit

RUNS, STEP = 42, 30
ONE_SIZE = [16384]  # half of the cases


@pytest.fixture
def history(reports):
    def run(*words):
        status, out, err = reports("history", *words)
        return status, " ".join(out.split()), err

    return run


def asked(history, *words):
    status, out, _ = history(*words, "--json")
    return status, json.loads(out)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """From a night on, 1 % of the calls of the smaller two_shot are five times slower."""
    folder = tmp_path_factory.mktemp("nights")
    for night in range(RUNS):
        write_night(folder, night, {1: 0.01} if night >= STEP else 0.001)
    return folder


def test_a_tail_that_grew_is_an_alarm_although_no_median_changed(store, history, tmp_path):
    """A call that is slow once in a hundred is in four of five tokens of 160 calls."""
    assert asked(history, store)[0] == 0
    status, answer = asked(history, store, "--quantile", "99")
    assert (status, answer["quantile"]) == (1, 0.99)
    [event] = answer["events"]
    assert abs(int(event["run"][-3:]) - STEP) <= 1
    [series] = [each for each in answer["series"] if each["verdict"] == "worse"]
    assert series["case"] == "16 KiB two_shot"
    change, low, high = series["change"]
    assert 0 < low < change < high

    picture = tmp_path / "tail.svg"
    status, text, _ = history(store, "--quantile", "99", "--plot", picture)
    said = r"1 change: P99 of 16 KiB two_shot is \d\d\.\d% longer since \d+ Feb 2026"
    assert re.match(said, text)
    assert re.search(
        r"A change of P99 is reported once a rank-sum test confirms it, after \d+ runs at", text
    )
    assert "P99 of 16 KiB two_shot, us" in picture.read_text()
    assert history(store, "--quantile", "99", "--since", run_id(STEP + 2))[0] == 0


def test_without_the_option_nothing_is_said_of_tails(store, history):
    status, answer = asked(history, store)
    assert (status, answer["quantile"], answer["left_out"]) == (0, None, [])
    assert "P99" not in history(store)[1]


def test_a_faster_median_with_a_worse_tail_is_both(tmp_path, history):
    """The one hides the other in a mean, and each alone is half of the truth."""
    for night in range(36):
        later = night >= 24
        scale = 0.8 if later else 1.0
        write_night(tmp_path, night, 0.03 if later else 0.001, scale=scale, sizes=ONE_SIZE)
    status, answer = asked(history, tmp_path)
    assert (status, {each["verdict"] for each in answer["series"]}) == (0, {"better"})
    status, answer = asked(history, tmp_path, "--quantile", "99")
    assert (status, {each["verdict"] for each in answer["series"]}) == (1, {"worse"})
    assert answer["events"][0]["headline"].startswith("P99 of 16 KiB two_shot is ")


def test_nights_with_a_heavy_tail_that_are_all_alike_are_no_alarm(tmp_path, history):
    """Three nights whose P99 is a slow step by chance would be "five times longer"."""
    shares = 0.006 * np.exp(np.random.default_rng(8).normal(0, 0.4, 40))
    for night, share in enumerate(shares):
        write_night(tmp_path, night, float(share), sizes=ONE_SIZE)
    status, answer = asked(history, tmp_path, "--quantile", "99")
    assert (status, answer["events"]) == (0, [])


def test_only_ranks_keep_jumps_from_being_alarms():
    """The same by many draws: without the ranks some of these months have an alarm."""
    jumps = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        logs = rng.normal(0, 0.02, (6, 40)) + 1.6 * (rng.random((6, 40)) < 0.07)
        judged = judge(logs, 6)
        jumps += any(judged.steps)
        assert not any(confirmed(judged, logs, 6).steps)
    assert jumps


def test_older_runs_without_steps_are_counted_and_the_others_are_a_series(tmp_path, history):
    """Half of a store was measured before steps were kept."""
    for night in range(44):
        if night < 20:
            write_night(tmp_path, night, change=lambda block: block, sizes=ONE_SIZE)
        else:
            write_night(tmp_path, night, 0.03 if night >= 36 else 0.001, sizes=ONE_SIZE)
    status, answer = asked(history, tmp_path, "--quantile", "99")
    assert (status, answer["runs"]) == (1, 44)
    assert {each["runs"] for each in answer["series"]} == {24}
    said = "left out, without a P99 (older versions, or fewer than 1,000 steps): 40 of 88 results"
    assert said in answer["left_out"]
    assert asked(history, tmp_path)[1]["series"][0]["runs"] == 44


def test_a_store_without_the_percentile_says_what_it_takes(tmp_path, history):
    """A report of nothing would read "no change"."""
    for night in range(3):
        write_night(tmp_path, night, n=40)
    status, out, err = history(tmp_path, "--quantile", "99")
    assert (status, out) == (2, "")
    assert re.fullmatch(r"reports: [^\n]* has no run with a P99; [^\n]*1,000 steps[^\n]*\n", err)
    assert history(tmp_path, "--quantile", "90")[0] == 0
    status, _, err = history(tmp_path, "--quantile", "95")
    assert status == 2
    assert "'50', '90', '99', '99.9'" in err.replace(
        "choose from 50, 90, 99, 99.9", "'50', '90', '99', '99.9'"
    )


@pytest.mark.parametrize(
    ("n", "m"),
    [
        (1, 1),
        (3, 30),
        (30, 3),
        (12, 15),
        (60, 40),
    ],
)
@pytest.mark.parametrize("shift", [0, 2])
def test_ranks_are_as_in_scipy(n, m, shift):
    rng = np.random.default_rng(n + m)
    before, after = rng.normal(0, 1, n), rng.normal(shift, 1, m)
    assert rank_sum_p(before, after) == pytest.approx(
        mannwhitneyu(before, after, method="exact").pvalue
    )


def test_thousands_of_runs_have_ranks_too():
    """A dashboard of three years ended in a traceback: the orders of 1,100 runs are too many."""
    rng = np.random.default_rng(5)
    before, after = rng.normal(0, 1, 1500), rng.normal(0, 1, 700)
    for shift in (0.05, 0.15, 0.2):
        found = rank_sum_p(before, after + shift)
        assert found == pytest.approx(mannwhitneyu(before, after + shift).pvalue, rel=1e-3)
    _, low, high = size_by_ranks(before, after + 0.2, 0.0)
    assert low < 0.2 < high


def test_the_report_says_how_many_runs_can_confirm_a_change():
    for runs, n_series in (
        (40, 4),
        (40, 84),
        (200, 84),
    ):
        age = runs_to_tell(runs, n_series)
        logs = np.arange(runs) >= runs - age
        values = logs + 1e-3 * np.random.default_rng(0).normal(size=runs)
        assert rank_sum_p(values[~logs], values[logs]) <= limit_of(n_series)
        assert rank_sum_p(values[: 1 - age], values[1 - age :]) > limit_of(n_series)
    assert runs_to_tell(10, 84) == 0
