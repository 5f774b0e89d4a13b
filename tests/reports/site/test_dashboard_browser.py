"""The dashboard's pages in a real browser, opened from files: display, the filter of rows, and
network requests."""

import json
import re

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.reports.site.chromium import all_of, show
from tests.reports.synthetic_run import write_run
from tests.reports.synthetic_site import make_site

# Computes the WCAG 2.2 contrast of all visible text outside of pictures against its background.
CONTRASTS = """
const parsed = (colour) => {
  const scale = colour.startsWith("color(srgb") ? 255 : 1;
  return colour.match(/[\\d.]+/g).map(Number).map((value, n) => n < 3 ? scale * value : value);
};
const light = ([r, g, b]) => {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [x, y, z] = [r, g, b].map((c) => linear(c / 255));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parsed(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const contrasts = [];
for (const element of document.querySelectorAll("body *")) {
  const words = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
  const style = getComputedStyle(element);
  const isHidden = !element.getClientRects().length || element.closest("script, svg");
  if (!words.length || isHidden) continue;
  const colour = parsed(style.color);
  const [low, high] = [light(colour), light(behind(element))].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  contrasts.push([ratio, words[0].data.slice(0, 40)]);
}
return contrasts;
"""


@pytest.fixture(scope="module")
def pages(site):
    return sorted(site.glob("*.html"))


@pytest.fixture
def sweep(browser, pages):
    """The page of a sweep, opened."""
    (page,) = [page for page in pages if re.search("run-.*allreduce-000", page.name)]
    show(browser, page)
    wait_for_chart(browser, ".chart:nth-of-type(2)")
    return page


def wait_for_chart(browser, selector):
    """A chart is drawn when it has come into view."""
    WebDriverWait(browser, 30).until(lambda _: all_of(browser, f"{selector}.live"))


def seen(browser, selector):
    return [element for element in all_of(browser, selector) if element.is_displayed()]


@pytest.mark.parametrize("width", [360, 1280])
def test_pages_open_offline_at_any_width_without_errors_and_run_no_names(browser, pages, width):
    """Pages must not tell a server that somebody reads them, and a run file from another user must
    not run code in the reader's browser. Only wide tables and figures scroll sideways, each inside
    its box."""
    browser.get_log("performance")
    for page in pages:
        show(browser, page, width)
        assert browser.get_log("browser") == [], page
        assert browser.execute_script("return window.harmed") is None, page
        wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1] == width, page
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert len(urls) >= len(pages)
    assert [url for url in urls if not url.startswith(("file://", "data:", "about:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_requires(browser, pages, scheme):
    """WCAG 2.2, criterion 1.4.3, requires a contrast of 4.5 to 1."""
    for page in pages:
        show(browser, page, scheme=scheme)
        browser.execute_script(
            "document.querySelectorAll('details').forEach((element) => { element.open = true; })"
        )
        contrasts = browser.execute_script(CONTRASTS)
        assert len(contrasts) > 10
        assert [(round(ratio, 2), words) for ratio, words in contrasts if ratio < 4.5] == [], page
        dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


def test_rows_are_filtered_by_text(browser, sweep):
    """A table may have hundreds of cells."""
    browser.execute_script("document.querySelector('#every-cell details').open = true")
    n_rows = len(seen(browser, "#every-cell tbody tr"))
    seen(browser, "details input[type=search]")[0].send_keys("TWO_SHOT")
    rows = [row.text for row in seen(browser, "#every-cell tbody tr")]
    assert 0 < len(rows) < n_rows
    assert all("two_shot" in row for row in rows)


def test_a_chart_is_read_and_zoomed_with_the_keyboard(browser, sweep):
    """A reader without a mouse needs the same figures: the arrows move the crosshair, the table
    beside the chart has the values under it, and names switch lines off."""
    chart = all_of(browser, ".chart.live")[0]
    plot = chart.find_element(By.CSS_SELECTOR, ".plot")
    place = chart.find_element(By.CSS_SELECTOR, ".readout thead th")
    assert (place.text, all_of(browser, ".chart.live svg")[0].is_displayed()) == ("32M", False)
    plot.send_keys(Keys.ARROW_LEFT)
    assert place.text == "1M"
    row = chart.find_element(By.CSS_SELECTOR, ".readout tbody tr")
    assert re.fullmatch(r"auto \d\.\d\d \[\d\.\d\d \d\.\d\d\]", " ".join(row.text.split()))

    plots = "return charts.map(({ plot }) => [plot.scales.x.min, plot.scales.x.max])"
    whole = browser.execute_script(plots)
    plot.send_keys("+")
    zoomed = browser.execute_script(plots)
    assert whole[0][0] < zoomed[0][0] < zoomed[0][1] < whole[0][1]
    plot.send_keys(Keys.ESCAPE)
    assert browser.execute_script(plots) == whole

    row.find_element(By.CSS_SELECTOR, "button").send_keys(Keys.ENTER)
    assert browser.execute_script("return charts[0].plot.series[1].show") is False


def test_what_a_link_shows_is_what_its_sender_saw(browser, tmp_path):
    """The zoom over time and the text of a filter are in the address."""
    for night in range(1, 4):
        run_id = f"2026-11-{night:02d}T06-15-00Z-allreduce-{night}"
        write_run(tmp_path / "runs", run_id=run_id, sizes=[16384, 1 << 20], n_blocks=6, n=4)
    (page,) = make_site(tmp_path / "runs", tmp_path / "site").glob("history-*.html")
    show(browser, page)
    wait_for_chart(browser, "#each-size-over-time .chart")
    all_of(browser, "#each-size-over-time .plot")[0].send_keys("+")
    seen(browser, "#all-series summary")[0].click()
    all_of(browser, "#all-series input")[0].send_keys("two_shot")
    address = browser.current_url
    assert "zoom=" in address
    browser.get("about:blank")
    browser.get(address)
    wait_for_chart(browser, "#each-size-over-time .chart")
    assert all("two_shot" in row.text for row in seen(browser, "#all-series tbody tr"))
    zoomed = browser.execute_script("return charts[0].plot.scales.x")
    assert f"zoom={round(zoomed['min'])}-{round(zoomed['max'])}" in address


def test_print_shows_the_pictures(browser, sweep):
    """A canvas of the dark scheme would be unreadable on paper, and is as wide as the window."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert all(picture.is_displayed() for picture in all_of(browser, ".chart svg"))
        assert not seen(browser, ".uplot")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_scripts_everything_is_shown(browser, sweep):
    """Without scripts, all figures must be visible, and no control without a function."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, sweep)
        assert all(figure.rect["height"] > 100 for figure in all_of(browser, "figure"))
        assert all_of(browser, "input") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_headers_sort_with_the_keyboard(browser, sweep):
    """Sizes go by bytes, not by letters."""
    (head, *_) = all_of(browser, "#each-size thead button")
    sizes = ["16 KiB", "64 KiB", "1 MiB", "32 MiB"]
    for order, state in ((1, "ascending"), (-1, "descending")):
        head.send_keys(Keys.ENTER)
        assert [cell.text for cell in all_of(browser, "#each-size tbody th")] == sizes[::order]
        assert all_of(browser, "#each-size th[aria-sort]")[0].get_attribute("aria-sort") == state
