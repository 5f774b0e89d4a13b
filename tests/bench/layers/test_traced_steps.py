"""The parts of whole steps of ours: what each rank's notes of the time say, the reasons why parts
are not told, and ranks that come late on purpose."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.layers.lateness import come_late, require_room
from bench.layers.traced_steps import record_of
from collectives.communicator import Refusal
from kernels.devices.device import Watch
from tests import fake_gpu
from tests.bench.launches import blocks_of, launch, run
from wiretax.record.lateness_file import read_lateness, write_lateness
from wiretax.record.result import ResultError

# Of two layers: a product, a call, a norm. Rank 1 is late at the first call, rank 0 at the second.
BETWEEN_US = [[40, 30, 5, 50, 20, 5], [60, 10, 5, 25, 45, 5]]


def record(
    between_us=BETWEEN_US,
    steps=6,
    slowdown=1.02,
    scale=1.0,
    clock=1.0,
):
    """What is stored of such notes in each step, by a clock that counts so much of the time."""
    times = np.cumsum(np.insert(np.array(between_us, float), 0, 7e6, axis=1), axis=1)
    took_us = np.sum(between_us, axis=1, keepdims=True) + 2.0
    of_ranks = np.hstack([took_us * slowdown, took_us, slowdown * clock * times])
    traced: Any = SimpleNamespace(
        number=3,
        form="ring copied",
        reason=None,
        noted=SimpleNamespace(scale=scale),
    )
    steps_ns = 1e3 * np.repeat(of_ranks[:, None], steps, axis=1)
    return record_of(traced, steps_ns)


def test_the_rank_that_comes_last_shows_the_transport_and_the_others_wait():
    """By hand: the calls move data for 10 and 20 us. Hidden behind the second product, of 50 and 25
    us, the first call would save 30 and 10 us; nothing follows the second."""
    told = record(slowdown=1.0)
    assert (told.case, told.form, told.calls, told.reason) == (3, "ring copied", 2, None)
    assert told.compute_us == [[100.0] * 6, [95.0] * 6]
    assert told.transport_us == [30.0] * 6
    assert told.waiting_us == [[20.0] * 6, [25.0] * 6]
    assert told.hideable_us == [[30.0] * 6, [10.0] * 6]
    assert told.last_share == [0.5, 0.5]
    assert record(slowdown=1.0, scale=20.0).transport_us == [600.0] * 6
    assert record(scale=20.0).calls == 40
    assert record().slowdown == 1.02
    assert record([[40, 30, 5, 50, 20, 5]] * 2).last_share == [0.5, 0.5]  # a coarse clock


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"slowdown": 1.3}, "a step with timestamps takes 1.30 times as long"),
        ({"clock": 0.25}, "the device's clock counts 0.25 of a step's time"),
        ({"between_us": [[40, 90, -5, 50, 20, 5]] * 2}, "the device's clock counts 0.99 of"),
        ({"steps": 5}, "time ran out: give it more --max-time"),
    ],
)
def test_parts_that_would_mislead_are_not_told(changes, reason):
    refused = record(**changes)
    assert refused.reason.startswith(reason)
    assert not refused.compute_us


SHORT_MODEL = """from msgspec.structs import replace
from bench.layers import traced_steps
from bench.layers.layers_command import main
from collectives.models import MODELS
MODELS["llama-3.1-8b"] = replace(MODELS["llama-3.1-8b"], layers=2)
traced_steps.MOST_SLOWDOWN = 100  # other programs use these cores
main("decode")
"""
TINY = "--model llama-3.1-8b --scale 1/1024 --slots 1 --max-time 60"
LATE_US = 20_000  # a call of four, longer than the scheduler's usual delays


@pytest.mark.alone
def test_a_rank_that_is_late_as_a_file_says_shows_in_times_parts_and_verdict(tmp_path):
    """Four lines for the four calls of a step: rank 1 is late at one of them in every step."""
    late = tmp_path / "late.csv"
    late.write_text(f"rank0_us,rank1_us\n0,{LATE_US}\n" + "0,0\n" * 3)
    out = tmp_path / "out"
    printed, result = run(out, TINY, "-n 4 --lateness", late, program=SHORT_MODEL)
    assert {case.n_wrong for case in result.cases if "tensor" in case.algorithm} == {0}
    times_us = {
        case.algorithm.partition("+")[0]: min(blocks_of(result, case, "time_us"))
        for case in result.cases
    }
    added_us = times_us["tensor_parallel_late"] - times_us["tensor_parallel_on_time"]
    assert 0.9 * LATE_US < added_us < 1.9 * LATE_US
    assert "Without this lateness a step takes " in " ".join(printed.split())
    by_form = {each.form.rpartition(", ")[2]: each for each in result.traced}
    told = by_form["late"]
    assert (len(result.traced), told.calls, told.reason) == (3, 4, None)
    assert np.median(told.waiting_us[0]) > 0.9 * LATE_US > np.median(told.waiting_us[1])
    assert np.median(told.compute_us[1]) > 0.9 * LATE_US
    assert "parts of a step" in printed


def test_steps_are_traced_in_graphs_of_a_simulated_gpu(tmp_path):
    variables = fake_gpu.environment(vendor="cuda", count=2) | {"FAKE_NCCL_BINDING": "none"}
    options = f"{TINY} -n 1 --device cuda"
    _, result = run(tmp_path, options, program=SHORT_MODEL, **variables)
    assert result.run.method["graph"] == 1
    (told,) = result.traced
    assert (told.calls, told.reason) == (4, None)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "line 1: the header is not rank0_us,rank1_us,..."),
        ("rank1_us,rank0_us\n1,2\n", "line 1: the header is not rank0_us,rank1_us,..."),
        ("rank0_us,rank1_us\n", "has no call below its header"),
        ("rank0_us,rank1_us\n1,2\n\n3,4\n", "line 3: '' is not 2 figures of 0 to 100000 us"),
        ("rank0_us,rank1_us\n1,nan\n", "line 2: '1,nan' is not 2 figures of 0 to 100000 us"),
        ("rank0_us,rank1_us\n1,-2\n", "line 2: '1,-2' is not 2 figures of 0 to 100000 us"),
        ("rank0_us,rank1_us\n100001,2\n", "line 2: '100001,2' is not 2 figures of 0 to 100000 us"),
        ("rank0_us,rank1_us\n1,\x1b[2J\n", "line 2: '1,?[2J' is not 2 figures of 0 to 100000 us"),
    ],
)
def test_a_file_that_is_no_lateness_is_refused_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "late.csv"
    path.write_text(content)
    with pytest.raises(ResultError) as refused:
        read_lateness(path)
    assert str(refused.value).endswith(sentence)
    assert "\n" not in str(refused.value)


def test_what_is_written_is_read_again_and_no_rank_is_later_than_the_file_may_say(tmp_path):
    path = tmp_path / "late.csv"
    assert write_lateness(path, np.array([[0.0, 12.3456], [250_000.0, 0.0]])) == 1
    assert read_lateness(path).tolist() == [[0.0, 12.346], [100_000.0, 0.0]]


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        (1, "one rank waits for nobody"),
        (3, "has the lateness of 2 ranks, and here are 3"),
    ],
)
def test_a_launch_with_other_ranks_than_the_file_is_refused(tmp_path, ranks, sentence):
    late = tmp_path / "late.csv"
    late.write_text("rank0_us,rank1_us\n0,5\n")
    done = launch(tmp_path / "out", "--lateness", late, command="decode", ranks=ranks)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert sentence in done.stderr


def test_a_lateness_that_fills_the_time_is_refused():
    require_room(np.array([[0.0, 100.0]]), 160, 10, 60.0)
    with pytest.raises(Refusal, match=r"a step takes 8\.0 s or more"):
        require_room(np.array([[0.0, 50_000.0]]), 160, 10, 60.0)


def test_calls_take_lines_in_a_row_from_a_seeded_one_on():
    """A rank that is late for several calls in a row is so here, and in a run with another seed at
    other places."""
    device = SimpleNamespace(
        store=lambda array: SimpleNamespace(address=array.ctypes.data),
        loop_step=lambda entry, argument: SimpleNamespace(argument=argument),
    )
    watch = Watch()

    def firsts(seed):
        world: Any = SimpleNamespace(
            rank=1,
            device=device,
            oversubscribed=False,
            watch=watch,
        )
        late = come_late(world, np.zeros((1000, 2)), 4, [seed, 1], [])
        return [each.step.argument.first for each in late]

    first = firsts(7)[0]
    assert firsts(7) == [first + call for call in range(4)]
    assert firsts(8) != firsts(7)
