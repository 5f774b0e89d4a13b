"""Public parsers of nccl-tests output read ours: CloudAI's, SuperBench's and FlagPerf's, restated from their public
sources (NVIDIA/cloudai, nccl_test/performance_report_generation_strategy.py; microsoft/superbenchmark,
cuda_nccl_bw_performance.py; FlagOpen/FlagPerf, interconnect-MPI_intraserver/dcu/BW/main.sh)."""

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
    """CloudAI takes each line that starts with a digit and has 13 fields; a job has succeeded if both lines of the
    footer are there."""
    assert "# Out of bounds values" in text
    assert "# Avg bus bandwidth" in text
    lines = [line.split() for line in text.splitlines() if re.match(r"\s*\d", line)]
    return [cells for cells in lines if len(cells) == 13]


def superbench_figures(text, in_place):
    """SuperBench looks between the last line with `out-of-place` and the footer. It counts the columns of the heading
    from the right, because cells on the left may be empty."""
    lines = text.splitlines()
    begin = max(number for number, line in enumerate(lines) if "out-of-place" in line)
    end = max(number for number, line in enumerate(lines) if "Out of bounds values" in line)
    heading = (
        next(line for line in lines[begin + 1 : end] if "time" in line and "busbw" in line)
        .lstrip("# ")
        .split()
    )
    figures = {}
    for line in lines[begin + 1 : end]:
        cells = line.split()
        if cells and re.match(r"\d+", cells[0]):
            columns = {}
            for name in ("time", "algbw", "busbw"):
                numbers = [number for number, word in enumerate(heading) if word == name]
                columns[name] = float(cells[numbers[-1 if in_place else 0] - len(heading)])
            figures[int(cells[heading.index("size")])] = columns
    return figures


def flagperf_average(text):
    """FlagPerf takes the last word of the line, and would join those of several tests."""
    averages = [line.split()[-1] for line in text.splitlines() if "# Avg bus bandwidth" in line]
    return float("\n".join(averages))


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


@pytest.mark.parametrize("in_place", [False, True])
def test_superbench_reads_every_figure(result, cases, in_place):
    figures = superbench_figures(as_nccl_tests(result), in_place)
    assert {size: [*columns.values()] for size, columns in figures.items()} == {
        size: figures_of(case) for (size, place), case in cases.items() if place == in_place
    }


def test_flagperf_reads_the_average(result, cases):
    busbws = [case.size_bytes / case.time_us.mean / 1e3 for case in cases.values()]
    assert flagperf_average(as_nccl_tests(result)) == pytest.approx(sum(busbws) / 6, rel=1e-4)


def test_headings_are_at_the_original_places(result):
    """The heading of nccl-tests 2.19.6, as the widths in its writeResultHeader make it."""
    widths = (10, 12, 8, 6, 6, 7, 6, 6, 6, 7, 6, 6, 6)
    half = ("time", "algbw", "busbw", "#wrong")
    names = ("size", "count", "type", "redop", "root", *half, *half)
    units = ["(B)", "(elements)", "", "", "", *["(us)", "(GB/s)", "(GB/s)", ""] * 2]
    heading = [f"# {'  '.join(map(str.rjust, row, widths))} " for row in (names, units)]
    places = f"# {'  '.join(' ' * width for width in widths[:5])}           out-of-place{' ' * 23}in-place{' ' * 10}"
    lines = as_nccl_tests(result).splitlines()
    begin = lines.index(heading[0]) - 1
    assert lines[begin : begin + 3] == [places, *heading]
    assert lines[-6] == "# Out of bounds values : 0 OK"
    assert re.fullmatch(r"# Avg bus bandwidth    : [\d.]+ ", lines[-5])
    assert lines[-4:] == ["#", "# Collective test concluded: all_reduce_perf", "#", ""]
