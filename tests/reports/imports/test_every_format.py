"""Tests what every format of text must withstand: labels before its lines, a log that is cut off,
and a log of another format before or after it. A new format gets a log in LOGS."""

import re
from itertools import permutations
from pathlib import Path

import pytest

from reports.imports.formats import JSON_FORMATS, TEXT_FORMATS, TIMING_LINES
from reports.imports.logged import CUT_OFF
from tests.reports.imports.test_import_formats import (
    EARLY_HEAD,
    EARLY_NAMES,
    EARLY_ROW,
    HEAD,
    IMB_GATHER,
    LABELS,
    WHOLE,
    cases_of,
    only,
    read_tests,
)
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit

MSCCLPP = """\
# Initializing MSCCL++
#
#                                    in-place                       out-of-place
#       size         count     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)     (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     6291456       1572864    76.21   82.55  144.46      0    76.21   82.55  144.46      0

# Out of bounds values : 0 OK
#
"""
OSU = """\
# OSU MPI Allreduce Latency Test v7.1
# Size  Avg Latency(us)  Min Latency(us)  Max Latency(us)  Iterations
4   34.31   33.27   35.07   1000
8   34.40   33.30   35.10   1000
"""
TIMINGS = """\
starting
{"collective": "all_reduce", "size_bytes": 1024, "time_us": 5.0, "ranks": 2}
{"collective": "all_reduce", "size_bytes": 2048, "time_us": 6.0, "ranks": 2}
"""
RCCL = WHOLE.replace("nccl-", "rccl-").replace("version 2.17.8 rccl-headers", "version 2 headers")
LOGS = {
    "nccl-tests": WHOLE,
    "rccl-tests": RCCL,
    "NCCL 1.x": EARLY_HEAD + EARLY_NAMES + EARLY_ROW,
    "mscclpp-test": MSCCLPP,
    "OSU": OSU,
    "IMB": IMB_GATHER,
    TIMING_LINES: TIMINGS,
}


def facts(test):
    """What a reader of the run would see of a test."""
    rows = [(row.case, row.block.time_us, row.block.n, row.block.n_wrong) for row in test.rows]
    known = test.format, test.collective, test.world_size, test.library, test.gpus
    return known, test.status, test.reason, len(test.unread), rows


def test_each_format_has_a_log_and_a_row_in_the_page():
    """The help named formats that the page did not."""
    texts = [format.names for format in TEXT_FORMATS]
    assert [*LOGS] == [name for names in texts for name in names] + [TIMING_LINES]
    for name, log in LOGS.items():
        assert only(log).format.replace("-lines", " lines").startswith(name)

    page = (Path(__file__).parents[3] / "docs/import.md").read_text()
    _, table = page.split("| format | time of a launch |\n")
    rows = re.findall(r"^\| (.*?) \|", table.partition("\n\n")[0], re.MULTILINE)
    named = [re.sub(r"\[(.*?)\]\(.*?\)|`", r"\1", row) for row in rows]
    jsons = [format.names for format in JSON_FORMATS]
    assert named == [", ".join(names) for names in (*texts, (TIMING_LINES,), *jsons)]


@pytest.mark.parametrize("label", [f"{label} " for label in LABELS.splitlines()])
@pytest.mark.parametrize("name", LOGS)
def test_labels_before_lines_change_nothing(name, label):
    text = LOGS[name]
    labelled = "".join(label + line + "\n" for line in text.splitlines())
    assert facts(only(labelled)) == facts(only(text))


@pytest.mark.parametrize(
    "label", ["0: ", " 0: ", "12: ", "node-07: ", "[1,0]<stdout>:", "14:12:36 "]
)
def test_a_label_before_a_heading_that_begins_with_a_letter_is_none_of_its_words(label):
    """`srun -l` and pdsh put one before every line, of a spreadsheet too."""
    lines = [line.lstrip("# ") for line in WHOLE.splitlines() if line.strip("# ")]
    assert facts(only("".join(f"{label}{line}\n" for line in lines))) == facts(only(WHOLE))


@pytest.mark.parametrize("name", LOGS)
def test_a_log_that_is_cut_off_has_the_rows_up_to_there(name):
    """Cut after any of its lines, it must not read one row otherwise."""
    lines, whole = LOGS[name].splitlines(keepends=True), only(LOGS[name])
    for n in range(len(lines)):
        try:
            tests = read_tests("".join(lines[:n]))
        except ResultError:  # nothing of a test is there yet
            continue
        (test,) = tests
        kept = [row for row in whole.rows if row.line <= n]
        assert (test.rows, test.unread) == (kept, [])
        if not kept:
            assert test.status == "incomplete"
        elif test.has_footer and not test.has_ended:
            assert (test.status, test.reason) == ("incomplete", CUT_OFF)


@pytest.mark.parametrize(("first", "second"), [*permutations(LOGS, 2)])
def test_a_log_of_two_formats_is_read_as_two_logs(first, second):
    """An OSU table has no end: it took the rows of nccl-tests after it for its own damaged ones."""
    texts = LOGS[first], LOGS[second]
    assert [*map(facts, read_tests("".join(texts)))] == [facts(only(text)) for text in texts]


def test_a_title_is_one_however_its_words_are_spaced():
    """Its rows would belong to the program before it, and get lost."""
    osu = OSU.replace("Latency Test", "Latency   Test")
    nccl = WHOLE[len(HEAD) :].replace("size         count", "size(B) count(elements)")
    for texts in (WHOLE, osu), (OSU, nccl):
        assert [*map(facts, read_tests("".join(texts)))] == [facts(only(text)) for text in texts]


def test_a_crashed_osu_test_stays_incomplete_if_tests_of_imb_follow():
    """The next title of IMB says that the test of IMB before it has ended, and nothing of OSU."""
    crashed, gather = read_tests(OSU + "srun: error: n1: tasks 0-3: Killed\n" + IMB_GATHER)
    assert (crashed.status, gather.status) == ("incomplete", "complete")


def test_wrong_results_outweigh_what_is_lacking():
    """A run that is cut off is run again, and its wrong result would be forgotten."""
    cut = HEAD + WHOLE[len(HEAD) :].partition("# Out of")[0].replace("  0\n", "  3\n", 1)
    test = only(cut)
    told = f"the run found wrong results, and is incomplete: {CUT_OFF}"
    assert (test.status, test.reason) == ("failed", told)
    assert [case.status for case in cases_of([test])].count("wrong") == 1
    twice = "".join(2 * line for line in cut.splitlines(keepends=True))
    assert len(cases_of(read_tests(twice))) == 8  # rows of two runs are no blocks of one case
    right = only(cut.replace("  3\n", "  0\n"))
    assert (right.status, right.reason) == ("incomplete", CUT_OFF)


def test_a_count_is_of_elements_of_the_type_that_a_log_names():
    """A line of 1 KiB float32 without a count had 1,024 elements."""
    typed = TIMINGS.replace('"ranks"', '"datatype": "float32", "ranks"')
    assert [case.count for case in cases_of([only(typed)])] == [256, 512]
    assert [case.count for case in cases_of([only(TIMINGS)])] == [1024, 2048]
