"""Pages with assistive technology and the keyboard alone, and pages of very many runs."""

import hashlib
import shutil
import subprocess
import tarfile
from datetime import datetime, timedelta

import msgspec
import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from reports.__main__ import main
from reports.kit.page import to_html
from reports.site.history_page import history_page
from reports.store.result import read
from reports.trends.changes import Step
from reports.trends.history import History
from reports.trends.series import Event, Series
from tests.reports.site.chromium import all_of, show
from tests.reports.synthetic_fleet import write_fleet
from tests.reports.synthetic_run import write_run
from tests.reports.synthetic_site import make_site, write_store

AXE = "axe-core@4.14.1"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
RUN_AXE = """
const done = arguments[arguments.length - 1];
document.querySelectorAll("details").forEach((element) => { element.open = true; });
axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => done(
  violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => [id, nodes[0].html.slice(0, 200), nodes[0].failureSummary])));
"""
# From a key on a chart until the browser has painted what it changed, in ms.
TIME_KEY = """
const [plot, key, done] = arguments;
const start = performance.now();
plot.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
"""
CONTROLS = "a[href], button, input, summary, [tabindex='0']"
N_RUNS = 10_000


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
def kinds(tmp_path_factory):
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    store = write_store(folder / "results")
    for night in range(22):
        run_id = f"2026-10-{night + 1:02d}T06-15-00Z-allreduce-{night}"
        scale = 1.0 if night < 15 else 1.3
        sizes = {"sizes": [16384, 1 << 20], "algorithms": ["library", "auto", "ring"]}
        write_run(store, run_id=run_id, seed=night, scale=scale, n_blocks=6, n=4, **sizes)
    write_fleet(store / "fleet", [f"n{number}" for number in range(5)], slower={"n3": 0.2})
    site = make_site(store, folder / "site")
    campaign = store / "campaign-1a2b3c4d"
    sides = ["--baseline", str(campaign / "main"), "--current", str(campaign / "new")]
    assert main(["regress", *sides, "--html", str(site / "gate.html")]) == 1
    parts = ["index", "history-allreduce", "run-2026-11-20", "compare", "fleet", "gate"]
    return [next(site.glob(f"{part}*.html")) for part in parts]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, axe, kinds, scheme):
    for page in kinds:
        show(browser, page, scheme=scheme)
        browser.execute_script(axe)
        assert browser.execute_async_script(RUN_AXE) == [], page


def test_the_keyboard_reaches_every_control(browser, kinds):
    """Tab alone visits each link, chart, button, field and scrolling box."""
    is_drawn = "return !document.activeElement.closest('.chart:not(.live)')"
    visit = "return document.activeElement.dataset.visited ? '' : document.activeElement.tagName"
    for page in kinds:
        show(browser, page)
        browser.switch_to.active_element.send_keys(Keys.TAB)
        while browser.execute_script(visit) not in ("", "BODY"):
            browser.execute_script("document.activeElement.dataset.visited = 'yes'")
            WebDriverWait(browser, 30).until(lambda _: browser.execute_script(is_drawn))
            browser.switch_to.active_element.send_keys(Keys.TAB)
        missed = all_of(browser, f":is({CONTROLS}):not([data-visited])")
        assert len(all_of(browser, "[data-visited]")) > 2
        assert [item.get_attribute("outerHTML") for item in missed if item.is_displayed()] == []


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The history of 10,000 nightly runs of 12 sizes."""
    folder = tmp_path_factory.mktemp("many")
    run = read(write_run(folder, sizes=[16384], n_blocks=4, n=4).path).run
    days = [datetime(2000, 1, 1) + timedelta(days=day) for day in range(N_RUNS)]
    run_ids = [f"{day:%Y-%m-%dT%H-%M-%SZ}-allreduce-{n}" for n, day in enumerate(days)]
    runs = {run_id: msgspec.structs.replace(run, run_id=run_id) for run_id in run_ids}
    noise = np.random.default_rng(1).normal(0, 0.02, (12, 4, N_RUNS))
    step = Step(9000, 8999, 9001, (0.18, 0.17, 0.19))
    series = []
    for place in range(12):
        for scatter, case in zip(noise[place], run.cases[:4], strict=True):
            costs_us = 5.0 * 2**place * np.exp(scatter + 0.18 * (np.arange(N_RUNS) >= 9000))
            names = f"{16 << place} KiB {case.algorithm}", f"{16 << place} KiB", case.algorithm
            machine = run.machine_id, run.benchmark
            series.append(Series(*names, case, *machine, run_ids, costs_us, [step]))

    event = Event(run_ids[9000], [(each, step) for each in series], 48, ["One."], [])
    page = folder / "history.html"
    history = History(runs, [], series=series, events=[event])
    page.write_text(to_html(history_page(history)))
    return page


@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_a_history_of_very_many_runs_opens_and_reacts_at_once(browser, many, width, capsys):
    """The goals are 1 s and 100 ms; a busy machine is slower, so the limits are wider."""
    show(browser, many, width)
    WebDriverWait(browser, 30).until(lambda _: all_of(browser, ".chart.live"))
    paint = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    paint_ms = WebDriverWait(browser, 30).until(lambda _: browser.execute_script(paint))
    plot = browser.find_element(By.CSS_SELECTOR, ".plot")
    keys_ms = [browser.execute_async_script(TIME_KEY, plot, key) for key in ("+", "ArrowLeft") * 4]
    with capsys.disabled():
        size = f"{many.stat().st_size // 1024} KiB"
        print(f"\n{width} px, {size}: paint {paint_ms:.0f} ms, a key {np.median(keys_ms):.0f} ms")
    assert paint_ms < 5000
    assert np.median(keys_ms) < 500
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
