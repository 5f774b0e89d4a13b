"""The gate's page, summary and JUnit file, with many cells and with hostile names."""

import re
from xml.etree import ElementTree

import pytest

from reports.verdicts.comparison import compare
from reports.verdicts.regress import html, judge, junit, markdown
from reports.verdicts.sides import read_sides
from tests.reports.synthetic_campaign import write_launch
from tests.reports.verdicts.test_regress import Tags

pytestmark = pytest.mark.unit


def test_markdown_stays_below_githubs_limit_and_escapes_names(tmp_path):
    base, new = write_launch(tmp_path, 1), write_launch(tmp_path, 2)
    (comparison,) = compare(read_sides([str(base.path), str(new.path)]))
    comparison.variant.name = "a|b<script>`*"
    comparison.cells = comparison.cells.iloc[[0] * 2000].reset_index(drop=True)
    text = markdown(judge(comparison))
    assert len(text.encode()) < 60_000
    assert re.search(r"- \d+ more rows do not fit here", text)
    assert "a\\|b&lt;script&gt;\\`\\*" in text
    assert all(
        len(re.findall(r"(?<!\\)\|", row)) == 9
        for row in text.splitlines()
        if row.startswith("| library")
    )


def test_a_name_cannot_break_the_page_or_the_xml(tmp_path):
    (comparison,) = compare(
        read_sides([str(write_launch(tmp_path, number).path) for number in (1, 2)])
    )
    comparison.cells["name"] = comparison.cells["title"] = '<script src="//x">&'
    comparison.variant.name = "<b>"
    page = html(judge(comparison))
    tags = Tags()
    tags.feed(page)
    assert "b" not in tags.counts
    suite = ElementTree.fromstring(junit(judge(comparison)))
    assert any("<script" in case.get("name", "") for case in suite.iter("testcase"))
