"""From files to a bill: the ranks' traces of one run."""

import argparse
import json
from pathlib import Path

import pytest

from reports.__main__ import main
from reports.breakdown.from_traces import read_traces
from reports.breakdown.text import bill_fields
from tests.reports.breakdown.small_trace import write_trace

NOTHING = argparse.Namespace(
    collective=[],
    run=None,
    gpu=None,
    size=None,
    one=None,
)


def test_files_in_another_order_give_the_same_bill(tmp_path: Path) -> None:
    paths = [write_trace(tmp_path / f"{r}.json", rank=r, late_us=7.0 * r) for r in range(2)]

    bills = [bill_fields(read_traces(given, NOTHING)) for given in (paths, paths[::-1])]

    assert bills[0] == bills[1]
    assert bills[0]["ranks"] == [0, 1]
    assert bills[0]["calls"][0]["waiting_us"] == pytest.approx([0, 7])
    # No compute follows a call within its step.
    assert bills[0]["hidden_at_most_us"] == 0


def test_the_bill_has_the_tokens_of_its_step(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "trace.json")
    content = json.loads(path.read_text())
    for each in content["traceEvents"]:
        each["name"] = each["name"].replace(
            "ProfilerStep#", "execute_0_context_0(0)_generation_8(16)"
        )
    path.write_text(json.dumps(content))

    assert read_traces([path], NOTHING).tokens == 16


def test_the_clock_of_a_late_rank_stands_beside_it(tmp_path, capsys):
    """As Kineto writes counters for Intel: zeros after each kernel."""
    paths = []
    for rank, (late_us, mhz) in enumerate([(30.0, 2800), (0.0, 2100)]):
        path = write_trace(tmp_path / f"rank{rank}.json", rank, steps=40, late_us=late_us)
        trace = json.loads(path.read_text())
        trace["traceEvents"] += [
            {
                "ph": "C",
                "name": "xpu",
                "ts": 1,
                "args": {"AvgGpuCoreFrequencyMHz": each},
            }
            for each in (mhz, 0, mhz, 0)
        ]
        path.write_text(json.dumps(trace))
        paths.append(str(path))
    assert main(["breakdown", *paths, "--json"]) == 0
    [call] = json.loads(capsys.readouterr().out)["calls"]
    assert call["late_ranks"] == [1]
    assert "AvgGpuCoreFrequencyMHz 2800 on rank 0, 2100 on rank 1" in call["why"]
