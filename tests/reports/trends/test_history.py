"""`history` over weeks of runs: real files, the real command."""

import json
import re
import shutil
import tracemalloc
from typing import Any
from unittest import mock

import numpy as np
import pytest

from reports.site.history_page import banner_of
from reports.trends.changes import judge
from reports.trends.creep import creep_of
from reports.trends.history import history_of, seen_change
from reports.trends.links import changes_of
from tests.reports import synthetic_run
from tests.reports.synthetic_campaign import no_effect, write_campaign
from tests.reports.synthetic_fleet import label
from tests.reports.synthetic_run import (
    SLOW_NS,
    disturb,
    mark_wrong,
    rewrite,
    rewrite_head,
    run_id,
    write_run,
)
from wiretax.record.folder import read_store

pytestmark = pytest.mark.unit

RUNS, STEP = 44, 30
SLOWED = 1.25
SLOW = dict.fromkeys(range(4), 1.4)


def write(folder, number, slowed=(), **fields):
    """Writes one night's run of four cases; `slowed` maps a case to the factor on its times."""
    noise = float(np.exp(np.random.default_rng(number).normal(0, 0.015)))

    def us(case, block):
        return block.total_us * dict(slowed).get(block.case, 1.0)

    shape = {"sizes": [16384, 65536], "algorithms": ["library", "two_shot"], "modes": ["isolated"]}
    made = {"n_blocks": 6, "n": 4, "seed": number, "run_id": run_id(number), "scale": noise}
    return write_run(folder, us=us, **shape | made | fields).path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Both sizes of two_shot get slower with a new kernel; the load changes every night; earlier,
    the smaller library case is faster for ten nights."""
    folder = tmp_path_factory.mktemp("store")
    for number in range(RUNS):
        later = number >= STEP
        slowed = {1: SLOWED, 3: SLOWED} if later else {0: 0.8} if 10 <= number < 20 else {}
        path = write(folder / ("nightly" if number % 2 else ""), number, slowed)
        facts = {"os.kernel": "6.18\u202e|<script>" if later else "6.12", "os.load": number / 10}
        rewrite_head(
            path,
            software_id="new\x1b[2J" if later else "old",
            environment={
                name: {"value": value, "source": "", "status": "ok"}
                for name, value in facts.items()
            },
        )
    return folder


@pytest.fixture
def history(reports):
    """A function that asks, and returns the status, standard output in a line and standard
    error."""

    def run(folder, *words):
        status, out, err = reports("history", folder, *words)
        assert max(map(len, out.splitlines()), default=0) <= 80 or "--json" in words
        return status, " ".join(out.split()), err

    return run


def test_a_regression_is_one_alarm_that_names_its_cases_and_what_else_changed(
    store, history, tmp_path
):
    """Otherwise there is an alarm for each case, and the commit must be searched among all
    nights."""
    picture = tmp_path / "history.svg"
    status, text, err = history(store, "--plot", picture)
    assert (status, err) == (0, "")
    # Readers with impaired colour vision need the direction in words.
    assert {"worse", "better"} <= set(re.findall(r">(worse|better) ", picture.read_text()))
    finding = r"16 KiB two_shot and 64 KiB two_shot take 2\d\.\d% longer since 3 Feb 2026"
    assert re.match(f"3 changes, the largest: {finding}", text)
    assert re.search(rf"{finding} allreduce on .*a1b2c3, first at {run_id(STEP)}", text)
    assert re.search(
        r"MPICH 5.0.2 takes 2\d.\d% longer since .*MPICH 5.0.2 takes 1\d.\d% less", text
    )
    assert "Changed there: software_id: old -> new?[2J" in text
    assert "os.kernel: 6.12 -> 6.18?|<script>" in text
    assert "os.load" not in text
    row = r"16 KiB two_shot worse [\d.]+ [\d.]+ \+2\d\.\d% \[\+\d+\.\d% \+\d+\.\d%\]"
    assert re.search(row, text)
    assert "series: 3 worse, 1 steady." in text


def test_a_pipeline_asks_what_became_worse_since_a_run(store, history):
    """A change of last month must not fail tonight's pipeline."""

    def ask(*words):
        status, out, _ = history(store, "--json", *words)
        return status, json.loads(out)

    status, answer = ask("--since", run_id(STEP))
    assert (status, answer["runs"]) == (1, RUNS)
    [event] = answer["events"]
    assert event["run"] == run_id(STEP)
    for series in answer["series"]:
        estimate, low, high = series["change"]
        assert (series["verdict"], series["since"]) == ("worse", run_id(STEP))
        assert low < SLOWED - 1 < high
        assert low < estimate < high
    status, answer = ask("--since", run_id(STEP + 1))
    assert (status, answer["series"], answer["events"]) == (0, [], [])
    _, text, _ = history(store, "--since", run_id(STEP + 1))
    headline = rf"no newer change over {RUNS} runs; changes for the worse before .*: 2 runs"
    assert re.match(headline, text), "the store did get slower"
    assert ask("--since", run_id(STEP)[:10])[0] == 1  # a day, as cron has it
    status, _, err = history(store, "--since", "yesterday")
    assert status == 2
    assert re.fullmatch(r"reports: [^\n]*yesterday[^\n]*\n", err)


def test_wrong_results_fail_a_pipeline_until_a_correct_run_follows(tmp_path, history):
    """Otherwise nights of wrong sums would read "no change"."""
    write(tmp_path, 1)
    for number in (2, 3):
        mark_wrong(write(tmp_path, number))
    status, text, _ = history(tmp_path, "--since", run_id(1))
    found = f"WRONG RESULTS: 2 runs that no correct run has followed, the last {run_id(3)}: "
    assert (status, text[: len(found)]) == (1, found)
    rewrite(write(tmp_path, 4), lambda line: line.pop("n_wrong", None))
    write(tmp_path, 5, sizes=[65536])
    write(tmp_path / "gate" / "base", 6)
    (tmp_path / "gate" / "campaign.jsonl").write_text("{}")
    status = history(tmp_path, "--since", run_id(3))[0]
    assert status == 1, "not checked, without the case, of another variant"
    write(tmp_path, 7)
    assert history(tmp_path, "--since", run_id(4))[0] == 0
    status, out, _ = history(tmp_path, "--json")
    assert (status, json.loads(out)["wrong"]) == (0, [])
    for number in (8, 9):
        write(tmp_path, number, status="incomplete")
    status, text, _ = history(tmp_path, "--since", run_id(9))
    found = rf"INCOMPLETE: .*: the newest 2 runs, since {run_id(8)[:10]}, failed; cause .*"
    assert status == 3, "nights that fail are not steady"
    assert re.match(found + "no change over 5 complete runs", text)


def test_the_first_slow_night_is_a_suspect_that_fails_nothing(tmp_path, history):
    """One slow night must be named and must not fail the pipeline; the second one must."""
    for number in range(25):
        write(tmp_path, number, SLOW if number == 24 else {})
    status, text, _ = history(tmp_path, "--since", run_id(20))
    assert (status, "series: 4 suspect." in text) == (0, True)
    assert re.match(r"no change over 25 runs, but: All 2 cases take \d+\.\d% longer", text)
    assert "a suspect, no alarm until the next run confirms it" in text
    write(tmp_path, 25, SLOW)
    status, text, _ = history(tmp_path, "--since", run_id(20))
    assert (status, text[:28]) == (1, "1 change: All 2 cases take 4")


def test_an_event_of_disturbed_nights_alone_is_named_and_is_no_alarm(tmp_path, history):
    """A neighbour on the host must not fail the night."""
    for number in range(25):
        path = write(tmp_path, number, SLOW if number >= 23 else {})
        if number >= 23:
            disturb(path)
    status, text, _ = history(tmp_path, "--since", run_id(20))
    assert status == 0
    assert text.startswith("no change over 25 runs")
    assert "All 2 cases take" in text
    assert "no alarm: its runs were disturbed" in text


def test_a_night_without_a_change_draws_nothing_and_is_no_error(tmp_path, history):
    """A good night must not fail cron."""
    for number in range(8):
        write(tmp_path, number)
    status, text, err = history(tmp_path, "--plot", tmp_path / "x.png")
    assert (status, text.startswith("no change over 8 runs")) == (0, True)
    assert err == f"reports: nothing changed, so {tmp_path / 'x.png'} is not drawn\n"


def test_runs_in_another_state_of_the_link_do_not_count(tmp_path, history):
    """Other cores must not look like a regression."""
    for number in range(24):
        write(tmp_path, number, fast_rounds=range(6) if number < 4 else ())
    text = history(tmp_path)[1]
    assert "series: 4 steady." in text
    assert "4 of 24 runs are left out: their link was in another state" in text


def slower_link(folder, number, slowed):
    """Writes a night's run in which the link's round trip is twice as long."""
    with mock.patch.object(synthetic_run, "SLOW_NS", 2 * SLOW_NS):
        write(folder, number, slowed)


def test_a_link_that_stays_slower_is_an_alarm_from_its_second_run_on(tmp_path, history):
    """Each state of the link is compared with itself: without its change nothing would be said of
    nights that all take longer."""
    slow = dict.fromkeys(range(4), 1.6)
    for number in range(25):
        write(tmp_path, number)
    slower_link(tmp_path, 25, slow)
    finding = "The round trip is 10[78]. ns since 26 Jan 2026, was 5[34]. ns"
    status, text, _ = history(tmp_path, "--since", run_id(10))
    assert re.match(f"no change over 26 runs, but: {finding}; a suspect", text)
    assert status == 0
    slower_link(tmp_path, 26, slow)
    status, text, _ = history(tmp_path, "--since", run_id(10))
    assert (status, bool(re.match(f"1 change: {finding}", text))) == (1, True), text
    assert re.search(r"There the median of 4 cases changes by \+\d\d\.\d%", text)
    status, out, _ = history(tmp_path, "--json")
    link = json.loads(out)["series"][0]
    assert (link["case"], link["verdict"], link["alarm"]) == ("flag round trip", "worse", True)
    assert (status, link["change"][1:]) == (1, [None, None])
    banner = banner_of(history_of(read_store(tmp_path)))
    assert (banner.word, banner.role) == ("1 change for the worse", "worse")


def test_runs_of_both_states_of_the_link_are_judged_each_with_their_own(tmp_path, history):
    """Otherwise the nights of one state are not looked at, and a change among them is not told."""
    for number in range(12):
        write(tmp_path, number)
    for number in range(12, 36):
        slower_link(tmp_path, number, dict.fromkeys(range(4), 1.4 if number < 26 else 1.75))
    text = history(tmp_path)[1]
    assert re.match(r"2 changes, of the link: The round trip is ", text), text
    assert re.search(r"All 2 cases take 2\d\.\d% longer since 27 Jan", text)
    assert re.search(r"12 of 36 runs are compared with each other alone, as `link 5\d\d ns`", text)
    assert "The exit status is 0 although something got worse: --since and --json" in text


def test_a_restless_link_is_no_alarm_each_time_it_changes():
    """Between the cores of some virtual machines it changes every few nights."""
    states = np.repeat([1.0, 2.0] * 6, 3)
    assert max(changes_of(states)[0]) < 15
    assert changes_of(np.repeat([1.0, 2.0] * 6, [3] * 11 + [10]))[0][33] == ""


def test_a_run_without_some_cases_parts_no_series_from_the_others(tmp_path, history):
    """Tested apart, few series find less: five percent of the cells missing hid a change of all."""
    for number in range(30):
        cases = {"algorithms": ["library", "two_shot"] if number % 3 else ["library"]}
        write(tmp_path, number, dict.fromkeys(range(4), SLOWED if number >= 24 else 1.0), **cases)
    text = history(tmp_path)[1]
    assert re.match(r"1 change: All 2 cases take 2\d\.\d% longer since 25 Jan 2026", text), text


def test_a_slow_creep_is_told_with_its_whole_size(tmp_path, history):
    """As steps it would read as a few percent, however much a case takes longer by now."""
    for number in range(60):
        grown = 1.3 ** min(max((number - 15) / 40, 0), 1)
        write(tmp_path, number, dict.fromkeys(range(4), grown))
    text = history(tmp_path)[1]
    found = re.search(r"All 2 cases take (\d+\.\d)% longer since .{11}, little by little", text)
    assert found, text
    assert 26 < float(found[1]) < 34
    assert re.search(r"It came little by little from \S+ to \S+: \+\d+\.\d% \[", text)


def test_a_creep_among_very_many_runs_takes_little_memory():
    """All creeps of all lengths at once were a matrix of 20 GB for 10,000 runs."""
    runs = np.arange(2000)
    log_costs = 0.01 * np.random.default_rng(3).standard_normal(len(runs))
    log_costs += 0.05 * np.clip((runs - 500) / 400, 0, 1)
    tracemalloc.start()
    try:
        creep = creep_of(log_costs, [600, 700, 800])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert creep
    assert creep.first == pytest.approx(500, abs=50)
    assert creep.last == pytest.approx(900, abs=50)
    _, low, high = creep.log_ratio
    assert low < 0.05 < high
    assert peak_bytes < 50e6


def test_the_size_of_one_step_is_not_that_of_steps_in_all_series():
    """It would be too small: the steps of all were taken out with a part of it."""
    rng = np.random.default_rng(5)
    values = 0.01 * rng.standard_normal((6, 100))
    values[:, 30:45] += 0.10
    values[:, 65:] += 0.08
    values[0, 80:] += 0.05
    steps = judge(values, 6).steps[0]
    [(size, low, high)] = [step.log_ratio for step in steps if abs(step.first - 80) < 3]
    assert low < 0.05 < high
    assert 0.04 < size < 0.06


def test_twenty_runs_show_a_step_of_eight_spreads_or_say_that_they_would_not():
    """The correlation of so few runs is uncertain, and must not pass for their noise."""
    rng = np.random.default_rng(6)
    found = 0
    for _ in range(40):
        values = 0.006 * rng.standard_normal((4, 20)) + 0.05 * (np.arange(20) >= 10)
        judged = judge(values, 4)
        found += any(judged.steps)
        assert any(judged.steps) or judged.common > 0.05
    assert found >= 34


def test_what_separates_series_is_in_their_labels(tmp_path):
    """Another machine, node, world or method must not look like a regression, and a slow node must
    not drown among equal ones. Ten launches of a campaign agree better than ten nights do, and are
    one point."""
    heads: list[Any] = [{}, {}, {"machine_id": "b" * 6}, {"method": {"checks": 0}}]
    for number, head in enumerate(heads):
        rewrite_head(write(tmp_path, number), **head)
    label(write(tmp_path, 6), "n1")
    write(tmp_path, 7, world_size=4)
    for number in range(10, 16):
        write(tmp_path / "campaign-1" / "main", number)
    (tmp_path / "campaign-1" / "campaign.jsonl").write_text("{}")
    history = history_of(read_store(tmp_path))
    assert seen_change(history) > 0  # a series of one run has no spread
    series = [each for each in history.series if each.label.startswith("16 KiB library")]
    assert sorted(
        (each.label[15:], each.machine_id, each.node or "", len(each.costs_us)) for each in series
    ) == [
        ("", "a1b2c3", "", 1),
        ("", "a1b2c3", "", 2),
        ("", "a1b2c3", "n1", 1),
        ("", "bbbbbb", "", 1),
        ("checks 0", "a1b2c3", "", 1),
        ("main", "a1b2c3", "", 1),
    ]


def test_unusable_runs_are_left_out_and_named(tmp_path, history):
    """A bad file must not hide the others, and times of wrong results must not count."""
    good, newer, odd = (write(tmp_path, number) for number in (1, 4, 6))
    rewrite_head(newer, schema=99)
    rewrite_head(odd, run_id="yesterday")
    write(tmp_path, 2, status="incomplete")
    mark_wrong(write(tmp_path, 5))
    (tmp_path / "torn\x1b[2J.jsonl").write_bytes(b"\x00\xff{")
    (tmp_path / "again").mkdir()
    shutil.copy(good, tmp_path / "again")
    write(tmp_path, 7, n_blocks=4)
    _, text, _ = history(tmp_path)
    assert "runs 2, machines 1" in text
    for reason in (
        "incomplete: 1",
        "with wrong results: 1",
        "not a run that can be read: 2 (",
        "a run once more: 1",
        "without a time in its run_id: 1",
        "with fewer than 5 blocks: 4 of 8 results",
    ):
        assert reason in text, reason


def test_a_campaign_that_a_dead_launch_ended_is_named(tmp_path, history):
    """A night on which a side could not run must not look like a night without a gate."""
    write(tmp_path, 1)
    folder = write_campaign(tmp_path / "night", {"base": no_effect, "head": no_effect}, pairs=1)
    manifest = folder / "campaign.jsonl"
    *lines, last, _ = manifest.read_text().splitlines()
    died = {"status": "died", "reason": "killed by SIGSEGV: it printed nothing", "run": None}
    last = json.dumps(json.loads(last) | died)
    manifest.write_text("\n".join([*lines, last, ""]))
    _, text, _ = history(tmp_path)
    sentence = (
        "left out, a campaign that ended early, head died: killed by SIGSEGV: it printed nothing"
    )
    assert f"{sentence}: 1 (night)" in " ".join(text.split())
    manifest.write_text("\n".join([*lines, ""]))  # it still runs, or was interrupted
    _, text, _ = history(tmp_path)
    assert "a campaign" not in text
