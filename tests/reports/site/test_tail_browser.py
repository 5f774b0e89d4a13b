"""The percentiles on a run's page in a real browser: the choice of a size, zoom, widths, and what a
page without scripts has."""

import re

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from reports.kit.chart import Chart, Curve
from reports.kit.page import Banner, Page, Section, to_html
from reports.site.run_page import sweep_sections
from tests.reports.site.test_dashboard_browser import all_of, seen, show, wait_for_chart
from tests.reports.site.test_tail_charts import alike, run_with_steps


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The sections of a run with steps as a page: P50 and P99 over sizes, and percentiles of two
    sizes."""
    folder = tmp_path_factory.mktemp("percentiles")
    result = run_with_steps(folder, lambda block: alike(100 + 20 * block.case)(block))
    page = folder / "run.html"
    page.write_text(to_html(Page("run", Banner("=", "run"), sweep_sections(result))))
    return page


@pytest.fixture
def percentiles(browser, page):
    """The page, opened."""
    show(browser, page)
    wait_for_chart(browser, "[data-choice]:not([hidden])")
    return page


def test_the_size_of_the_percentiles_is_chosen_with_the_keyboard(browser, percentiles):
    """One chart of many sizes is shown, and a link to the page keeps the choice."""
    charts = "#percentiles-of-a-call .chart"
    (first, over_sizes) = (chart.text for chart in seen(browser, charts))
    assert first.startswith("16 KiB: time of a call by percentile")
    assert re.search(r"P99 \[95 %\]\nauto (49\.9|50\.\d) µs", first), "the table begins with P99"
    assert "P50 and P99 of a call" in over_sizes
    (choice,) = all_of(browser, "select")
    choice.send_keys(Keys.ARROW_DOWN)
    assert [chart.text[:5] for chart in seen(browser, charts)] == ["1 MiB", over_sizes[:5]]
    plot = seen(browser, f"{charts} canvas")[0]
    assert plot.size["width"] > 300
    kept = browser.current_url
    assert kept.endswith("#percentiles-of-a-call=1+MiB")
    browser.get("about:blank")
    browser.get(kept)
    assert [chart.text[:5] for chart in seen(browser, charts)] == ["1 MiB", over_sizes[:5]]
    assert browser.get_log("browser") == []


def test_percentiles_and_sizes_zoom_apart(browser, percentiles):
    """Their axes have nothing in common: a zoom to 16 KiB would leave no percentile."""
    ranges = "return charts.map(({ plot, data }) => [data.kind, plot.scales.x.min])"
    wait_for_chart(browser, "#percentiles-of-a-call .chart:last-child")
    whole = browser.execute_script(ranges)
    chart = all_of(browser, "[data-choice]")[0].find_element(By.CSS_SELECTOR, ".plot")
    chart.send_keys("+")
    moved = {
        kind
        for (kind, least), (_, now) in zip(whole, browser.execute_script(ranges), strict=True)
        if least != now
    }
    assert moved == {"one_in"}
    assert "zoom-percentiles=" in browser.current_url
    place = all_of(browser, "[data-choice] .readout thead th")[0]
    chart.send_keys(Keys.ARROW_LEFT)
    assert re.fullmatch(r"P\d+(\.\d+)?", place.text)


def test_without_scripts_one_size_of_the_percentiles_is_named(browser, percentiles):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, percentiles)
        assert len(seen(browser, "[data-choice]")) == 1
        assert all_of(browser, "select") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("width", [360, 1280])
def test_percentiles_fit_any_width(browser, percentiles, width):
    show(browser, percentiles, width)
    wait_for_chart(browser, "[data-choice]:not([hidden])")
    wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1] == width
    assert browser.get_log("browser") == []


def test_an_interval_without_an_upper_end_says_so(browser, tmp_path):
    """A P99 has a lower end long before an upper one; `[5.00 µs]` alone could be either."""
    points = np.array(
        [
            [5.0, 6.0],
            [4.0, 5.0],
            [5.5, np.nan],
        ]
    )
    chart = Chart("P99", [1024, 2048], [Curve("auto", "ours", points)], "us")
    page = tmp_path / "run.html"
    page.write_text(to_html(Page("run", Banner("=", "run"), [Section("Tail", charts=[chart])])))
    show(browser, page)
    wait_for_chart(browser, ".chart")
    assert all_of(browser, ".readout tbody tr")[0].text == "auto 6.00 µs [5.00 µs -]"
