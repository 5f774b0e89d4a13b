"""`history` over weeks of runs: real files, the real command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from matplotlib import pyplot

from reports.__main__ import main
from reports.trends.changes import Step
from reports.trends.history import load
from reports.trends.history_figure import draw
from reports.trends.latest import judge
from reports.trends.series import Series
from tests.reports.synthetic_fleet import label
from tests.reports.synthetic_run import mark_wrong, write_run

pytestmark = pytest.mark.unit

RUNS, STEP = 44, 30
SLOWED = 1.25


def run_id(number: int) -> str:
    return f"2026-{1 + number // 28:02d}-{1 + number % 28:02d}T03-00-00Z-allreduce-{number:06d}"


def write(
    folder: Path,
    number: int,
    scale: Callable[[Any], float] = lambda block: 1.0,
    head: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Writes one night's run of four cases; `scale` gives the factor on a block's times, `head` replaces fields of the
    first line."""
    noise = float(np.exp(np.random.default_rng(number).normal(0, 0.015)))

    def change(block: Any) -> Any:
        factor = scale(block)
        return msgspec.structs.replace(
            block, time_us=block.time_us * factor, total_us=block.total_us * factor
        )

    made = write_run(
        folder,
        sizes=[16384, 65536],
        algorithms=["library", "two_shot"],
        modes=["isolated"],
        n_blocks=6,
        n=4,
        scale=noise,
        seed=number,
        run_id=run_id(number),
        change=change,
        **options,
    ).path
    shutil.rmtree(made.with_suffix(".samples"))
    if head:
        first, rest = made.read_text().split("\n", 1)
        made.write_text(json.dumps(json.loads(first) | head) + "\n" + rest)
    return made


def facts(**values: Any) -> dict[str, Any]:
    return {
        name.replace("_", "."): {"value": value, "source": "", "status": "ok"}
        for name, value in values.items()
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Both sizes of two_shot get slower with a new kernel; the load changes every night; earlier, the smaller library
    case is faster for ten nights."""
    folder = tmp_path_factory.mktemp("store")
    for number in range(RUNS):
        later = number >= STEP

        def scale(block, later=later, number=number):
            slowed = SLOWED if later and block.case % 2 else 1.0
            return slowed * (0.8 if block.case == 0 and 10 <= number < 20 else 1.0)

        write(
            folder / ("nightly" if number % 2 else ""),
            number,
            scale,
            {
                "software_id": "new\x1b[2J" if later else "old",
                "environment": facts(
                    os_kernel="6.18\u202e|<script>" if later else "6.12",
                    os_load=number / 10,
                    cpu_model="EPYC",
                ),
            },
        )
    return folder


def history_text(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["history", str(folder), *more]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert max(map(len, captured.out.splitlines())) <= 80
    return captured.out


def test_a_regression_is_one_alarm_that_names_its_cases_and_what_else_changed(store, capsys):
    """Otherwise there is an alarm for each case, and the commit must be searched among all nights."""
    text = " ".join(history_text(store, capsys).split())
    first = f"2 series worse: machine a1b2c3, allreduce, first at {run_id(STEP)}"
    assert text.index(first) < text.index("1 series worse") < text.index("1 series better")
    assert "Changed there: software_id: old -> new?[2J" in text
    assert "os.kernel: 6.12 -> 6.18?|<script>" in text
    assert "os.load" not in text
    assert text.startswith("3 worse, 0 better of 4 series over ")
    assert re.search(r"\+2\d\.\d% \[\+\d+\.\d% \+\d+\.\d%\] worse 16 KiB two_shot", text)
    assert f"last run {run_id(RUNS - 1)}" in text
    assert "series: 3 worse, 1 steady." in text


def test_a_change_and_its_revert_are_two_alarms(store):
    """An average would hide a slow week in the middle."""
    history = load(store)
    small = next(series for series in history.series if series.label == "16 KiB library")
    assert [(step.first, step.word) for step in small.steps] == [(10, "better"), (20, "worse")]
    (better,) = (event for event in history.events if event.run == run_id(10))
    assert better.sentences[1:] == ["Nothing recorded changed there."]
    assert sorted(series.word for series in history.series) == ["steady", *["worse"] * 3]
    event = next(event for event in history.events if event.run == run_id(STEP))
    assert all(step.size[1] <= np.log(SLOWED) <= step.size[2] for _, step in event.changes)
    assert all(step.low <= STEP <= step.high for _, step in event.changes)


def test_a_pipeline_asks_what_became_worse_since_a_run(store, capsys):
    """A change of last month must not fail tonight's pipeline."""

    def ask(*more: str) -> tuple[int, Any]:
        status = main(["history", str(store), "--json", *more])
        return status, json.loads(capsys.readouterr().out)

    status, answer = ask("--since", run_id(STEP))
    assert status == 1
    assert (answer["runs"], [event["run"] for event in answer["events"]]) == (RUNS, [run_id(STEP)])
    assert answer["events"][0]["cases"] == [series["case"] for series in answer["series"]]
    for series in answer["series"]:
        assert (series["verdict"], series["since"], series["runs"]) == ("worse", run_id(STEP), RUNS)
        estimate, low, high = series["change"]
        assert low < SLOWED - 1 < high
        assert low < estimate < high
    assert [series["verdict"] for series in ask()[1]["series"]].count("steady") == 1
    status, answer = ask("--since", run_id(STEP + 1))
    assert (status, answer["series"], answer["events"]) == (0, [], [])
    assert main(["history", str(store), "--since", run_id(STEP)]) == 1
    assert "2 series worse" in capsys.readouterr().out
    assert main(["history", str(store), "--since", "yesterday"]) == 2
    assert re.fullmatch(r"reports: [^\n]*yesterday[^\n]*\n", capsys.readouterr().err)


def test_what_became_worse_since_a_run_is_named(tmp_path, capsys):
    """One case steps a run after the other: both are one event, and belong to it on either side of --since."""

    def scale(number: int, block: Any) -> float:
        return SLOWED if number >= STEP + block.case % 2 else 1.0

    for number in range(RUNS):
        write(tmp_path, number, partial(scale, number))
    for since in (STEP, STEP + 1):
        status = main(["history", str(tmp_path), "--json", "--since", run_id(since)])
        answer = json.loads(capsys.readouterr().out)
        told = sorted(case for event in answer["events"] for case in event["cases"])
        assert told == sorted(series["case"] for series in answer["series"])
        assert (status, len(told)) in ((1, 4), (0, 0))


def words_after(late: Any, cases: int = 24, nights: int = 60, spread: float = 0.01) -> list[str]:
    """The verdicts on cases that get `late`, (cases, nights) or alike, on top of their last nights."""
    values = spread * np.random.default_rng(5).standard_normal((cases, nights))
    late = np.atleast_2d(late)
    values[:, nights - late.shape[1] :] += late
    return [word for _, word in judge(values, cases)]


@pytest.mark.parametrize(
    ("size", "nights"), [(0.05, 3), (0.1, 1), (0.3, 1), (0.3, 5), (1.0, 3), (1.0, 11), (1.0, 14)]
)
def test_a_late_step_of_all_cases_is_told(size, nights):
    """The larger the step, the more it must not be taken for noise."""
    assert words_after(np.full(nights, np.log1p(size))) == ["worse"] * 24
    assert words_after(np.full(nights, -np.log1p(size))) == ["better"] * 24


def test_a_slow_night_is_over_when_the_next_is_normal():
    """One bad night must not stay on the dashboard for weeks."""
    assert words_after([0.3]) == ["worse"] * 24
    assert words_after([0.3, 0]) == words_after(np.zeros(1)) == ["steady"] * 24


def test_the_change_of_one_case_is_not_a_change_of_all():
    """A case alone needs a second night; if all others change, a case that stays is steady."""
    alone = np.arange(24)[:, None] == 7
    assert words_after(0.3 * alone) == ["steady"] * 24
    assert words_after(0.3 * alone * [1, 1]).count("worse") == 1
    assert words_after(0.3 * ~alone * [1, 1]) == [
        "steady" if case == 7 else "worse" for case in range(24)
    ]


def test_a_verdict_needs_enough_runs_with_little_noise():
    """`steady` means that a step would have been seen."""
    assert set(words_after([0.0], nights=12)) == {"too early"}
    assert set(words_after([1.0], nights=12)) == {"worse"}
    assert set(words_after([0.0], spread=0.05)) == {"noisy"}


def test_the_picture_says_worse_and_better_in_words(store, tmp_path, capsys):
    """Readers with impaired colour vision need the direction in words."""
    history_text(store, capsys, "--plot", str(tmp_path / "history.svg"))
    drawn = (tmp_path / "history.svg").read_text()
    assert {"worse", "better"} <= set(re.findall(r">(worse|better) [+-]\d+\.\d%<", drawn))
    assert main(["history", str(store), "--plot", str(tmp_path / "history.gif")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_labels_of_changes_that_lie_close_do_not_overlap(tmp_path):
    """Three changes in a week must be readable."""
    steps = [
        Step(first, first, first + 1, (0.2 if first % 2 else -0.2, -0.3, 0.3))
        for first in (10, 13, 16, 30, 41, 44, 46, 50)
    ]
    costs_us = np.array([1 + number % 2 / 5 for number in range(60)])
    series = Series(
        "16 KiB ring",
        "a1b2c3",
        "allreduce",
        [run_id(number) for number in range(60)],
        costs_us,
        steps,
    )
    made, panel = pyplot.subplots(figsize=(4.6, 2.7), layout="constrained")
    draw(panel, series)
    made.canvas.draw()
    boxes = [label.get_window_extent() for label in panel.texts]
    made.savefig(tmp_path / "close.png", dpi=120)
    pyplot.close(made)
    assert len(boxes) == 8
    assert not any(box.overlaps(other) for box, other in combinations(boxes, 2))


def test_names_that_differ_at_their_ends_are_not_cut(tmp_path, capsys):
    """Cut names would make two cases look like one."""
    for number in range(24):

        def scale(block, later=number >= 14):
            return 1.3 if later and block.case % 2 else 1.0

        made = write(tmp_path, number, scale)
        made.write_text(
            made.read_text()
            .replace('"variant":"copied"', '"variant":"copied by two threads at once"')
            .replace('"algorithm":"two_shot"', '"algorithm":"two_shot_of_all_the_ranks_of_a_host"')
        )
    text = history_text(tmp_path, capsys)
    for size in ("16 KiB", "64 KiB"):
        assert f"worse   {size}\n      two_shot_of_all_the_ranks_of_a_host\n" in text


def test_link_state_machine_and_number_of_ranks_separate_the_series(tmp_path, capsys):
    """Other cores or another machine must not look like a regression."""
    for number in range(60):
        write(
            tmp_path,
            number,
            fast_rounds=range(6) if number < 24 else (),
            head={"machine_id": "b" * 6} if number >= 48 else None,
        )
    history = load(tmp_path)
    assert history.events == []
    groups = {
        (series.machine_id, *re.findall(r"link (\d)\d\d ns", series.label), len(series.costs_us))
        for series in history.series
    }
    assert groups == {("a1b2c3", "1", 24), ("a1b2c3", "5", 24), ("bbbbbb", 12)}
    text = " ".join(history_text(tmp_path, capsys).split())
    assert "series: 8 steady, 4 too early." in text
    write(tmp_path, 99, world_size=4, fast_rounds=range(6))
    assert len(load(tmp_path).series) == len(history.series) + 4


def test_each_node_is_a_series_and_runs_of_a_former_version_belong_to_the_only_node(tmp_path):
    """A slow node must not drown among equal ones, and an upgrade must not cut a history in two."""
    for number in range(6):
        made = write(tmp_path, number)
        if number >= 3:
            label(made, "n1")
    assert {len(series.costs_us) for series in load(tmp_path).series} == {6}
    for number in range(6, 9):
        label(write(tmp_path, number), "n2")
    assert sorted({len(series.costs_us) for series in load(tmp_path).series}) == [3]
    assert {series.node for series in load(tmp_path).series} == {None, "n1", "n2"}


def test_runs_that_agree_to_the_last_digit_have_no_alarm(tmp_path):
    """Without any noise, the rounding of a sum must not count as a change."""
    made = write(tmp_path, 0).read_text()
    for number in range(1, 30):
        (tmp_path / f"{number}.jsonl").write_text(made.replace(run_id(0), run_id(number), 1))
    history = load(tmp_path)
    assert [len(series.costs_us) for series in history.series] == [30] * 4
    assert history.events == []


def test_the_launches_of_a_campaign_are_one_point(tmp_path):
    """Ten launches within minutes agree better than ten nights do, and would outweigh them."""
    for number in range(6):
        write(tmp_path / "campaign-1" / "main", number)
    (tmp_path / "campaign-1" / "campaign.jsonl").write_text("{}")
    write(tmp_path, 7)
    history = load(tmp_path)
    assert {
        (series.label.endswith(" main"), len(series.costs_us)) for series in history.series
    } == {(True, 1), (False, 1)}


def test_unusable_runs_are_left_out_and_named(tmp_path, capsys):
    """A bad file must not hide the others, and times of wrong results must not count."""
    good = write(tmp_path, 1)
    write(tmp_path, 2, status="incomplete")
    write(tmp_path, 3, head={"imported_from": {"file": "log.txt"}})
    write(tmp_path, 4, head={"schema": 99})
    mark_wrong(write(tmp_path, 5))
    (tmp_path / "torn\x1b[2J.jsonl").write_bytes(b"\x00\xff{")
    (tmp_path / "again").mkdir()
    shutil.copy(good, tmp_path / "again")
    (tmp_path / "link.jsonl").symlink_to(good)
    write(tmp_path, 6, head={"run_id": "yesterday"})
    write(tmp_path, 7, fast_rounds=range(2, 6))  # two rounds in the slow state are too few
    text = " ".join(history_text(tmp_path, capsys).split())
    assert "runs 2, machines 1" in text
    for reason in (
        "incomplete: 1",
        "imported from a log: 1",
        "of a newer schema: 1",
        "with wrong results: 1",
        "not a run that can be read: 1 (torn?[2J.jsonl)",
        "a run once more: 1",
        "not followed: 1 (link.jsonl)",
        "without a time in its run_id: 1",
        "with fewer than 5 blocks in one state of the link: 4 of 8 results",
    ):
        assert reason in text, reason


@pytest.mark.parametrize("make", ["nothing", "file", "empty", "only torn"])
def test_a_folder_without_runs_is_refused_in_one_sentence(make, tmp_path, capsys):
    """A typing error must not look like a history without changes."""
    folder = tmp_path / "results"
    if make == "file":
        folder.write_text("")
    elif make != "nothing":
        folder.mkdir()
    if make == "only torn":
        (folder / "run.jsonl").write_text("{")
    assert main(["history", str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"reports: [^\n]*results[^\n]*\n", captured.err)
