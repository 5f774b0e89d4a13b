"""The gate's summary with many cells and a hostile name."""

import re

import pytest

from reports.verdicts.gate import decide
from reports.verdicts.judge import compare
from reports.verdicts.markdown import as_markdown
from reports.verdicts.sides import read_sides
from tests.reports.synthetic_campaign import write_launch

pytestmark = pytest.mark.unit


def test_markdown_stays_below_githubs_limit_and_escapes_names(tmp_path):
    base, new = write_launch(tmp_path, 1), write_launch(tmp_path, 2)
    (comparison,) = compare(read_sides([str(base.path), str(new.path)]))
    comparison.variant.name = "a|b<script>`*"
    comparison.cells = comparison.cells.iloc[[-1] * 2000].reset_index(drop=True)
    text = as_markdown(decide(comparison))
    assert len(text.encode()) < 60_000
    assert re.search(r"- \d+ more rows do not fit here", text)
    assert "a\\|b&lt;script&gt;\\`\\*" in text
    assert all(
        len(re.findall(r"(?<!\\)\|", row)) == 9
        for row in text.splitlines()
        if row.startswith("| two_shot")
    )
