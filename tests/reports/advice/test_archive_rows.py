"""Rows of the tables of published figures from the archive of a survey."""

import pytest

from reports.advice.nearest import question_of_run
from tests.reports.synthetic_archive import SIZES, write_archive
from wiretax.record.archive import read_contents, unpacked
from wiretax.record.result import read

pytestmark = pytest.mark.unit


def test_the_synthetic_archive_is_of_two_cards_that_reach_each_other(tmp_path):
    """Tests of all that reads archives believe this of it."""
    with unpacked(write_archive(tmp_path / "survey.tar.gz")) as folder:
        runs = [step.run or "" for step in read_contents(folder).steps]
        question = question_of_run(read(folder / runs[-1]))
    assert len(runs) == 6
    assert (str(question), question.fabric, question.sockets) == ("2x R9700", "PCIe 5 x16", 1)
    assert {call.transport for call in question.own} == {"p2p"}
    found = {(call.kind, call.mode, call.size_bytes) for call in question.own}
    small = {(kind, mode, SIZES[0]) for kind in ("library", "tuned") for mode in ("eager", "graph")}
    assert found == small | {(kind, "eager", SIZES[1]) for kind in ("library", "tuned")}
