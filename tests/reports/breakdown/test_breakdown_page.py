"""The page and the picture of a bill."""

import re
from argparse import Namespace

import numpy as np
import pytest
from matplotlib.figure import Figure

from reports.breakdown.bars import ROLES, Bar, bars_html, draw_bars
from reports.breakdown.bill import Alone
from reports.breakdown.breakdown_page import bars_of, lines_of, page_of, show
from reports.breakdown.served import Served
from reports.breakdown.served_page import UNDIVIDED, served_bars, served_page
from reports.breakdown.text import bill_fields
from reports.kit.page import to_html
from reports.tables.figure import use_colours
from reports.tables.sentences import number
from tests.reports.breakdown.bills import (
    STEP_MS,
    call_bill,
    many_kinds,
    step_parts,
    two_cards,
    without_calls,
)
from tests.reports.breakdown.small_trace import write_trace
from wiretax.record.stats import Interval

pytestmark = pytest.mark.unit
HOSTILE = "</script><b>$x^2$\x1b[31m\u202e&"


def html_of(bill):
    return to_html(page_of(bill, bars_of(bill)))


def figures_in(value):
    """All numbers in fields of JSON."""
    if isinstance(value, dict):
        value = value.values()
    elif isinstance(value, (int, float)):
        return [float(value)]
    elif isinstance(value, str) or value is None:
        return []
    return [figure for each in value for figure in figures_in(each)]


def test_every_figure_of_the_page_stands_in_the_json():
    """A program must be able to find what a reader sees; ms, shares and calls a step follow."""
    bill = two_cards()
    fields = bill_fields(bill)
    known = figures_in(fields)
    derived = [us / 1e3 for us in known] + [100 * us / fields["step_us"] for us in known]
    derived += [100.0 * share for share in fields["calls"][0]["last_share"]]
    derived += [call["n_calls"] / fields["steps"] for call in fields["calls"]]
    allowed = {
        text
        for value in known + derived
        for text in (number(value), f"{value:.0f}", f"{value:.1f}")
    }
    allowed |= {*re.findall(r"[\d.]+", f"{bill.title} {fields['finding']} 16 KiB 95 %")}
    page = page_of(bill, bars_of(bill))
    shown = [text for section in page.sections for row in section.rows for text in row.values()]
    shown += [text for bar in bars_of(bill) for text in bar.texts.values()]
    shown += [page.banner.sentence, *page.banner.facts]
    figures = {
        figure
        for text in map(str, shown)
        for figure in re.findall(r"(?<![A-Za-z\d])\d+(?:\.\d+)?", text)
    }
    assert figures
    assert figures <= allowed


def test_the_banner_has_the_verdict_of_the_costliest_calls_and_the_finding():
    rare = call_bill(1024, n_calls=12, verdict="transfer")
    banner = page_of(two_cards(calls=[rare, call_bill()]), bars_of(two_cards())).banner
    assert (banner.word, banner.role) == ("Waiting", "worse")
    assert banner.sentence.startswith("24 % of a step of 15.0 ms is waiting")


def test_three_bars_are_on_one_scale_with_the_ideal_between():
    one, ideal, two = bars_of(two_cards(one=without_calls().parts))
    assert (one.whole_ms, ideal.whole_ms, two.whole_ms) == pytest.approx((15.0, 7.5, 15.0))
    assert [*two.parts_ms] == ["compute", "overlap", "transport", "waiting", "idle"]
    html = bars_html([one, ideal, two])
    shares = [float(share) for share in re.findall(r"--share:([\d.]+)%", html)]
    assert sum(shares) == pytest.approx(100 + 50 + 100, abs=0.1)


def test_a_part_has_one_colour_in_pages_and_pictures():
    bars = bars_of(two_cards())
    html = bars_html(bars)
    pieces = re.findall(r'<i class="([\w-]+)" style', html)
    assert pieces == [ROLES[part] for part in STEP_MS]
    assert len(set(pieces)) == len(pieces)
    use_colours()
    axes = Figure().add_subplot()
    draw_bars(axes, bars)
    legend = axes.get_legend()
    assert legend
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*STEP_MS]
    widths = [
        patch.get_extents().transformed(axes.transData.inverted()).width for patch in axes.patches
    ]
    assert widths == pytest.approx([*STEP_MS.values()])


def test_served_figures_have_the_same_page_with_what_calls_cost():
    served = Served(
        "qwen",
        "vLLM",
        2,
        by_layer=False,
        ones_us=[20e3],
        twos_us=[16e3],
        n_calls=100,
        size_bytes=16384,
        gather_bytes=0,
        streams=1.0,
        tokens_a_step=1.0,
        tokens_of_one=1.0,
        asked=["eager or from a graph"],
        notes=[],
    )
    assert served_bars(served)[2].parts_ms == {UNDIVIDED: 10.0, "calls, implied": 6.0}
    served.alone = Alone((25.0, 20.0, 30.0), "this run")
    one, ideal, two = bars = served_bars(served)
    assert (one.whole_ms, ideal.whole_ms) == (20.0, 10.0)
    assert two.parts_ms == {
        UNDIVIDED: 10.0,
        "calls alone": 2.5,
        "the rest": 3.5,
    }
    html = to_html(served_page(served, bars))
    assert "1.25×" in html
    assert "Unknown: eager or from a graph." in html
    served.twos_us = [8e3]  # shorter than the ideal
    assert served_bars(served)[2].texts == {UNDIVIDED: f"{UNDIVIDED} 8.00 ms (100 %)"}


def test_a_part_that_takes_no_time_is_not_drawn():
    (bar,) = bars_of(without_calls())
    assert [*bar.texts] == ["compute", "idle"]


def test_a_page_without_calls_says_so_and_has_no_chart():
    html = html_of(without_calls())
    assert "no collective in 3 steps" in html
    assert "<figure" not in html
    assert "the call alone" not in html


def test_names_from_traces_cannot_break_the_page_or_the_picture(tmp_path):
    calls = [call_bill(collective=HOSTILE, group=HOSTILE), call_bill(collective=HOSTILE)]
    bill = two_cards(
        title=HOSTILE,
        calls=calls,
        notes=[HOSTILE],
    )
    html = html_of(bill)
    assert not {"\x1b", "\u202e"} & set(html)
    assert "<b>$" not in html
    out = Namespace(html=tmp_path / "a.html", plot=tmp_path / "a.svg")
    bars = bars_of(bill)
    show(page_of(bill, bars), bars, lines_of(bill)[0], out)
    assert "$x^2$" in (tmp_path / "a.svg").read_text()


def test_all_kinds_stand_in_the_table_of_the_page():
    page = page_of(many_kinds(), bars_of(many_kinds()))
    (calls,) = (section for section in page.sections if section.heading == "The calls")
    assert len(calls.rows) == 40
    (chart,) = calls.charts
    assert [line.name for line in chart.lines] == ["all_reduce", "alone"]
    assert np.isfinite(chart.lines[0].points[0]).sum() == 40


def test_what_the_chart_leaves_out_is_said():
    calls = [call_bill(collective=f"collective_{n}", n_calls=1000 - n) for n in range(7)]
    lines, notes = lines_of(two_cards(calls=[*calls, call_bill(0)]))
    drawn = [line.name for line in lines if "alone" not in line.name]
    assert drawn == ["collective_0", "collective_1", "collective_2", "collective_3"]
    assert notes == [
        "In the table alone: 3 kinds of calls of less cost.",
        "In the table alone: 1 kind of calls of unknown size.",
    ]


def test_the_run_s_curve_stands_beside_the_calls_in_the_engine():
    sizes = [1 << 10, 8 << 10, 16 << 10, 64 << 10, 32 << 20]
    curve: list[tuple[int, Interval]] = [(size, (size / 1e3, None, None)) for size in sizes]
    call = call_bill(alone=Alone((31.2, 30.0, 32.0), "this run", curve))
    inside, alone = lines_of(two_cards(calls=[call]))[0]
    assert [case.size_bytes for case in inside.cases] == [16 << 10]
    assert [case.size_bytes for case in alone.cases] == [8 << 10, 16 << 10, 64 << 10]
    assert alone.cases[1].figures[0] == 31.2


def test_eight_ranks_have_one_bar_of_their_mean():
    parts = step_parts(8, **STEP_MS)
    parts.us["waiting"][0] += 800.0
    (bar,) = bars_of(two_cards(parts=parts, ranks=[*range(8)]))
    assert bar.parts_ms["waiting"] == pytest.approx(3.7)


def test_the_command_writes_the_page_its_picture_for_chats_and_the_plot(reports, tmp_path):
    traces = [
        write_trace(tmp_path / f"rank{rank}.json", rank, late_us=45 * rank) for rank in (0, 1)
    ]
    page, plot = tmp_path / "page.html", tmp_path / "plot.png"
    assert reports("breakdown", *traces, "--html", page, "--plot", plot)[0] == 0
    assert 'content="page.html.png"' in page.read_text()
    for picture in (plot, tmp_path / "page.html.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_another_kind_is_refused_before_anything_is_written(reports, tmp_path):
    trace, page = write_trace(tmp_path / "rank0.json"), tmp_path / "page.html"
    status, _, error = reports("breakdown", trace, "--plot", tmp_path / "a.gif", "--html", page)
    assert status == 2
    assert ".svg or .png" in error
    assert not page.exists()


def test_a_single_point_is_no_chart_and_a_bound_is_called_one():
    alone = call_bill(alone=None)
    assert lines_of(two_cards(calls=[alone])) == ([], [])
    larger = call_bill(32768, alone=None, is_bound=True)
    (line,) = lines_of(two_cards(calls=[alone, larger]))[0]
    assert line.name == "<= all_reduce"


def test_words_in_a_bar_stay_within_their_part():
    """At 12 % of a step the nine letters of transport do not fit, at 8 % the four of idle do."""
    use_colours()
    figure = Figure()
    axes = figure.add_subplot()
    draw_bars(
        axes,
        [
            Bar(
                "a step",
                {
                    "compute": 80,
                    "transport": 12,
                    "idle": 8,
                },
            )
        ],
    )
    assert [each.get_text() for each in axes.texts] == [
        "a step: 100 ms",
        "compute\n80 %",
        "idle\n8 %",
    ]
