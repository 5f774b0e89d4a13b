"""Tests the command `import` on logs that are damaged, truncated or hostile, or contain impossible figures."""

import json
from pathlib import Path

import pytest

from reports.imports import logged
from reports.imports import mpi as import_mpi
from reports.imports.command import find_tests
from reports.imports.imported import read_imported
from reports.store.result import ResultError
from tests.reports.imports.test_import import imported, put
from tests.reports.imports.test_import_formats import (
    BOTH,
    CRASH,
    EARLY_HEAD,
    EARLY_NAMES,
    EARLY_ROW,
    FOOTER,
    HEAD,
    ROW_8,
    ROW_16,
    TABLE,
    WHOLE,
    halves,
    only,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "line", ["A-1", "[1", "A", "_", "1,", "[1,0][", "A1.", " ", "\x1b[", "> ", "a_1 |"]
)
def test_the_time_for_a_long_line_is_linear_in_its_length(line):
    """Otherwise a hostile log of a few megabytes would take hours, and this test would not end."""
    text = line * 60_000
    logged.LABELS.match(text)
    logged.MESSAGE.search(text)
    logged.IN_SECONDS.search(text)
    import_mpi.OSU_COLUMN.findall(f"Size {text}")
    noise = f"# OSU MPI Latency Test v7.1\nSize {text}\nNCCL version{text}\nMPI_{text}:\n"
    assert halves(find_tests(Path("log"), (WHOLE + noise).encode())[0]) == BOTH


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.encode() + bytes(4000),
        lambda text: text.encode("utf-16") + bytes(4000),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be") + bytes(4000),
    ],
)
def test_logs_after_a_crash_or_from_windows_are_read(damage):
    """A crash leaves null bytes at the end of a log, and Windows writes UTF-16."""
    (test,) = find_tests(Path("log"), damage(WHOLE))
    assert (halves(test), test.unread) == (BOTH, [])


@pytest.mark.parametrize("content", [bytes(5000), b"# a\0b\n" * 9, WHOLE.encode() + b"\0\0x"])
def test_binary_files_are_refused(content):
    with pytest.raises(ResultError, match=r"is binary, not a log|is empty"):
        find_tests(Path("log"), content)


def test_a_damaged_import_is_repaired(tmp_path, capsys):
    """A second import must replace figures that a full disk or a bad edit has damaged."""
    log = put(tmp_path / "a.log", WHOLE)
    (path,) = imported(tmp_path / "out", log)
    whole = path.read_bytes()
    for damaged in (
        whole[:-40],
        b"",
        whole.replace(b"17.93", b"11.93"),
        whole.replace(b"a.log", b"a\\u001b[2J"),
        whole + b"x",
    ):
        path.write_bytes(damaged)
        capsys.readouterr()
        assert imported(tmp_path / "out", log) == [path]
        assert capsys.readouterr().out.endswith(f"{path} (written anew)\n")
        assert (path.read_bytes(), list(path.parent.iterdir())) == (whole, [path])


@pytest.mark.parametrize(
    ("name", "datatype", "redop"),
    [
        ("Multi-Allreduce", "float32", "sum"),
        ("Iallreduce", "float32", "sum"),
        ("Ireduce_scatter_pure", "float32", "sum"),
        ("Accumulate", "float32", "sum"),
        ("Multi-Bcast", "uint8", None),
        ("Ibcast", "uint8", None),
    ],
)
def test_imb_reductions_have_their_own_datatype(name, datatype, redop):
    """IMB prints two datatypes: a reduction of floats must not be shown as a reduction of bytes."""
    (case,) = only(
        "# Intel(R) MPI Benchmarks 2021.3, MPI-1 part\n# MPI_Datatype : MPI_BYTE\n"
        "# MPI_Datatype for reductions : MPI_FLOAT\n# MPI_Op : MPI_SUM\n"
        f"# Benchmarking {name}\n# #processes = 4\n"
        "#bytes #repetitions t_ovrl[usec] t_pure[usec]\n4 1000 3.5 1.5\n"
    ).cases
    assert (case.datatype, case.redop) == (datatype, redop)


def test_a_copy_with_another_name_changes_no_import(tmp_path, capsys):
    """Otherwise the imports of two copies of a log would overwrite each other."""
    (path,) = imported(tmp_path / "out", put(tmp_path / "a.log", WHOLE))
    whole = path.read_bytes()
    imported(tmp_path / "out", put(tmp_path / 'b "1".log', WHOLE))
    assert capsys.readouterr().out.endswith("(is there already)\n")
    assert path.read_bytes() == whole


OSU = "# OSU MPI Allreduce Latency Test v5.9\n# Size       Avg Latency(us)\n"
IMB = "# Intel(R) MPI Benchmarks 2021.3\n# Benchmarking Bcast\n# #processes = 4\n#bytes #repetitions t[usec]\n"


@pytest.mark.parametrize(
    ("text", "unread", "read"),
    [
        (
            OSU + "4 -20.0\n8 nan\n16 1e400\n32 0.00\n-8 1.0\n9223372036854775807 1.0\n8 1,5\n8\n",
            [3, 4, 5, 7, 8, 9, 10],
            1,
        ),
        (OSU + "8 |*\n10 +---+\n4 of 8 ranks\n", [], 0),
        (OSU + "4 20.05\n8\n16 20.1", [4, 5], 1),
        (OSU + "4 20.05\n8 9.02", [], 2),
        (OSU + "4 20.05\n8 9.0\n", [], 2),
        (
            "# OSU MPI Barrier Latency Test v7.1\n# Avg Latency(us)  Validation\n-1.5 Pass\n1.5 Pass\n",
            [3],
            1,
        ),
        (
            IMB + "-4 1000 1.5\n4.5 1000 1.5\n4 1000 nan\n4 0.5 1.5\nnone of it\n8 1000 1.5\n",
            [5, 6, 7, 8],
            1,
        ),
        (HEAD + TABLE + ROW_8.replace("    8 ", "   -8 ", 1) + ROW_16 + FOOTER, [12], 2),
        (
            HEAD
            + TABLE
            + ROW_8.replace("          8 ", "9223372036854775807 ", 1)
            + ROW_16
            + FOOTER,
            [12],
            2,
        ),
        (
            HEAD
            + TABLE
            + ROW_8.replace(" 2 ", " 2.5 ")
            + ROW_8.replace(" 8 ", " 1e20 ")
            + ROW_16
            + FOOTER,
            [12, 13],
            2,
        ),
        (
            HEAD
            + TABLE
            + ROW_8.replace("17.93    0.10    0.20", "  nan     nan     nan")
            + ROW_16
            + FOOTER,
            [12],
            3,
        ),
        (
            HEAD
            + TABLE
            + ROW_8.replace("17.93    0.10    0.20", "  inf     inf     inf")
            + ROW_16
            + FOOTER,
            [12],
            3,
        ),
        (
            HEAD
            + TABLE
            + ROW_8.replace("  0\n", "0.5\n")
            + ROW_16.replace("  0\n", " -1\n")
            + FOOTER,
            [12, 13],
            1,
        ),
        (HEAD + TABLE + ROW_8.replace(".", ",") + ROW_16.replace(".6", ",6") + FOOTER, [12, 13], 0),
        (
            HEAD
            + TABLE
            + ROW_8
            + "07/02/2025 14:12:36 1 2 3 4\n8 of 16 1 2 3 4\n"
            + ROW_16
            + FOOTER,
            [],
            4,
        ),
    ],
)
def test_invalid_rows_are_counted(text, unread, read):
    """The import must not drop or misread impossible, too large or truncated figures silently."""
    test = only(text)
    assert (sorted(set(test.unread)), len(test.cases)) == (unread, read)
    if not read:
        assert (test.status, test.reason) == ("incomplete", "it has no rows")
    assert (test.reason == "the log ends within a row") == text.endswith("20.1")


@pytest.mark.parametrize(
    "text",
    [
        "8,2,float sum -1 17.93 0.10,0.20,0,,\n",
        "# size count type redop root time algbw busbw #wrong i_mn i_p99\n8 2 float sum -1 17.93 0.10 0.20 0 9 9\n",
    ],
)
def test_merged_cells_and_unknown_columns_are_read(text):
    """A spreadsheet may merge cells, and a name of a column may be damaged: both ended the import with a traceback."""
    assert halves(only(text)) == BOTH[:1]


ROOTED = ROW_8.replace("     -1", "      0")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (HEAD + TABLE + ROW_8 + "          16\n" + CRASH, 1),
        (
            HEAD
            + TABLE
            + ROW_8
            + "          16   host0: Test CUDA failure common.cu:291 'unknown'\n"
            + CRASH,
            1,
        ),
        (
            HEAD
            + TABLE
            + ROW_8
            + ROW_16[:40]
            + "host0: Test CUDA failure common.cu:291 'unknown'\n"
            + CRASH,
            1,
        ),
        (HEAD + TABLE + "           8\n" + CRASH, 0),
        (HEAD + TABLE + ROOTED[:114], 0),
        (HEAD + TABLE + ROOTED + ROOTED[:114] + "\n" + CRASH, 1),
        (EARLY_HEAD + EARLY_NAMES + EARLY_ROW + EARLY_ROW[:13], 1),
        (
            EARLY_HEAD + EARLY_NAMES + EARLY_ROW + EARLY_ROW.replace("sum", "max") + EARLY_ROW[:-2],
            2,
        ),
        (EARLY_HEAD + EARLY_NAMES + EARLY_ROW + "Segmentation fault (core dumped)\n", 1),
        (EARLY_HEAD + EARLY_NAMES + EARLY_ROW + EARLY_ROW[:26] + "Killed\n", 1),
        (EARLY_HEAD + EARLY_NAMES + EARLY_ROW + EARLY_ROW[:104] + CRASH, 1),
    ],
)
def test_a_log_that_ends_within_a_row_is_incomplete(text, rows):
    """A cut row must not look like a failed run or a complete one, and its root must not be read as a time."""
    test = only(text)
    assert (test.status, len(test.cases)) == ("incomplete", 2 * rows)
    assert all(case.time_us.mean for case in test.cases)


FULL_OSU = (
    "# OSU MPI Allreduce Latency Test v7.1\n# Size       Avg Latency(us)   Iterations\n4   34.31   1000\n"
    "8   34.40   1000\n16  34.50   1000\n"
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (FULL_OSU[:-2], 2),
        (FULL_OSU[:-1], 3),
        (FULL_OSU.partition("34.31")[0] + "34.", 0),
        (FULL_OSU + "32Killed\n", 3),
        (FULL_OSU + "32  terminate called after throwing an instance\n", 3),
        (FULL_OSU + "[host0:9:0:9] Caught signal 11 (Segmentation fault)\n", 3),
    ],
)
def test_a_cut_osu_table_is_incomplete(text, rows):
    """OSU prints no end, so only the last row or a message shows that a log was cut off."""
    test = only(text)
    assert (test.status, len(test.cases)) == (
        "complete" if text == FULL_OSU[:-1] else "incomplete",
        rows,
    )


def test_rows_of_older_programs_are_read_without_their_header():
    """Their last column is an error, so `2e-07` must not refuse a row, and NCCL 1.x prints milliseconds."""
    row = ROW_8.replace("     -1", "").replace("      0", "  2e-07")
    assert {(case.n_wrong, case.max_error) for case in only(row + row).cases} == {(None, 2e-7)}
    assert [case.time_us.mean for case in only(EARLY_HEAD + EARLY_ROW).cases] == [1618, 1622]


def test_a_table_without_rows_is_incomplete():
    """A run with an empty table must not look like a measurement."""
    test = only(HEAD + TABLE + FOOTER)
    assert (test.status, test.reason) == ("incomplete", "it has no rows")


HALF = {"time": 10.0, "alg_bw": 1.0, "bus_bw": 1.0, "nwrong": 0}
REPORT = {
    "version": 3,
    "args": ["all_reduce_perf"],
    "config": {},
    "average_bus_bandwidth": {"bandwidth": 1.0},
}


@pytest.mark.parametrize(
    ("row", "half"),
    [
        ({}, {"time": -10}),
        ({}, {"time": None}),
        ({}, {"time": 1e308}),
        ({}, {"nwrong": 0.5}),
        ({}, {"nwrong": -5}),
        ({}, {"nwrong": True}),
        ({}, {"bus_bw": -1}),
        ({}, {"alg_bw": "x"}),
        ({"size": "abc"}, {}),
        ({"size": -8}, {}),
        ({"size": True}, {}),
        ({"size": 2**63}, {}),
        ({"size": None}, {}),
        ({"count": 0.5}, {}),
    ],
)
def test_impossible_figures_in_a_report_are_refused(row, half, tmp_path, capsys):
    """Otherwise a wrong count of 0.5 would become 0, and an impossible size would become blank."""
    good = {
        "size": 8,
        "count": 2,
        "out_of_place": HALF | {"nwrong": "N/A", "bus_bw": "nan"},
        "in_place": None,
    }
    log = put(
        tmp_path / "a.log",
        json.dumps(REPORT | {"results": [good, good | row | {"out_of_place": HALF | half}]}),
    )
    (path,) = imported(tmp_path / "out", log)
    assert [case.size_bytes for case in read_imported(path).cases] == [8]
    assert capsys.readouterr().err.endswith(
        ": results that look like data and could not be read: 2 (1 in all)\n"
    )


def test_a_report_without_results_is_incomplete():
    test = only(json.dumps(REPORT | {"results": []}))
    assert (test.status, test.reason) == ("incomplete", "it has no rows")


def interleaved(first, second):
    return "".join(
        line + "\n"
        for pair in zip(first.splitlines(), second.splitlines(), strict=True)
        for line in pair
    )


GATHER = WHOLE.replace("all_reduce", "all_gather")
TWICE = interleaved(ROW_8 + FOOTER, ROW_8 + FOOTER)
TABLES = interleaved(TABLE + ROW_8 + FOOTER, TABLE + ROW_8 + FOOTER)
END = "# Collective test concluded: {}_perf\n"


@pytest.mark.parametrize(
    ("text", "collective", "world_size", "gpus"),
    [
        (
            interleaved(WHOLE + END.format("all_reduce"), GATHER + END.format("all_gather")),
            None,
            2,
            2,
        ),
        (interleaved(GATHER, WHOLE), None, 2, 2),
        (interleaved(WHOLE, WHOLE), "all_reduce", 2, 2),
        (interleaved(WHOLE, WHOLE.replace("#  Rank  1", "#  None  1")), "all_reduce", None, 2),
        (
            interleaved(
                WHOLE, WHOLE.replace("[0019:01:00] NVIDIA GH200", "[0019:01:00] NVIDIA H100")
            ),
            "all_reduce",
            2,
            1,
        ),
        (HEAD + TABLE + HEAD.replace("all_reduce", "all_gather") + TABLE + TWICE, None, 2, 2),
        (HEAD + HEAD.replace("all_reduce", "all_gather") + TABLE + TWICE, None, 2, 2),
        ("$ ./all_reduce_perf -g 2 &\n$ ./all_gather_perf -g 4 &\n" + TABLES, None, None, 0),
        ("$ ./all_reduce_perf -g 4 &\n$ ./all_reduce_perf -g 4 &\n" + TABLES, "all_reduce", 4, 0),
    ],
)
def test_two_interleaved_runs_have_only_the_labels_that_both_heads_share(
    text, collective, world_size, gpus
):
    """Otherwise rows of an all-gather could be shown as an all-reduce, or rows of two GPUs as rows of four GPUs."""
    test = find_tests(Path("log"), text.encode())[-1]
    assert {case.collective for case in test.cases} == {test.collective}
    assert (test.collective, test.world_size, len(test.gpus)) == (collective, world_size, gpus)
    assert (test.status, len(test.cases) > 2) == ("incomplete", True)
