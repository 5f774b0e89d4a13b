"""Tests that `import` says what of a log it does not read, and why."""

import pytest

from reports.imports.logged import clean_line
from tests.reports.imports.test_import_formats import IMB_GATHER, WHOLE, only, read_tests
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit


def test_a_colon_before_text_is_no_label_of_srun():
    assert clean_line("Algorithm:   x") == "Algorithm:   x"
    assert clean_line("node-07:      8     2") == "     8     2"


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
