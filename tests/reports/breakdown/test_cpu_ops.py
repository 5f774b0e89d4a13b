"""Traces of CPUs: real ones of two ranks on gloo, and made ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from reports.breakdown.cpu_ops import read_cpu_ops
from reports.breakdown.kernel_names import Names
from tests.calibration.synthetic_traces import event

pytestmark = pytest.mark.unit
TRACES = Path(__file__).parent / "traces"
PAIR = [TRACES / f"gloo-rank{rank}.json.gz" for rank in (0, 1)]


@pytest.fixture
def timeline(tmp_path):
    """The timeline of these events of a CPU."""

    def read(*events):
        path = tmp_path / "trace.json"
        path.write_text(json.dumps({"traceEvents": events}))
        return read_cpu_ops(path, Names())

    return read


def op(name, ts, dur, thread=1):
    return event("cpu_op", name, ts, dur, pid=1, tid=thread)


def test_ranks_on_gloo_wait_as_long_as_they_noted_themselves(reports):
    """The late rank is named; the calls have the size of their tensor, 8 x 512 floats."""
    status, out, _ = reports("breakdown", *PAIR, "--json")
    fields = json.loads(out)
    assert (status, fields["ranks"], fields["steps"]) == (0, [0, 1], 10)
    [call] = fields["calls"]
    assert (call["collective"], call["by"]) == ("all_reduce", "gloo")
    assert (call["size_bytes"], call["n_calls"]) == (8 * 512 * 4, 20)
    arrivals_us = np.array(json.loads((TRACES / "gloo-arrivals-us.json").read_text()))
    noted_us = (arrivals_us.max(axis=0) - arrivals_us).mean(axis=1)
    # A thread of gloo takes a call some 50 us after its rank has come.
    assert call["waiting_us"] == pytest.approx(noted_us, rel=0.05, abs=200)
    assert call["last_share"][1] > 0.9
    parts = ("compute", "transport", "waiting", "overlap", "idle")
    assert sum(fields[f"{part}_us"] for part in parts) == pytest.approx(fields["step_us"])


def test_operators_count_once_and_what_queues_a_call_does_not_compute(timeline):
    found = timeline(
        op("aten::linear", 0, 10),
        op("aten::mm", 2, 6),
        op("c10d::allreduce_", 10, 3),
        op("aten::relu", 15, 2),
    )
    assert found.texts == ["aten::linear", "aten::relu"]
    assert found.starts_us.tolist() == [0, 15]
    assert not found.is_call.any()


def test_operators_of_two_threads_are_not_nested(timeline):
    found = timeline(
        op("aten::linear", 0, 10),
        op("aten::mm", 2, 6, thread=2),
    )
    assert found.texts == ["aten::linear", "aten::mm"]


def test_an_operator_around_a_call_gives_way_to_what_it_calls(timeline):
    """Otherwise the call's time would count as overlap with compute."""
    found = timeline(
        op("layer", 0, 100),
        op("aten::mm", 10, 20),
        op("gloo:all_reduce", 40, 50),
        op("aten::copy_", 60, 5),
    )
    assert found.texts == ["aten::mm", "gloo:all_reduce"]
    assert found.is_call.tolist() == [False, True]


def test_calls_on_different_threads_of_gloo_are_one_stream(timeline):
    found = timeline(
        event("user_annotation", "gloo:all_reduce", 0, 5, 1, 2),
        event("user_annotation", "gloo:all_reduce", 10, 5, 1, 3),
    )
    assert found.stream.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("events", "word"),
    [
        ([], "neither"),
        ([event("python_function", "step", 0, 1, 1)], "neither"),
        ([{**op("aten::mm", 0, 1), "dur": -1}], ">= 0"),
        ([{**op("aten::mm", 0, 1), "ts": None}], "Expected"),
    ],
)
def test_a_wrong_trace_is_one_sentence(events, word, reports, tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    status, _, err = reports("breakdown", path)
    assert (status, err.count("\n")) == (2, 1)
    assert word in err
