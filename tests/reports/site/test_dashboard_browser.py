"""The dashboard's pages in a real browser, opened from files: display, controls and network
requests."""

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
  const isHidden = !element.getClientRects().length || element.closest("script, title, desc");
  if (!words.length || isHidden) continue;
  const colour = parsed(element.closest("svg") ? style.fill : style.color);
  const [low, high] = [light(colour), light(behind(element))].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  contrasts.push([ratio, words[0].data.slice(0, 40)]);
}
return contrasts;
"""


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


def show(browser, page, width=1280, scheme="light"):
    view = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")
    browser.get(page.as_uri())


@pytest.fixture
def sweep(browser, pages):
    """The page of a sweep, opened."""
    (page,) = [page for page in pages if re.search("run-.*allreduce-000", page.name)]
    show(browser, page)
    return page


def all_of(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def seen(browser, selector):
    return [element for element in all_of(browser, selector) if element.is_displayed()]


def test_pages_open_offline_on_a_phone_without_errors_and_run_no_names(browser, pages):
    """Pages must not tell a server that somebody reads them, and a run file from another user must
    not run code in the reader's browser. Only wide tables and figures scroll sideways, each inside
    its box."""
    browser.get_log("performance")
    for page in pages:
        show(browser, page, 360)
        assert browser.get_log("browser") == [], page
        assert browser.execute_script("return window.harmed") is None, page
        wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1] == 360, page
        if "run-script" in page.name:
            ActionChains(browser).move_to_element(seen(browser, "[data-case]")[0]).perform()
            assert "<script>" in browser.find_element(By.ID, "value").text
            assert browser.execute_script("return window.harmed") is None
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert len(urls) >= len(pages)
    assert [url for url in urls if not url.startswith(("file://", "data:", "about:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_requires(browser, sweep, scheme):
    """WCAG 2.2, criterion 1.4.3, requires a contrast of 4.5 to 1."""
    for page in (sweep, sweep.with_name("index.html")):
        show(browser, page, scheme=scheme)
        browser.execute_script(
            "document.querySelectorAll('details').forEach((element) => { element.open = true; })"
        )
        contrasts = browser.execute_script(CONTRASTS)
        assert len(contrasts) > 15
        assert [(round(ratio, 2), words) for ratio, words in contrasts if ratio < 4.5] == [], page
        dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_keyboard_can_hide_a_line_in_every_picture(browser, sweep):
    """Users without a mouse must be able to separate overlapping lines."""
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


def test_rows_are_filtered_by_text_and_by_column(browser, sweep):
    """A table may have hundreds of cells. The linked row shows in spite of the filters."""
    for select, word in zip(seen(browser, ".tools select"), ("two_shot", "chained"), strict=True):
        Select(select).select_by_visible_text(word)
    rows = [row.text for row in seen(browser, "#cells tbody tr")]
    assert 0 < len(rows) < len(all_of(browser, "#cells tbody tr"))
    assert all("two_shot" in row and "chained" in row for row in rows)
    seen(browser, "input[type=search]")[0].send_keys("64 KiB")
    assert len(seen(browser, "#cells tbody tr")) == 1
    browser.execute_script("location.hash = '#case-0'")
    assert len(seen(browser, "#cells tbody tr")) == 2


def test_a_mark_shows_its_value_to_mouse_and_keyboard_and_links_to_its_row(browser, sweep):
    """Readers must not have to estimate a value from the axis."""
    ActionChains(browser).move_to_element(seen(browser, "[data-case]")[3]).perform()
    value = browser.find_element(By.ID, "value")
    case = value.text.split("\n")[0].removeprefix("cell: ")
    row = browser.find_element(By.ID, f"case-{case}")
    assert row.find_elements(By.CSS_SELECTOR, "td")[0].text in value.text
    ActionChains(browser).click().perform()
    assert browser.current_url.endswith(f"#case-{case}")
    box = seen(browser, "figure .box")[0]
    browser.execute_script("arguments[0].focus()", box)
    texts = []
    for _ in range(2):
        box.send_keys(Keys.ARROW_RIGHT)
        texts.append(value.text)
    assert texts[0] != texts[1] != ""


def test_without_scripts_everything_is_shown(browser, sweep):
    """Without scripts, all figures must be visible, and controls without a function hidden."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, sweep)
        figures = [figure.rect["height"] > 100 for figure in all_of(browser, "figure")]
        assert all(figures)
        assert len(figures) >= 10
        assert {control.rect["height"] for control in all_of(browser, "input")} == {0}
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
