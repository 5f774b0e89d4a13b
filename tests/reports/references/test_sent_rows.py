"""Rows of owners' archives in docs/references.md, `expect` and `advise`: what was sent, by whom,
and what was withdrawn. All rows here are made up, and none is stored."""

import re

import pytest

from reports.__main__ import main
from tests import references_page
from tests.reports.contributed_rows import contributed, sent

pytestmark = pytest.mark.unit


def test_the_page_of_references_says_what_was_sent_and_by_whom(tmp_path):
    rows = [*sent(25.0, contributor="<b>J|ane</b>"), *sent(26.0, archive="99", contributor="")]
    with contributed(tmp_path):
        before = references_page.page()
    with contributed(tmp_path, rows):
        page = references_page.page()
    assert "gave 10 figures" in page
    assert "10 figures on 2 machines count" in page
    assert r"| 1a2b3c4d5e6f | &lt;b&gt;J\|ane&lt;/b&gt; | 2x R9700, PCIe 5 x16, peers" in page
    assert "| 990000000000 | an owner |" in page
    (row, _) = re.findall(r"^\| 2x R9700, PCIe 5 x16.*rccl \|.*$", page, re.MULTILINE)
    assert row.endswith("| [archive 1a2b3c4d5e6f](#from-owners-archives) |")
    found = re.compile(r"`reports/references/calls.csv` has .* sources\.", re.DOTALL)
    assert found.findall(page) == found.findall(before), "what was found is counted apart"
    assert page.partition("## Sources")[2] == before.partition("## Sources")[2]


def test_withdrawn_rows_stand_apart_with_their_reason(tmp_path):
    with contributed(tmp_path, sent(25.0, withdrawn="the fans | were off")):
        page = references_page.page()
    (line,) = re.findall(r"^\| 1a2b3c4d5e6f .*$", page, re.MULTILINE)
    assert line.endswith(r"| the fans \| were off |")
    assert "gave 0 figures" in page
    assert "These were withdrawn, and are used nowhere:" in page
    assert "(EPYC 9354)" not in page.partition("## From owners")[0]


def test_the_commands_answer_from_the_rows_and_say_whose_they_are(tmp_path, capsys):
    def told(line):
        assert main(line.split()) == 0
        return " ".join(capsys.readouterr().out.split())

    advise = "advise --model llama-3.1-70b --weights 40GB --gpu r9700 --gpus 2"
    with contributed(tmp_path):
        assert "sent by" not in told(advise)
    with contributed(tmp_path, [*sent(25.0), *sent(26.0, archive="99", contributor="")]):
        text = told("expect --gpu r9700 --gpus 2 --size 16K")
        assert (
            "graph, through peer access over PCIe 5: 25.0 to 26.0 us, median 25.5 (2 machines"
            in text
        )
        assert "[1] archive 1a2b3c4d5e6f: sent by Jane; machine 2x R9700" in text
        assert "archive 990000000000: sent by an owner; machine" in text
        assert re.search(r"by \d+ figures over PCIe \(4 sent by Jane, an owner\)", told(advise))
