"""Tests the command `import` on logs that are damaged, truncated or hostile, or contain impossible
figures."""

import json
from pathlib import Path

import pytest

from reports.imports import logged
from reports.imports import mpi_logs as import_mpi
from reports.imports.runs import find_tests
from tests.reports.imports.test_import import imported, put
from tests.reports.imports.test_import_formats import (
    BOTH,
    CASE,
    FOOTER,
    HALF,
    HEAD,
    REPORT,
    ROW_8,
    ROW_16,
    TABLE,
    WHOLE,
    halves,
    only,
)
from wiretax.record.result import read

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("line", ["A-1", "[1", "_", "1,", "[1,0][", " ", "\x1b[", "> ", "a_1 |"])
def test_the_time_for_a_long_line_is_linear_in_its_length(line):
    """Otherwise a hostile log of a few megabytes would take hours, and this test would not end."""
    text = line * 60_000
    logged.LABELS.match(text)
    logged.HOST.match(text)
    logged.MESSAGE.search(text)
    import_mpi.OSU_COLUMN.findall(f"Size {text}")
    noise = f"# OSU MPI Latency Test v7.1\nSize {text}\nNCCL version{text}\nMPI_{text}:\n"
    assert halves(find_tests(Path("log"), (WHOLE + noise).encode())[0]) == BOTH


OSU = "# OSU MPI Allreduce Latency Test v5.9\n# Size       Avg Latency(us)\n"
IMB = (
    "# Intel(R) MPI Benchmarks 2021.3\n# Benchmarking Bcast\n"
    "# #processes = 4\n#bytes #repetitions t[usec]\n"
)


START = HEAD + TABLE
UNREAD = [
    (
        OSU + "4 -20.0\n8 nan\n16 1e400\n32 0.00\n-8 1.0\n9223372036854775807 1.0\n8 1,5\n8\n",
        [3, 4, 5, 7, 8, 9, 10],
        1,
    ),
    (
        IMB + "-4 1000 1.5\n4.5 1000 1.5\n4 1000 nan\n4 0.5 1.5\nnone of it\n8 1000 1.5\n",
        [5, 6, 7, 8],
        1,
    ),
    (START + ROW_8.replace(" 2 ", " 2.5 ") + ROW_8.replace(" 8 ", " 1e20 ") + ROW_16, [12, 13], 2),
    (START + ROW_8.replace("17.93    0.00", "  nan     nan") + ROW_16 + FOOTER, [12], 3),
    (START + ROW_8.replace("0.00", "0.45", 1) + FOOTER, [12], 1),  # a time in milliseconds
    # Otherwise the wrong elements of one half would count as those of the other.
    ("tije".join(START.rsplit("time", 1)) + ROW_8 + ROW_16 + FOOTER, [12, 13], 0),
    (START + ROW_8 + "07/02/2025 14:12:36 1 2 3 4\n8 of 16 1 2 3 4\n" + ROW_16 + FOOTER, [], 4),
]


@pytest.mark.parametrize(("text", "unread", "read"), UNREAD)
def test_invalid_rows_are_counted(text, unread, read):
    """The import must not drop or misread impossible, too large or truncated figures silently."""
    test = only(text)
    assert (sorted(set(test.unread)), len(test.rows)) == (unread, read)


FULL_OSU = (
    "# OSU MPI Allreduce Latency Test v7.1\n# Size       Avg Latency(us)   Iterations\n"
    "4   34.31   1000\n8   34.40   1000\n16  34.50   1000"
)


@pytest.mark.parametrize(
    ("end", "status", "rows"),
    [(None, "incomplete", 2), ("", "complete", 3), ("\n32Killed\n", "incomplete", 3)],
)
def test_a_cut_osu_table_is_incomplete(end, status, rows):
    """OSU prints no end, so only the last row or a message shows that a log was cut off."""
    test = only(FULL_OSU[:-1] if end is None else FULL_OSU + end)
    assert (test.status, len(test.rows)) == (status, rows)


def test_impossible_figures_in_a_report_are_refused(tmp_path, capsys):
    """Otherwise a wrong count of 0.5 would become 0."""
    good = CASE | {"out_of_place": HALF | {"nwrong": "N/A", "bus_bw": "nan"}, "in_place": None}
    results = [good, good | {"out_of_place": HALF | {"nwrong": 0.5}}]
    log = put(tmp_path / "a.log", json.dumps(REPORT | {"results": results}))
    (path,) = imported(tmp_path / "out", log)
    assert [case.size_bytes for case in read(path).cases] == [8]
    err = capsys.readouterr().err
    assert (
        ": rows that could not be read: 2 (1 in all); the first: '0.5' is no whole number\n" in err
    )


GATHER = WHOLE.replace("all_reduce", "all_gather")


@pytest.mark.parametrize("letter", ["\t", ",", ";", "|"])
def test_a_line_of_separators_alone_does_not_grow(letter):
    """200 MB of commas became 4 GB, those of tabs 1.6 GB."""
    assert len(logged.clean_line(letter * logged.LONGEST_LINE)) <= logged.LONGEST_LINE
