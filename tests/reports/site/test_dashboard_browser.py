"""The dashboard's pages in a real browser, opened from files: display, controls and network requests."""

import json
import re
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

# Computes the WCAG 2.2 contrast of all visible text against its background.
CONTRASTS = """
const parsed = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
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
  if (!words.length || !element.getClientRects().length || element.closest("script, title, desc")) continue;
  const colour = parsed(element.closest("svg") ? style.fill : style.color);
  const [low, high] = [light(colour), light(behind(element))].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  contrasts.push([ratio, words[0].data.slice(0, 40)]);
}
return contrasts;
"""


CUT_CELLS = """return [...document.querySelectorAll("th, td")].filter(
  (cell) => cell.scrollWidth > cell.clientWidth + 1).map((cell) => cell.textContent)"""


@pytest.fixture(scope="module")
def browser():
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver_path:
        pytest.skip("system tool absent: chromium")
    options = webdriver.ChromeOptions()
    for name in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{name}")
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(site):
    return sorted(site.glob("*.html"))


def opened(browser, pages, part, width=1280, scheme="light", at=""):
    (page,) = [page for page in pages if re.search(part, page.name)]
    view = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")
    browser.get(page.as_uri() + at)
    return browser


def seen(browser, selector):
    return [
        element
        for element in browser.find_elements(By.CSS_SELECTOR, selector)
        if element.is_displayed()
    ]


SWEEP = "run-.*allreduce-000"


def test_pages_open_without_errors_and_make_no_network_requests(browser, pages):
    """Pages must work offline and must not tell a server that somebody reads them."""
    browser.get_log("performance")
    for page in pages:
        browser.get(page.as_uri())
        assert browser.get_log("browser") == [], page
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert len(urls) >= len(pages)
    assert [url for url in urls if not url.startswith(("file://", "data:"))] == []


def test_strings_from_run_files_do_not_run(browser, pages):
    """A run file from another user must not run code in the reader's browser."""
    for page in pages:
        browser.get(page.as_uri())
        assert browser.execute_script("return window.harmed") is None, page
    opened(browser, pages, "run-script", at="#case-1")
    ActionChains(browser).move_to_element(seen(browser, "[data-case]")[0]).perform()
    assert "<script>" in browser.find_element(By.ID, "value").text
    assert browser.execute_script("return window.harmed") is None


def test_no_page_scrolls_sideways_on_a_phone(browser, pages):
    """Only wide tables and figures scroll sideways, each inside its box."""
    for page in pages:
        opened(browser, pages, re.escape(page.name), 360)
        wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1] == 360, page


def test_no_cell_of_a_table_is_cut(browser, pages):
    """A long name must wrap: its end may be what distinguishes two rows."""
    for page in pages:
        opened(browser, pages, re.escape(page.name))
        assert browser.execute_script(CUT_CELLS) == [], page


def test_the_first_screen_shows_the_worse_better_and_unknown_cards(browser, pages):
    """Readers must see regressions without scrolling."""
    opened(browser, pages, "index")
    cards = [card.text.split("\n")[0] for card in seen(browser, ".cards li")]
    assert [re.sub(r"\d+ ", "", card) for card in cards] == [
        "worse",
        "better",
        "unknown",
        "last run",
    ]
    assert cards[0].startswith("1 ")  # the campaign makes one case slower
    last = seen(browser, "#machines tbody tr")[-1]
    assert last.rect["y"] + last.rect["height"] < 800


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_requires(browser, pages, scheme):
    """WCAG 2.2, criterion 1.4.3, requires a contrast of 4.5 to 1."""
    for page in pages:
        opened(browser, pages, re.escape(page.name), scheme=scheme)
        browser.execute_script(
            "document.querySelectorAll('details').forEach((element) => { element.open = true; })"
        )
        contrasts = browser.execute_script(CONTRASTS)
        assert len(contrasts) > 15
        assert [(round(ratio, 2), words) for ratio, words in contrasts if ratio < 4.5] == [], page
        dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_keyboard_can_hide_a_line_in_every_picture(browser, pages):
    """Users without a mouse must be able to separate overlapping lines."""
    opened(browser, pages, SWEEP)
    parts = len(seen(browser, '[data-line="1"]'))
    assert parts >= 6
    for _ in range(60):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        at = browser.switch_to.active_element
        if at.get_attribute("data-toggle") == "1":
            break
    outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", at)
    assert (at.get_attribute("data-toggle"), outline) == ("1", "solid")
    at.send_keys(Keys.SPACE)
    assert len(seen(browser, '[data-line="1"]')) == 0
    assert len(seen(browser, '[data-line="0"]')) >= 6
    at.send_keys(Keys.SPACE)
    assert len(seen(browser, '[data-line="1"]')) == parts


def test_other_algorithms_are_hidden_until_chosen(browser, pages):
    """Lines that nobody asked for hide those of the library and of auto."""
    opened(browser, pages, SWEEP)
    boxes = seen(browser, "[data-toggle]")
    assert [box.is_selected() for box in boxes] == [True, True, False, False, False, False]
    assert [bool(seen(browser, f'[data-line="{place}"]')) for place in range(6)] == [True, True] + [
        False
    ] * 4
    boxes[3].click()
    assert len(seen(browser, '[data-line="3"]')) >= 6


def test_the_linear_axis_has_its_own_figure(browser, pages):
    """A stretched picture would keep the ticks of the logarithmic axis."""
    opened(browser, pages, SWEEP)
    logarithmic = {figure.id for figure in seen(browser, "figure[data-scale]")}
    seen(browser, "input[value=linear]")[0].click()
    linear = seen(browser, "figure[data-scale]")
    assert len(linear) == len(logarithmic) == 4
    assert not logarithmic & {figure.id for figure in linear}
    assert all(figure.get_attribute("data-scale") == "linear" for figure in linear)
    assert "0" in [
        text.text for text in linear[1].find_elements(By.CSS_SELECTOR, "text")
    ]  # a log axis has no 0


def test_rows_are_filtered_by_text_and_by_column(browser, pages):
    """A table may have hundreds of cells."""
    opened(browser, pages, SWEEP)
    every = len(seen(browser, "#cells tbody tr"))
    algorithm, mode = (Select(select) for select in seen(browser, ".tools select"))
    algorithm.select_by_visible_text("two_shot")
    mode.select_by_visible_text("chained")
    rows = [row.text for row in seen(browser, "#cells tbody tr")]
    assert 0 < len(rows) < every
    assert all("two_shot" in row and "chained" in row for row in rows)
    seen(browser, "input[type=search]")[0].send_keys("64 KiB")
    assert len(seen(browser, "#cells tbody tr")) == 1
    browser.execute_script("location.hash = '#case-0'")
    assert (
        len(seen(browser, "#cells tbody tr")) == 2
    )  # the linked row shows in spite of the filters


def test_a_mark_shows_its_value_to_mouse_touch_and_keyboard_and_links_to_its_row(browser, pages):
    """Readers must not have to estimate a value from the axis."""
    opened(browser, pages, SWEEP)
    mark = seen(browser, "[data-case]")[3]
    ActionChains(browser).move_to_element(mark).perform()
    value = browser.find_element(By.ID, "value")
    case = value.text.split("\n")[0].removeprefix("cell: ")
    row = browser.find_element(By.ID, f"case-{case}")
    assert row.find_elements(By.CSS_SELECTOR, "td")[0].text in value.text
    ActionChains(browser).click().perform()
    assert browser.current_url.endswith(f"#case-{case}")
    assert {
        element.get_attribute("data-case")
        for element in browser.find_elements(By.CSS_SELECTOR, ".here")
    } == {case}

    opened(browser, pages, SWEEP, 390)
    box = seen(browser, "figure .box")[0]
    browser.execute_script("arguments[0].focus()", box)
    box.send_keys(Keys.ARROW_RIGHT)
    first = browser.find_element(By.ID, "value").text
    box.send_keys(Keys.ARROW_RIGHT)
    assert first != browser.find_element(By.ID, "value").text != ""
    box.send_keys(Keys.ESCAPE)
    assert not browser.find_element(By.ID, "value").is_displayed()


def test_without_scripts_everything_is_shown(browser, pages):
    """Without scripts, all figures must be visible, and controls without a function hidden."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, pages, SWEEP)
        count = len(browser.find_elements(By.CSS_SELECTOR, "figure"))
        figures = [
            figure
            for figure in browser.find_elements(By.CSS_SELECTOR, "figure")
            if figure.rect["height"] > 100
        ]
        assert len(figures) == count >= 10
        assert all(
            control.rect["height"] == 0
            for control in browser.find_elements(By.CSS_SELECTOR, "input")
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
