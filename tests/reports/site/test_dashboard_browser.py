"""The pages in a real browser, opened from files: display, controls and the keyboard, assistive
technology, and network requests."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import tarfile

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from bench.gate import read_options
from reports.__main__ import main
from reports.breakdown.breakdown_page import bars_of, page_of
from reports.kit.page import to_html
from reports.site import history_page
from reports.site.run_page import run_page
from tests.launch import few
from tests.reports.breakdown.bills import two_cards, without_calls
from tests.reports.synthetic_bits import write_layers
from tests.reports.synthetic_campaign import no_effect, write_campaign
from tests.reports.synthetic_fleet import write_fleet
from tests.reports.synthetic_run import rewrite, rewrite_head, write_run, write_run_with_few_blocks
from tests.reports.synthetic_site import LOG, make_site, write_store
from wiretax.record.manifest import MANIFEST

AXE = "axe-core@4.14.1"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
RUN_AXE = """
const [rules, done] = arguments;
axe.run(document, { resultTypes: ["violations"], ...rules }).then(({ violations }) => done(
  violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => [id, nodes[0].html.slice(0, 200), nodes[0].failureSummary])));
"""
# Marks what has the focus, and tells whether that is new; null until a chart is drawn.
VISIT = """
const at = document.activeElement;
if (at.closest(".chart:not(.live)")) return null;
const isNew = at !== document.body && !at.dataset.visited;
at.dataset.visited = "yes";
return [isNew];
"""
# In the blocks of a case.
WRONG = {
    "n_wrong": 12,
    "first_wrong": {
        "rank": 1,
        "iteration": 0,
        "offset_bytes": 16,
        "element": 4,
        "expected": "12.0 (0x41400000)",
        "got": "13.0 (0x41500000)",
    },
}


CONTROLS = "a[href], button, input, summary, [tabindex='0']"


@pytest.fixture(scope="module")
def axe(request):
    """The source of axe-core, which npm fetches once."""
    if not shutil.which("npm"):
        pytest.skip("axe-core is fetched by npm, which is not here")
    folder = request.config.cache.mkdir("axe-core")
    archive = folder / f"{AXE.replace('@', '-')}.tgz"
    if not archive.exists():
        command = ["npm", "pack", "--silent", "--pack-destination", str(folder), AXE]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("npm cannot fetch axe-core")
    with tarfile.open(archive) as package:
        file = package.extractfile("package/axe.min.js")
        assert file
        source = file.read()
    assert hashlib.sha256(source).hexdigest() == AXE_SHA256
    return source.decode()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    store = write_store(folder / "results")
    for night in range(22):
        run_id = f"2026-10-{night + 1:02d}T06-15-00Z-allreduce-{night}"
        scale = 1.0 if night < 15 else 1.3
        sizes = {"sizes": [16384, 1 << 20], "algorithms": ["library", "auto", "ring"]}
        write_run(
            store,
            run_id=run_id,
            seed=night,
            scale=scale,
            n_blocks=6,
            n=4,
            **sizes,
        )
    write_fleet(store / "fleet", [f"n{number}" for number in range(5)], 1, slower={"n3": 0.2})
    site = make_site(store, folder / "site")
    campaign = store / "campaign-1a2b3c4d"
    sides = ["--baseline", str(campaign / "main"), "--current", str(campaign / "new")]
    assert main(["regress", *sides, "--html", str(site / "gate.html")]) == 1
    assert main(["expect", "--gpu", "r9700", "--html", str(site / "expect.html")]) == 0
    layers = str(write_layers(folder / "bits"))
    assert main(["bits", layers, "--require", "tp", "--html", str(site / "bits.html")]) == 1
    bill = two_cards(one=without_calls().parts)
    (site / "breakdown.html").write_text(to_html(page_of(bill, bars_of(bill))))
    runs = (f"run-*{name}" for name in ("allreduce-000", "made-layer", "import", "onerror"))
    parts = [
        "fleet",
        "index",
        "history-allreduce",
        "compare",
        "gate",
        "expect",
        "breakdown",
        "bits",
    ]
    return [next(site.glob(f"{part}*.html")) for part in [*parts, *runs]]


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """The pages of eight machines; on the first, `ring` became slower at 1 MiB, and points are of
    two runs; the second gave wrong results, with too few blocks."""
    store = tmp_path_factory.mktemp("eight")
    for machine in range(8):
        for night in range(1 if machine else 14):
            path = write_run(
                store / "runs",
                run_id=f"2026-11-{night + 1:02d}T06-15-00Z-allreduce-{machine}{night:02d}",
                sizes=[16384, 1 << 20],
                algorithms=["library", "auto", "ring"],
                modes=["isolated"],
                n_blocks=2 if machine == 1 else 6,
                n=2,
                seed=night,
                us=lambda case, block, night=night: (
                    (
                        1.5
                        if night > 8 and (case.algorithm, case.size_bytes) == ("ring", 1 << 20)
                        else 1
                    )
                    * (1 + 0.01 * ((7 * block.case + 11 * night) % 5 / 5))
                    * case.size_bytes
                    / 1000
                ),
            ).path
            commit = "1a2b3c4" if night < 9 else "9f8e7d6"
            rewrite_head(path, machine_id=f"m{machine}", version=f"0.9.0 ({commit})")
        if machine == 1:
            rewrite(
                path,
                lambda line: line.update(
                    WRONG if (line["kind"], line.get("case")) == ("block", 1) else {}
                ),
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_page, "MOST_POINTS", 8)
        return make_site(store / "runs", store / "site")


def show(browser, page, width=1280):
    """Opens a page in the light scheme."""
    view = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    use_scheme(browser, "light")
    browser.get("about:blank")
    browser.get(page.as_uri())


def use_scheme(browser, scheme, medium=""):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    media = {"media": medium, "features": features}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def all_of(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


@pytest.fixture
def sweep(browser, pages):
    """The page of a sweep, opened."""
    (page,) = [page for page in pages if "allreduce-000" in page.name]
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


def test_on_a_phone_no_table_scrolls_sideways_or_has_a_word_a_line(browser, pages):
    """It would be five screens long. A run of another program has names without a blank."""
    for page in pages:
        open_details(browser, page, 360)
        is_wide = "return arguments[0].scrollWidth > arguments[0].clientWidth"
        assert not any(browser.execute_script(is_wide, box) for box in all_of(browser, "div.box"))
        if page.name == "expect.html":
            assert max(row.size["height"] for row in all_of(browser, ".box tbody tr")) < 200


def open_details(browser, page, width=1280):
    show(browser, page, width)
    browser.execute_script(
        "document.querySelectorAll('details').forEach((element) => { element.open = true; })"
    )


def test_axe_finds_nothing_serious(browser, axe, pages):
    for page in pages:
        open_details(browser, page)
        browser.execute_script(axe)
        for scheme, rules in ("light", {}), ("dark", {"runOnly": ["color-contrast"]}):
            use_scheme(browser, scheme)
            assert browser.execute_async_script(RUN_AXE, rules) == [], page


def test_cards_are_filtered_and_counted(browser, machines):
    """Otherwise somebody with many machines would search for theirs by eye."""
    show(browser, machines / "index.html")
    assert len(seen(browser, ".card")) == 8
    seen(browser, "input[type=search]")[0].send_keys("(m3)")
    (card,) = seen(browser, ".card")
    assert "allreduce on AMD EPYC 9B45 (m3)" in card.text
    assert re.search(r"2026-11-01 06:15 UTC \d+ days ago", card.text)
    assert seen(browser, "output")[0].text == "1 of 8"


def test_what_changed_comes_first_and_is_marked(browser, machines):
    """One of 2 panels changed, in a line that is neither `auto` nor the fastest."""
    (page,) = machines.glob("history-*m0-*.html")
    show(browser, page)
    assert "1 MiB ring takes" in all_of(browser, "h1")[0].text
    assert "since 10 Nov 2026, 1a2b3c4 → 9f8e7d6." in all_of(browser, "h1")[0].text
    banner = all_of(browser, ".banner")[0].text
    assert re.search(
        r"gate --budget 30m --revision base=1a2b3c4 --base '.* -b \d+ -e \d+' --rev", banner
    )
    assert re.search(r"2026-11-14 06:15 UTC\s+\d+ days ago", banner)
    browser.execute_script("document.querySelector('#each-size-over-time').scrollIntoView()")
    wait_for_chart(browser, "#each-size-over-time .chart")
    figure = all_of(browser, "#each-size-over-time .chart")[0]
    caption, head = (
        figure.find_element(By.CSS_SELECTOR, each).text for each in ("figcaption", "thead")
    )
    assert caption.startswith("1 MiB isolated worse")
    assert head.endswith("[least, most of 2 runs]")
    marked = "return charts.map(({ data }) => data.steps.map(({ text }) => text))"
    assert any("ring worse" in texts[0] for texts in browser.execute_script(marked) if texts)


def test_the_mouse_holds_a_run_on_its_way_to_the_link(browser, machines):
    (page,) = machines.glob("history-*m0-*.html")
    show(browser, page)
    wait_for_chart(browser, ".chart")
    figure = all_of(browser, ".chart")[0]
    plot, place = (figure.find_element(By.CSS_SELECTOR, each) for each in (".u-over", "thead th"))
    last = place.text
    mouse = ActionChains(browser, duration=50)
    mouse.move_to_element_with_offset(plot, -80, 0).perform()
    passed = place.text
    mouse.move_to_element(plot).click().move_to_element(place).perform()
    held = place.text
    assert len({last, passed, held}) == 3
    assert held.startswith("2026-11-0")
    plot.find_element(By.XPATH, "ancestor::div[@class='plot']").send_keys(Keys.ARROW_LEFT)
    assert place.text < held
    all_of(browser, ".chart .plot")[0].send_keys(Keys.ENTER)


def test_a_wrong_case_says_where_and_how_to_repeat_it(browser, machines):
    """Beside it, a ratio of too few blocks is unsure, however large."""
    (page,) = machines.glob("run-*-100-*.html")
    show(browser, page)
    (row,) = all_of(browser, "#wrong-results-the-worst-first tbody tr")
    assert "16 KiB" in row.text
    assert "WRONG: " in row.text
    assert "block 0: rank 1 got 13.0 (0x41500000) at offset 16, element 4" in row.text
    assert "auto 16 KiB" in all_of(browser, "h1")[0].text
    assert "bench.allreduce" in all_of(browser, "#what-to-do-next pre")[0].text
    chips = {chip.text: chip.get_attribute("class") for chip in seen(browser, "#each-size .chip")}
    assert set(chips.values()) == {"chip worse", "chip unsure"}
    assert chips["too few blocks"] == "chip unsure"


def test_a_missing_interval_is_a_dash_in_the_table_beside_a_chart(browser, tmp_path):
    """It printed the median twice in its place."""
    result = write_run_with_few_blocks(tmp_path)
    page = tmp_path / "run.html"
    page.write_text(to_html(run_page(result.path)))
    show(browser, page)
    wait_for_chart(browser, ".chart:nth-of-type(3)")
    for number, unit in (
        (1, ""),
        (2, ""),
        (3, " µs"),
    ):
        chart = all_of(browser, f".chart:nth-of-type({number})")[0]
        row = chart.find_element(By.CSS_SELECTOR, ".readout tbody tr")
        figure = rf"\d+(\.\d+)?{unit}"
        assert re.fullmatch(rf"auto {figure} \[{figure} {figure}\]", row.text)
        chart.find_element(By.CSS_SELECTOR, ".plot").send_keys(Keys.ARROW_LEFT)
        assert re.fullmatch(rf"auto {figure} \[-\]", row.text)


def test_every_interval_is_inside_of_the_forest(browser, pages):
    """The drawing has 320 px at least, also on a phone, and a mark for what does not fit."""
    inside = """
    return [...document.querySelectorAll("svg.range")].map((drawing) => {
      const { left, right, width } = drawing.getBoundingClientRect();
      const marks = [...drawing.querySelectorAll("path:not(.edge):not(.band)")];
      const boxes = marks.map((mark) => mark.getBoundingClientRect());
      return width >= 320 && boxes.every((box) => left <= box.left && box.right <= right);
    });
    """
    for page in pages[0], pages[3], pages[4]:
        for width in (1280, 360):
            show(browser, page, width)
            found = browser.execute_script(inside)
            assert len(found) > 4
            assert all(found)


def test_a_chart_is_read_and_zoomed_with_the_keyboard(browser, sweep):
    """A reader without a mouse needs the same figures: the arrows move the crosshair, the table
    beside the chart has the values under it, and names switch lines off."""
    chart = all_of(browser, ".chart.live")[0]
    plot = chart.find_element(By.CSS_SELECTOR, ".plot")
    place = chart.find_element(By.CSS_SELECTOR, ".readout thead th")
    assert place.text == "32M"
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


def test_without_scripts_every_figure_is_in_a_table(browser, sweep):
    """And no control is without a function."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, sweep)
        assert "Charts need scripts" in browser.page_source
        assert len(seen(browser, "#each-size tbody tr")) == 4
        assert all_of(browser, "input") == []
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_cells_are_sorted_with_the_keyboard_and_filtered_by_text(browser, sweep):
    """A table may have hundreds. Sizes go by bytes, not by letters."""
    browser.execute_script("document.querySelector('#every-cell details').open = true")
    (head, *_) = all_of(browser, "#every-cell thead button")
    sizes = ["16 KiB", "64 KiB", "1 MiB", "32 MiB"]
    for order, state in ((1, "ascending"), (-1, "descending")):
        head.send_keys(Keys.ENTER)
        cells = [cell.text for cell in all_of(browser, "#every-cell tbody th")]
        assert [*dict.fromkeys(cells)] == sizes[::order]
        assert all_of(browser, "#every-cell th[aria-sort]")[0].get_attribute("aria-sort") == state
    seen(browser, "details input[type=search]")[0].send_keys("TWO_SHOT")
    rows = [row.text for row in seen(browser, "#every-cell tbody tr")]
    assert 0 < len(rows) < len(cells)
    assert all("two_shot" in row for row in rows)


def test_the_keyboard_reaches_every_control(browser, pages):
    """Tab alone visits each link, chart, button, field and scrolling box."""
    tab = {"type": "keyDown", "key": "Tab", "windowsVirtualKeyCode": 9}
    for page in few(pages, 4):
        show(browser, page)
        found = True
        while found:
            browser.execute_cdp_cmd("Input.dispatchKeyEvent", tab)
            found = WebDriverWait(browser, 30).until(lambda _: browser.execute_script(VISIT))[0]
        missed = all_of(browser, f":is({CONTROLS}):not([data-visited])")
        assert len(all_of(browser, "[data-visited]")) > 2
        assert [item.get_attribute("outerHTML") for item in missed if item.is_displayed()] == []


@pytest.mark.parametrize("option", [[], ["--kernel", "<path>"]])
def test_the_next_command_of_a_gate_repeats_its_options(browser, tmp_path, option):
    """It was `make gate`, without what GATE_ARGS and CAMPAIGN_ARGS had said."""
    names = dict.fromkeys(("base", "head"), no_effect)
    folder = write_campaign(tmp_path / "gate", names, pairs=8, spread=0.1)
    argv = ["mpirun", "-n", "2", "python", "-m", "bench.allreduce", "-e", "64K", *option]
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    first, *others = (folder / MANIFEST).read_text().splitlines()
    sides = [{"name": name, "argv": argv, "revision": commit} for name in names]
    head = json.loads(first) | {"variants": sides, "seed": 3, "margin": 0.02}
    (folder / MANIFEST).write_text("\n".join([json.dumps(head), *others, ""]))
    for run in (folder / "head").glob("*.jsonl"):
        rewrite_head(run, version="2")
    page, words = tmp_path / "gate.html", ["--baseline", str(folder / "base")]
    words += ["--current", str(folder / "head"), "--min-effect", "2.1", "--html", str(page)]
    words += ["--allow", "version"]
    assert main(["regress", *words]) == 3
    show(browser, page)
    said, command = (seen(browser, f"#what-to-do-next {each}")[0].text for each in ("p", "pre"))
    assert said.endswith(
        ", with your own values for <path of base> and <path of head>:" if option else " says:"
    )
    words = shlex.split(command.replace("<path of base>", "<path>").replace(" of head", ""))
    gate, values = read_options(words[3:])
    assert (values.min_effect, values.allow) == (pytest.approx(0.021), ["version"])
    assert (gate.head.pairs, gate.head.seed, gate.head.margin) == (16, 3, 0.02)
    assert [(each.argv, each.revision) for each in gate.head.variants] == 2 * [(argv, commit)]


def test_the_overview_counts_each_card_and_says_why_a_campaign_crashed(browser, tmp_path):
    """It said `3 of 11 runs` of three machines, and how to import a wrong log once more."""
    store = tmp_path / "results"
    for number in range(6):
        small = {"sizes": [16384], "algorithms": ["library", "auto"], "modes": ["isolated"]}
        run_id = f"2026-11-{number + 1:02d}T06-15-00Z-allreduce-{number}"
        path = write_run(
            store,
            run_id=run_id,
            n_blocks=6,
            n=4,
            **small,
        ).path
        rewrite_head(path, machine_id="m3" if number < 3 else f"m{number % 2 + 1}")
    folder = write_campaign(store / "campaign-1", {"main": no_effect, "new": no_effect}, pairs=6)
    head, main_line, line, *_ = (folder / MANIFEST).read_text().splitlines()
    shutil.rmtree(folder / "new")
    died = json.loads(line) | {"status": "died", "run": None, "reason": "killed by SIGSEGV"}
    (folder / MANIFEST).write_text("\n".join([head, main_line, json.dumps(died), ""]))
    site = make_site(store, tmp_path / "site")
    show(browser, site / "index.html")
    assert [each.text for each in seen(browser, "nav [aria-current=page]")] == ["Overview"]
    cards = " ".join(card.text for card in seen(browser, ".card"))
    assert sorted(re.findall(r"(\d) of 11 runs", cards)) == ["1", "2", "3"]
    assert not re.search("of 11 runs", seen(browser, ".banner")[0].text)
    show(browser, next(site.glob("compare-*.html")))
    assert seen(browser, "h1")[0].text.endswith("the last time with: killed by SIGSEGV")

    log = tmp_path / "box7.log"
    log.write_text(LOG.replace("1.64      0", "1.64      4", 1))
    assert main(["import", "--out", str(store), str(log)]) == 0
    site = make_site(store, tmp_path / "site")
    for page in ("index", "run-*-import"):
        show(browser, next(site.glob(f"{page}*.html")))
        text = seen(browser, "main")[0].text
        assert re.search(r"o repeat it: run what printed box7.log again, then\s", text)
        assert "import box7.log" not in text
