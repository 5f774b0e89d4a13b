"""The forest plot: verdicts as words and markers, readable rows, nothing cut off."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from reports.__main__ import main
from reports.verdicts.compare import plot
from reports.verdicts.comparison import Comparison
from reports.verdicts.sides import Side
from reports.verdicts.verdict import AMBIGUOUS, SAME, VERDICTS
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign

pytestmark = pytest.mark.unit

SIZES = [16384 << step for step in range(12)]
SVG = "{http://www.w3.org/2000/svg}"


def cell(name, size_bytes, **fields):
    """A cell that is the same within 1 %, with other `fields`."""
    unknown = dict.fromkeys(("baseline_us", "variant_us", "detectable", "needed"), np.nan)
    figures = {"verdict": SAME, "pairs": 10, "ratio": 1.0, "low": 0.99, "high": 1.01}
    marks = {"name": name, "size_bytes": size_bytes, "is_fresh": False, "about": "code"}
    return unknown | figures | marks | fields


def comparison(cells, name="new"):
    made = Comparison(Side("main", []), Side(name, []), 0.01)
    made.cells = pd.DataFrame(cells)
    return made


def drawn(*comparisons):
    out = io.StringIO()
    plot(comparisons, out)
    return ElementTree.fromstring(out.getvalue())


def words(svg):
    return ["".join(text.itertext()).strip() for text in svg.iter(f"{SVG}text")]


def test_each_verdict_has_a_word_and_a_marker():
    """Colour alone is not enough. The SVG defines each marker once and uses it by name."""
    shapes = set()
    for verdict in VERDICTS:
        svg = drawn(comparison([cell("ring", 16384, verdict=verdict, ratio=1.02, high=1.03)]))
        (line,) = (line for line in words(svg) if "1.020" in line)
        assert line.startswith("within +-3.0%" if verdict == AMBIGUOUS else verdict)
        shapes.add(
            tuple(
                re.sub(r"[\d.-]+", lambda number: f"{float(number[0]):.1f}", path.get("d", ""))
                for path in svg.iter(f"{SVG}path")
                if (path.get("id") or "").startswith("m")
            )
        )
    assert {"16 KiB", "ring", "against main"} <= set(words(svg))
    assert len(shapes) == len(VERDICTS)


def test_the_command_draws_and_refuses_bad_paths(tmp_path, capsys):
    folder = write_campaign(tmp_path / "c", {"main": no_effect, "new": slower(5)}, fresh=6)
    out = tmp_path / "ratios.svg"
    assert main(["compare", str(folder), "--plot", str(out)]) == 0
    assert any(word.startswith("SLOWER*") for word in words(ElementTree.parse(out).getroot()))
    assert "<dc:date>" not in out.read_text(), "two drawings of the same data must be alike"
    capsys.readouterr()
    for bad in (tmp_path / "ratios.pdf", tmp_path / "none" / "ratios.svg"):
        assert main(["compare", str(folder), "--plot", str(bad)]) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n"), str(bad) in captured.err) == ("", 1, True)
