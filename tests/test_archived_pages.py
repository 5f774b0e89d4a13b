"""The dashboard of archived runs on the site of docs/, and that `make check` builds the site."""

import hashlib
import re
from importlib import import_module
from types import SimpleNamespace

import pytest
import yaml

from tests.launch import ROOT
from tests.test_readme import MAKEFILE

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("on_the_path")]

TEXT = (ROOT / "docs/experiments/archived.md").read_text()
ONE_RUN = "| a machine | a step | [h100-decode](runs/h100-decode.tar.xz) | `b81062` |\n"


@pytest.fixture(scope="module")
def hook(on_the_path):
    return import_module("archived_pages")


def test_a_listed_run_becomes_a_page_that_links_to_the_list(hook):
    files = hook.dashboard_of(ONE_RUN)
    pages = {name: content.decode() for name, content in files.items() if name.endswith(".html")}
    (page,) = [text for name, text in pages.items() if re.match("run-.*-b81062-", name)]
    assert "NVIDIA H100" in page
    assert "make docs" in page, "the command that makes it"
    assert all('<a href="../archived.html">' in text for text in pages.values())
    assert files["index.png"].startswith(b"\x89PNG")


def test_a_list_that_is_wrong_or_too_long_stops_the_build(hook, monkeypatch):
    with pytest.raises(ValueError, match=r"h100-decode\.tar\.xz has no run b81063"):
        hook.dashboard_of(ONE_RUN.replace("b81062", "b81063"))
    monkeypatch.setattr(hook, "MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match=r"make 0\.\d MB of pages: list fewer"):
        hook.dashboard_of(ONE_RUN)


def test_only_the_site_links_to_the_dashboard(hook):
    """On GitHub nobody has built it."""
    page = SimpleNamespace(file=SimpleNamespace(src_uri="experiments/archived.md"))
    assert "(archived/index.html)" not in TEXT
    assert "[open them](archived/index.html)" in hook.on_page_markdown(TEXT, page=page)


def test_make_check_and_ci_build_the_site_and_a_dead_link_fails():
    assert re.search(r"^check:.* docs$", MAKEFILE, re.MULTILINE)
    assert "-m mkdocs build --strict" in MAKEFILE
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert {"run": "make docs"} in jobs["test"]["steps"]
    (kept,) = [step["with"] for step in jobs["test"]["steps"] if "upload" in step.get("uses", "")]
    assert kept == {"name": "site", "path": "build/docs"}, "a visitor sees it without installing"
    site = (ROOT / "mkdocs.yml").read_text()
    assert "hooks: [docs/experiments/archived_pages.py]" in site
    links = yaml.safe_load(site.partition("validation:\n")[2].partition("\n\n")[0])["links"]
    assert links == {"not_found": "warn", "anchors": "warn"}


def test_the_site_searches_from_the_disk_and_loads_nothing_from_a_network():
    """Browsers load no JSON and start no worker from a file: the index is a script then, and the
    worker a frame, by a file of the site (mkdocs' own choice lies on a server)."""
    site = (ROOT / "mkdocs.yml").read_text()
    assert re.search(r"^  - offline\b", site, re.MULTILINE)
    assert "polyfills: [vendor/iframe-worker.js]" in site
    folder = ROOT / "docs/vendor"
    for line in (folder / "SHA256SUMS.txt").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_no_picture_of_the_site_is_white_on_a_dark_page():
    """Each has a dark form, or turns its brightness around."""
    style = (ROOT / "docs/site.css").read_text()
    rule = style.partition('[data-md-color-scheme="slate"] .md-content img')[2]
    assert rule.startswith(':not([src$="#only-dark"])')
    assert "invert(1)" in rule
