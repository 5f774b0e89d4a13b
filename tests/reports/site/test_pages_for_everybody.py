"""Pages with assistive technology and the keyboard alone."""

import hashlib
import shutil
import subprocess
import tarfile

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from reports.__main__ import main
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
