"""The gate's page, summary and JUnit file, with many cells and with hostile names."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from reports.verdicts.comparison import compare
from reports.verdicts.regress import html, judge, junit, markdown
from reports.verdicts.sides import read_sides
from tests.reports.synthetic_campaign import no_effect, rewrite_head, write_campaign, write_launch
from tests.reports.verdicts.test_regress import Tags, forms, gate

pytestmark = pytest.mark.unit


def test_a_screen_shows_the_worst_cells(tmp_path, capsys):
    """All cells are slower and the threats have 400 characters: `gate` asserts that the text fits a screen, this test
    the order."""
    sizes, algorithms = (
        [16384 << step for step in range(6)],
        ["library", "one_shot_push", "two_shot", "ring"],
    )
    variants = {"main": no_effect, "new": lambda case: 1.05 + case.size_bytes / 2**22}
    everything = write_campaign(
        tmp_path / "all",
        variants,
        pairs=6,
        fresh=12,
        fresh_sizes=sizes,
        sizes=sizes,
        algorithms=algorithms,
    )
    for run in (everything / "new").glob("*.jsonl"):
        rewrite_head(run, notes=[f"{letter} " * 200 for letter in "abcde"])
    files = [tmp_path / name for name in ("junit.xml", "summary.md", "page.html")]
    status, printed = gate(capsys, everything / "main", everything / "new", *forms(files))
    assert status == 1
    assert printed.startswith("REGRESSION: 24 of 24 cells")
    ratios = [float(ratio) for ratio in re.findall(r"512 KiB [\w -]+: (1\.\d+)", printed)]
    assert len(ratios) == 4
    assert ratios == sorted(ratios, reverse=True)
    assert "and 19 more slower" in printed
    assert f"python -m reports compare {everything / 'main'}" in printed


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


def test_control_characters_leave_the_xml_well_formed(tmp_path, capsys):
    folder = write_campaign(tmp_path / "odd", {"main": no_effect, "new": no_effect})
    for run in (folder / "new").glob("*.jsonl"):
        rewrite_head(run, version="0.1\x00\x1b")
    gate(
        capsys, folder / "main", folder / "new", "--allow", "version", "--junit", tmp_path / "j.xml"
    )
    assert ElementTree.parse(tmp_path / "j.xml").getroot().tag == "testsuites"
