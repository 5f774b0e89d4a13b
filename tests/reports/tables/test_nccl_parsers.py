"""Public parsers of nccl-tests output read ours: CloudAI's, SuperBench's and FlagPerf's, restated
from their public sources (NVIDIA/cloudai, nccl_test/performance_report_generation_strategy.py;
microsoft/superbenchmark, cuda_nccl_bw_performance.py; FlagOpen/FlagPerf,
interconnect-MPI_intraserver/dcu/BW/main.sh)."""

import re

import pytest

from reports.tables.formats import as_nccl_tests
from tests.reports.synthetic_run import write_run


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("run"), sizes=[16384, 1 << 20, 32 << 20], in_place=(False, True)
    )


@pytest.fixture(scope="module")
def cases(result):
    """The cases of `auto` by size and place."""
    return {
        (case.size_bytes, case.in_place): case
        for case in result.cases
        if (case.algorithm, case.mode) == ("auto", "isolated")
    }


def cloudai_rows(text):
    """CloudAI takes each line that starts with a digit and has 13 fields; a job has succeeded if
    both lines of the footer are there."""
    assert "# Out of bounds values" in text
    assert "# Avg bus bandwidth" in text
    lines = [line.split() for line in text.splitlines() if re.match(r"\s*\d", line)]
    return [cells for cells in lines if len(cells) == 13]


def figures_of(case):
    """The mean time in us, algbw and busbw in GB/s; both are equal with two ranks."""
    mean_us = case.time_us.mean
    return [
        pytest.approx(mean_us, abs=0.05),
        *[pytest.approx(case.size_bytes / mean_us / 1e3, abs=0.006)] * 2,
    ]


def test_cloudai_reads_every_figure(result, cases):
    rows = cloudai_rows(as_nccl_tests(result))
    assert [int(row[0]) for row in rows] == [16384, 1 << 20, 32 << 20]
    for row in rows:
        size = int(row[0])
        assert row[1:5] == [str(size // 4), "float", "sum", "-1"]
        assert [float(cell) for cell in row[5:8]] == figures_of(cases[size, False])
        assert [float(cell) for cell in row[9:12]] == figures_of(cases[size, True])
        assert [float(row[8]), float(row[12])] == [0, 0]
