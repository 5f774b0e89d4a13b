"""Charts in a real browser: the crosshair while the keyboard zooms, the labels of changes, units;
and matrices, which scroll within themselves."""

from itertools import pairwise

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from reports.kit.chart import Chart, Curve
from reports.kit.page import Banner, Page, Section, to_html
from reports.site.run_page import run_page
from tests.bench.synthetic_link import made_up
from tests.reports.site.test_dashboard_browser import all_of, show, wait_for_chart

SIZES = [1 << power for power in range(10, 24)]
DAY_S = 86400


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Times of 2 us to 20 ms over sizes, and five changes within six days."""
    times = Chart("times", SIZES, [Curve("auto", "ours", np.geomspace(2, 2e4, len(SIZES)))], "us")
    days = [DAY_S * (20_000 + day) for day in range(40)]
    steps = [
        {"at": [days[day], days[day - 1], days[day]], "role": "worse", "text": f"ring +{day} %"}
        for day in (20, 21, 22, 23, 24)
    ]
    changes = Chart(
        "changes", days, [Curve("ring", "line-1", np.full(40, 5.0))], "us", "time", steps
    )
    page = tmp_path_factory.mktemp("charts") / "page.html"
    section = Section("Charts", charts=[times, changes])
    page.write_text(to_html(Page("charts", Banner("=", "charts"), [section])))
    return page


@pytest.fixture
def chart(browser, page):
    show(browser, page)
    wait_for_chart(browser, ".chart:nth-of-type(2)")
    return all_of(browser, ".chart")[0]


def test_the_crosshair_stays_at_its_point_and_in_view_while_the_keyboard_zooms(browser, chart):
    plot, place = (chart.find_element(By.CSS_SELECTOR, each) for each in (".plot", "thead th"))
    crosshair = """
    const { plot, data } = charts[0];
    return [data.x[plot.cursor.idx], plot.cursor.left, plot.over.clientWidth,
            Math.abs(plot.cursor.left - plot.valToPos(data.x[plot.cursor.idx], "x"))];
    """
    for keys, size in ((Keys.ARROW_LEFT * 3, "1M"), (Keys.ARROW_LEFT * 7, "8K"), ("", "8K")):
        plot.send_keys(keys)
        assert place.text == size
        for key in "++-+--":
            plot.send_keys(key)
            value, left, width, off = browser.execute_script(crosshair)
            assert place.text == size, key
            assert 0 <= left <= width
            assert off < 1
            assert value in SIZES
    assert not chart.find_elements(By.XPATH, "button[.='Show all' and not(@hidden)]")


def test_zooming_at_the_last_point_keeps_it_in_view(browser, chart):
    plot, place = (chart.find_element(By.CSS_SELECTOR, each) for each in (".plot", "thead th"))
    plot.send_keys("+")
    plot.send_keys("+")
    assert place.text == "8M"
    ends = browser.execute_script("const { min, max } = charts[0].plot.scales.x; return [min, max]")
    assert ends[1] == pytest.approx(SIZES[-1])
    assert ends[0] > SIZES[0]


def test_a_chart_has_one_unit_of_time(browser, chart):
    """It had 900 µs below 1.2 ms, and the tables beside it microseconds alone."""
    place = chart.find_element(By.CSS_SELECTOR, ".readout td")
    assert place.text == "20000 µs"
    texts = browser.execute_script("return charts[0].plot.axes[1]._values")
    assert all(text.endswith(" µs") for text in texts if text)


def test_labels_of_changes_do_not_lie_on_each_other(browser, chart):
    """Changes a day apart had labels in two rows, the third on the first."""
    spans = [[0, 50], [10, 60], [20, 70], [30, 80], [100, 150], [60, 110]]
    rows = browser.execute_script("return rowsOf(arguments[0])", spans)
    for row in {*rows} - {-1}:
        own = sorted(span for span, place in zip(spans, rows, strict=True) if place == row)
        assert all(first[1] <= second[0] for first, second in pairwise(own))
    assert rows.count(-1) == 1
    assert rows[0] == -1, "the largest change, which is the last, has room first"
    drawn = browser.execute_script("""
    const { plot, data } = charts[1], texts = [];
    const keep = plot.ctx.fillText;
    plot.ctx.fillText = (text, x, y) => {
      texts.push([text, x, x + plot.ctx.measureText(text).width, y]);
    };
    drawMarks(plot, data.steps, () => "black");
    plot.ctx.fillText = keep;
    return texts.filter(([text]) => text.includes("%"));
    """)
    assert 2 <= len(drawn) <= 3
    assert drawn[-1][0] == " ring +24 % "
    assert len({y for *_, y in drawn}) == len(drawn)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_matrix_keeps_its_columns_on_a_phone_and_scrolls_within_itself(browser, tmp_path, scheme):
    page = tmp_path / "link.html"
    page.write_text(to_html(run_page(made_up(tmp_path, 8, lambda src, dst: 300.0).path)))
    show(browser, page, 360)
    box = all_of(browser, ".matrix")[0]
    wide = browser.execute_script(
        "return [arguments[0].scrollWidth, arguments[0].clientWidth,"
        " document.documentElement.scrollWidth]",
        box,
    )
    assert wide[0] > wide[1]
    assert wide[2] == 360
    cells = box.find_elements(By.CSS_SELECTOR, "tbody tr:first-child :is(th, td)")
    assert len({cell.location["y"] for cell in cells}) == 1
    assert len(cells) == 9
    browser.execute_script("arguments[0].scrollLeft = 200", box)
    assert cells[0].location["x"] == box.location["x"], "the names of rows stay"
    assert not box.find_elements(By.CSS_SELECTOR, "thead button"), "sorted, it would be no matrix"
