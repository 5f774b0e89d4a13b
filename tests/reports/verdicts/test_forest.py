"""The forest plot: its text is searchable, nothing is cut off, and the picture grows with the number of cells."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reports.__main__ import main
from reports.store.result import ResultError
from reports.verdicts.compare import plot
from reports.verdicts.comparison import Comparison
from reports.verdicts.sides import Side
from reports.verdicts.verdict import AMBIGUOUS, SAME, SLOWER, VERDICTS
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign

pytestmark = pytest.mark.unit

SIZES = [16384 << step for step in range(12)]
SVG = "{http://www.w3.org/2000/svg}"


def cell(
    algorithm: str,
    size_bytes: int,
    verdict: str = SAME,
    ratio: float = 1.0,
    half_width: float = 0.01,
) -> dict[str, Any]:
    """A cell with the interval from ratio / (1 + half_width) to ratio x (1 + half_width)."""
    return {
        "name": algorithm,
        "size_bytes": size_bytes,
        "verdict": verdict,
        "pairs": 10,
        "ratio": ratio,
        "low": ratio / (1 + half_width),
        "high": ratio * (1 + half_width),
        "baseline_us": np.nan,
        "variant_us": np.nan,
        "detectable": np.nan,
        "needed": np.nan,
        "is_fresh": False,
        "about": "code",
    }


def comparison(cells: list[dict[str, Any]], name: str = "new") -> Comparison:
    made = Comparison(Side("main", []), Side(name, []), 0.01)
    made.cells = pd.DataFrame(cells)
    return made


def drawn(*comparisons: Comparison) -> ElementTree.Element:
    out = io.StringIO()
    plot(comparisons, out)
    return ElementTree.fromstring(out.getvalue())


def words(svg: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()).strip() for text in svg.iter(f"{SVG}text")]


def test_all_verdicts_appear_as_words():
    svg = drawn(
        comparison(
            [
                cell("ring", size, verdict, 1.02)
                for size, verdict in zip(SIZES, VERDICTS, strict=False)
            ]
        )
    )
    lines = [line for line in words(svg) if "1.020" in line]
    words_of = {AMBIGUOUS: "within +-3.0%"}
    for line, verdict in zip(lines, VERDICTS, strict=True):
        assert line.startswith(words_of.get(verdict, verdict))
    assert {"16 KiB", "256 KiB", "ring", "against main"} <= set(words(svg))


def test_each_verdict_has_a_distinct_marker():
    """Colour alone is not enough. The SVG defines each marker once and uses it by name."""
    shapes = set()
    for verdict in VERDICTS:
        svg = drawn(comparison([cell("ring", 16384, verdict, 1.02)]))
        shapes.add(
            tuple(
                re.sub(r"[\d.-]+", lambda number: f"{float(number[0]):.1f}", path.get("d", ""))
                for path in svg.iter(f"{SVG}path")
                if (path.get("id") or "").startswith("m")
            )
        )
    assert len(shapes) == len(VERDICTS)


def test_the_picture_grows_with_its_cells_and_comparisons(tmp_path):
    sizes = {}
    for name, panels, algorithms in (("6", 1, 1), ("84", 1, 7), ("two", 2, 1)):
        cells = [cell(f"a{number}", size) for number in range(algorithms) for size in SIZES]
        plot(
            [comparison(cells, f"new{panel}") for panel in range(panels)], tmp_path / f"{name}.png"
        )
        sizes[name] = Image.open(tmp_path / f"{name}.png").size
    assert sizes["84"][0] == sizes["6"][0]
    assert sizes["84"][1] > 4 * sizes["6"][1]
    assert sizes["84"][1] / (84 + 7) > 20  # pixels per row
    assert sizes["two"][0] > 1.6 * sizes["6"][0]


def test_very_wide_intervals_end_in_arrows_and_the_other_rows_stay_readable():
    cells = [cell("ring", size, ratio=1.005) for size in SIZES]
    narrow = drawn(comparison(cells))
    cells[3] = cell("ring", SIZES[3], AMBIGUOUS, 1.005, half_width=500.0)
    wide = drawn(comparison(cells))

    def ticks(svg):
        return sorted(float(word) for word in words(svg) if re.fullmatch(r"\d(\.\d+)?", word))

    def arrows(
        svg,
    ):  # every marker is a `use` element; the two drawings differ only in their arrows
        return len(list(svg.iter(f"{SVG}use")))

    assert ticks(wide) == ticks(narrow)
    assert max(ticks(wide)) < 1.1
    assert arrows(wide) == arrows(narrow) + 2
    assert sum(bool(re.search("undecided +too noisy", word)) for word in words(wide)) == 1


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.3, 0.9, 1.0, 1.2, 4.0, 60.0, 5000.0])
def test_ticks_are_few_and_round_at_any_ratio(ratio):
    svg = drawn(comparison([cell("ring", size, SLOWER, ratio) for size in SIZES[:3]]))
    ticks = [word for word in words(svg) if re.fullmatch(r"[\d.]+", word)]
    assert 2 <= len(ticks) <= 7
    assert "1" in ticks


def test_cells_without_a_figure_keep_their_rows():
    cells = [cell("ring", size, AMBIGUOUS, np.nan) for size in SIZES[:2]]
    assert sum(word.startswith("undecided") for word in words(drawn(comparison(cells)))) == 2


def test_comparisons_with_different_cells_share_their_rows():
    both = drawn(
        comparison([cell("ring", 16384)]),
        comparison([cell("ring", 32768), cell("two_shot", 16384)], "other"),
    )
    texts = words(both)
    assert (
        texts.count("ring"),
        texts.count("two_shot"),
        texts.count("16 KiB"),
        texts.count("32 KiB"),
    ) == (1, 1, 2, 1)


def test_nothing_is_cut_off_at_the_edges(tmp_path):
    """The outermost pixels stay white with long names and figures."""
    cells = [
        cell("an_algorithm_with_a_long_name in place", size, AMBIGUOUS, 700.0, 5.0)
        for size in SIZES[:3]
    ]
    plot([comparison(cells, "a-variant-with-a-name-of-forty-characters")], tmp_path / "edge.png")
    pixels = np.asarray(Image.open(tmp_path / "edge.png").convert("L"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() == 255


def test_the_command_draws_and_refuses_bad_paths(tmp_path, capsys):
    folder = write_campaign(
        tmp_path / "c", {"main": no_effect, "new": slower(5)}, fresh=6, fresh_sizes=[16384]
    )
    out = tmp_path / "ratios.svg"
    assert main(["compare", str(folder), "--plot", str(out)]) == 0
    assert any(word.startswith("SLOWER*") for word in words(ElementTree.parse(out).getroot()))
    capsys.readouterr()
    for bad in (tmp_path / "ratios.pdf", tmp_path / "none" / "ratios.svg"):
        assert main(["compare", str(folder), "--plot", str(bad)]) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n"), str(bad) in captured.err) == ("", 1, True)


def test_two_drawings_differ_only_in_ids(tmp_path):
    made = comparison([cell("ring", 16384)])
    for name in ("a.svg", "b.svg"):
        plot([made], tmp_path / name)
    first, second = ((tmp_path / name).read_text() for name in ("a.svg", "b.svg"))
    assert len(first) == len(second)
    assert "<dc:date>" not in first


def test_an_unknown_suffix_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(ResultError, match=r"ends in \.svg or \.png"):
        plot([comparison([cell("ring", 16384)])], tmp_path / "x.gif")
