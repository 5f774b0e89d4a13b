"""Steps are cut where the device begins them, not where the host launched them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from reports.breakdown.cut_steps import Steps, kind_of, steps_of
from reports.breakdown.timeline import Annotation, Timeline
from tests.reports.breakdown.small_trace import CALL
from tests.reports.breakdown.timelines import Work, decode, timeline


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("execute_context_0(0)_generation_32(32)", ("decode", 32)),
        ("execute_context_2(512)_generation_0(0)", ("prefill", 512)),
        ("execute_context_1(107)_generation_3(3)", ("mixed", 110)),
        (
            "execute_32_context_0(sq0sk0sqsq0sqsk0)_generation_32(sq32sk55086sqsq32sqsk55086)",
            ("decode", 32),
        ),
        ("execute_new_0_cached_16", ("decode", 16)),
        ("execute_new_1_cached_16", ("prefill or mixed", None)),
        ("step[DECODE bs=32]", ("decode", 32)),
        ("step[EXTEND bs=2 toks=107]", ("extend", 107)),
        ("step[MIXED bs=2]", ("mixed", None)),
        ("ProfilerStep#551", ("", None)),
    ],
)
def test_an_annotation_says_what_its_step_is(name: str, kind: tuple[str, int | None]) -> None:
    assert kind_of(name) == kind


def late_device(lag_us: float) -> Timeline:
    """Steps whose host launches each 100 us, and whose device works `lag_us` later."""
    made = decode(name="execute_context_0(0)_generation_4(4)")
    return replace(
        made,
        starts_us=made.starts_us + lag_us,
        ends_us=made.ends_us + lag_us,
        launches_us=made.starts_us + 1,
    )


@pytest.mark.parametrize(("lag_us", "whole"), [(2, 8), (37, 7), (350, 7)])
def test_a_step_begins_with_the_first_work_that_it_launched(lag_us: float, whole: int) -> None:
    """The last one is whole if the host waits for its work."""
    steps = steps_of(late_device(lag_us))

    assert steps.starts_us.tolist() == [1e6 + lag_us + 100 * step for step in range(whole)]
    launched = [step if step < whole else -1 for step in range(8) for _ in range(6)]
    assert steps.of_work.tolist() == launched


def test_work_of_an_unknown_launch_counts_where_it_lies() -> None:
    """A call that belonged to no step was transport all along, and no row had it."""
    made = late_device(37)
    assert made.launches_us is not None
    made.launches_us[made.is_call] = np.nan
    steps = steps_of(made)

    calls = steps.of_work[made.is_call].tolist()
    assert calls == [step if step < 7 else -1 for step in range(8) for _ in range(2)]


def test_the_next_steps_copies_do_not_begin_it() -> None:
    """SGLang launches copies of the next step on another stream while the device works."""
    made = late_device(0)
    early = [("Memcpy", 1e6 + 100 * step - 30, 1e6 + 100 * step - 28, 9) for step in range(1, 8)]
    works = [
        *zip(
            [made.texts[name] for name in made.name],
            made.starts_us.tolist(),
            made.ends_us.tolist(),
            made.stream.tolist(),
            strict=True,
        ),
        *early,
    ]
    launches = {start: start + 29 for _, start, *_ in early}
    beside = timeline(works, annotations=made.annotations)
    beside.launches_us = np.array([launches.get(start, start) + 1 for start in beside.starts_us])

    assert steps_of(beside).starts_us.tolist() == [1e6 + 100 * step for step in range(8)]


def test_the_devices_annotations_are_used_without_launches() -> None:
    """One on each of two streams at a time is one step."""
    host = decode()
    device = [
        Annotation(each.name, each.start_us + 350 + beside, each.end_us + 340, True)
        for each in host.annotations
        for beside in (0, 20)
    ]
    steps = steps_of(replace(host, annotations=host.annotations + device))

    assert steps.starts_us.tolist() == [1e6 + 350 + 100 * step for step in range(7)]
    assert "device" in steps.found_by


def test_annotations_without_gaps_have_a_last_step() -> None:
    assert len(steps_of(decode(steps=8)).names) == 8


def test_the_engines_step_goes_before_the_profilers() -> None:
    made = decode(name="step[DECODE bs=2]")
    made.annotations.insert(0, Annotation("ProfilerStep#1", 0, 2e6))
    made.annotations.append(Annotation("aten::mm", 1e6, 2e6))

    assert {*steps_of(made).names} == {"step[DECODE bs=2]"}


def test_steps_that_overlap_are_left_out_and_told() -> None:
    made = decode(steps=8)
    made.annotations[3].end_us += 60

    steps = steps_of(made)

    assert len(steps.names) == 6
    assert "ProfilerStep#3" not in steps.names
    assert "ProfilerStep#4" not in steps.names
    assert steps.notes == ["2 steps that overlap others are left out"]


def test_work_that_comes_before_that_of_the_step_before_is_left_out() -> None:
    """No stream turns its launches round: the times are wrong."""
    made = late_device(0)
    begin, end = 3 * 6, 4 * 6
    made.launches_us[begin:end] += 100  # type: ignore[index]
    made.launches_us[end : end + 6] -= 100  # type: ignore[index]
    steps = steps_of(made)

    assert len(steps.names) == 6
    assert (steps.ends_us[:-1] <= steps.starts_us[1:]).all()
    assert steps.notes == ["2 steps that overlap others are left out"]


def layers(
    n_steps: int,
    n_layers: int = 20,
    before: Sequence[Work] = (),
) -> list[Work]:
    """Decode of many layers without annotations: what a step begins and ends with, and layers."""
    works = [*before]
    for step in range(n_steps):
        now = 1000.0 * step
        works += [("copy", now, now + 2, 7), ("embed", now + 5, now + 9, 7)]
        for layer in range(n_layers):
            at = now + 10 + 30 * layer
            works += [("gemm", at, at + 10, 7), (CALL, at + 10, at + 20, 7)]
            works += [("norm", at + 20, at + 22, 7)]
        works += [("lm_head", now + 700, now + 740, 7), ("sample", now + 740, now + 750, 7)]
        if step % 4 == 3:  # a block of the cache is full
            works.append(("grow", now + 750, now + 751, 7))
    return works


def test_a_period_of_many_layers_is_a_step() -> None:
    """Neither a layer, nor the four steps after which a kernel of the cache runs."""
    steps = steps_of(timeline(layers(17)))

    assert steps.starts_us.tolist() == [1000.0 * step for step in range(16)]
    assert steps.found_by == "the period of the kernel copy"


def test_a_single_step_of_many_layers_has_no_period() -> None:
    steps = steps_of(timeline(layers(1)))

    assert (steps.starts_us.tolist(), steps.ends_us.tolist()) == ([0.0], [750.0])
    assert "whole trace" in steps.found_by


def test_only_renumbers_the_works_of_the_steps_that_stay() -> None:
    steps = Steps(
        ["a", "b", "c"],
        np.array([0.0, 10, 20]),
        np.array([10.0, 20, 30]),
        np.array([0, 1, 1, 2, -1]),
        "the test",
    )
    kept = steps.only([1, 2])

    assert (kept.names, kept.of_work.tolist()) == (["b", "c"], [-1, 0, 0, 1, -1])
