"""Tests that `import` says what of a log it does not read, and why."""

import json
import re
from datetime import datetime

import pytest

from reports.__main__ import main
from reports.imports.logged import clean_line
from reports.imports.nccl_tests import CPU_TIME
from tests.reports.imports.test_import import imported, put
from tests.reports.imports.test_import_formats import (
    CASE,
    FOOTER,
    HEAD,
    IMB_GATHER,
    REPORT,
    WHOLE,
    only,
    read_tests,
)
from tests.reports.synthetic_candidates import BOX, MODELS, spec
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit


def test_a_colon_before_text_is_no_label_of_srun():
    assert clean_line("Algorithm:   x") == "Algorithm:   x"
    assert clean_line("Algorithm:   3") == "Algorithm:   3"
    assert clean_line("node-07:      8     2") == "     8     2"
    assert clean_line("12: 8") == "8"
    logged = only(WHOLE + "Algorithm:   3\nAlgorithm:   ring\n")
    assert (len(logged.rows), logged.status, logged.unread) == (4, "complete", [])


def test_tables_that_are_skipped_are_named():
    """The rows of IMB's -multi, which begin with a group, became rows of the test before."""
    multi = IMB_GATHER.replace("Allgather", "Multi-Allgather").replace("\n1024", "\n0 1024")
    hello = "# OSU MPI Hello World Test v7.1\n"
    test = only(IMB_GATHER + multi + hello)
    assert (test.status, test.unread, len(test.rows)) == ("complete", [], 1)
    assert test.notes == [
        "skipped, as no table of one group: IMB Multi-Allgather in line 12, "
        "OSU 7.1 osu_hello_world in line 17"
    ]
    with pytest.raises(ResultError, match="several groups of ranks: IMB Multi-Allgather"):
        read_tests(multi)


def test_the_reason_of_a_refused_row_is_told():
    test = only(WHOLE.replace("17.93", "many", 1))
    assert test.refusal == "'many' is no time"


def test_what_has_no_timings_is_named_and_hides_no_other_test():
    """A log with IMB's -multi and nccl-tests was refused whole."""
    multi = IMB_GATHER.replace("Allgather", "Multi-Allgather").replace("\n1024", "\n0 1024")
    test = only(multi + WHOLE)
    assert (test.status, len(test.rows)) == ("complete", 4)
    (note,) = test.notes
    assert re.match(r"skipped: its tables are of several groups .*: IMB Multi-Allgather in", note)
    with pytest.raises(ResultError, match=r"has no timings .* OSU 7.1 osu_hello_world in line 1"):
        read_tests("# OSU MPI Hello World Test v7.1\nThis is a test with 2 processes\n")


@pytest.mark.parametrize("title", ["# OSU MPI Hello World Test v7.1\n", HEAD])
def test_titles_alone_do_not_fill_the_memory(title):
    """20 MB of them took 750 MB, and over a minute."""
    with pytest.raises(ResultError, match="more than 500 tests"):
        read_tests(501 * title)


# As src/util.cu of NVIDIA/nccl-tests prints it with -S, at a0b82b2.
STAMPED = (
    "#       size         count      type   redop    root     time   algbw   busbw  #wrong"
    "     time   algbw   busbw  #wrong           timestamp\n"
    "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)        "
    "     (us)  (GB/s)  (GB/s)           %Y-%m-%d %H:%M:%S\n"
    "     1048576        262144     float     sum      -1    20.00   52.43   52.43       0"
    "    21.00   49.93   49.93       0  2026-11-01 12:00:00\n"
)


@pytest.mark.parametrize("is_per_iteration", [False, True])
def test_rows_with_timestamps_are_read(is_per_iteration):
    """`2026-11-01` was "no timestamp", and the whole log was refused."""
    text = STAMPED
    if is_per_iteration:  # -I
        names, _, row = (line.replace("# ", " ") for line in STAMPED.splitlines())
        names = names.replace("#wrong", "#wrong    i_min    i_max    i_p99    i_cv%")
        row = re.sub("(  0)(?= )", "\\1     9.00    12.00    11.50     3.00", row)
        text = f"#{names}\n{row}\n"
    test = only(HEAD + text + FOOTER)
    assert (test.status, test.unread) == ("complete", [])
    assert [row.block.time_us for row in test.rows] == [20.0, 21.0]
    assert test.date == datetime(2026, 11, 1, 12)


def test_times_of_the_cpu_are_none_of_the_collective():
    """The option -C prints how long the CPU took; the bandwidth beside it is of the collective."""
    test = only(WHOLE.replace("    time", " cputime"))
    assert (test.rows, test.reason) == ([], CPU_TIME)
    half = {"cpu_time": 1.2, "alg_bw": 52.43, "bus_bw": 52.43, "nwrong": 0}
    report = REPORT | {"results": [CASE | {"out_of_place": half, "in_place": half}]}
    test = only(json.dumps(report))
    assert (test.rows, test.reason) == ([], CPU_TIME)


def test_advice_tells_that_a_log_does_not_name_its_collective(tmp_path, capsys):
    """rccl-tests and old nccl-tests print none: "too few blocks" sent a reader to measure again."""
    log = put(tmp_path / "a.log", WHOLE[len(HEAD) :])
    (path,) = imported(tmp_path / "out", log, "--ranks", "2")
    wanted = "does not say which collective it measured: import its log again with --collective"
    model = ["--model", "llama-3.1-8b", "--gpu", "h100-nvl"]
    assert main(["advise", *model, "--gpus", "2", "--run", str(path)]) == 2
    assert wanted in capsys.readouterr().err
    text = MODELS + BOX.format(name="out").replace("r9700", "h100-nvl")
    assert main(["procure", str(spec(tmp_path, ["16K <= 8 us"], text))]) == 2
    assert wanted in capsys.readouterr().err
