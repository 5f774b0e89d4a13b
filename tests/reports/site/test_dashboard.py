"""The dashboard's pages as files: their content, the messages for bad input, and the files that a
build leaves."""

import json
import os
import re
import subprocess
from html.parser import HTMLParser

from reports.__main__ import main
from reports.kit.page import to_html
from reports.site import overview
from reports.site.dashboard import MARKER
from reports.site.history_page import history_page
from reports.trends.history import history_of
from tests.launch import ROOT
from tests.reports.synthetic_run import mark_wrong, rewrite_cases, write_run
from tests.reports.synthetic_site import HOSTILE, make_site
from wiretax.record.folder import read_store

SMALL = {
    "sizes": [16384],
    "algorithms": ["library", "two_shot"],
    "modes": ["isolated"],
    "n_blocks": 6,
    "n": 4,
}


class Read(HTMLParser):
    """The tags of a page, in order, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def page_of(site, part):
    (page,) = site.glob(f"*{part}*.html")
    return page


def test_every_page_is_self_contained_and_works_with_a_screen_reader(site):
    """Pages must not need a network, and every picture and table needs a name for a screen
    reader."""
    pages = sorted(site.glob("*.html"))
    assert len(pages) == 11
    for path in pages:
        page = Read(path)
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids)), path
        for tag, attrs in page.tags:
            assert not {name for name in attrs if name.startswith("on")}, (path, tag)
            for name in ("src", "href", "xlink:href", "data", "action"):
                link = attrs.get(name, "#")
                is_page = tag == "a" and (site / link).is_file()
                assert link.startswith(("#", "data:")) or is_page, (path, tag, link)
                assert not link.startswith("#") or link == "#" or link[1:] in ids, (path, link)
        for links in re.findall(r'"links":(\[.*?\])', path.read_text()):
            assert all((site / link).is_file() for link in json.loads(links) if link), path
        assert "url(http" not in path.read_text()
        assert page.tags[0][1] == {"lang": "en"}
        assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
        assert all("aria-hidden" in attrs for attrs in page.all("svg"))  # beside its figures
        assert len(page.all("main")) == len(page.all("h1")) == 1
        assert f"python -m reports dashboard results -o {site.name}" in page.text
        assert str(site.parent) not in path.read_text()


def test_a_regression_is_on_the_history_page_and_counted(tmp_path):
    """Otherwise users would miss a regression that the runs show."""
    for number in range(20):
        write_run(
            tmp_path / "results",
            run_id=f"2026-11-{number + 1:02d}T06-15-00Z-allreduce-{number}",
            seed=number,
            scale=1.0 if number < 12 else 1.2,
            **SMALL,
        )
    page = history_page(history_of(read_store(tmp_path / "results")))
    assert page.banner.word == "1 change for the worse"
    assert page.banner.sentence.startswith("16 KiB two_shot takes 20")
    assert page.banner.sentence.endswith("longer since 13 Nov 2026; so does the library.")
    (tmp_path / "history.html").write_text(to_html(page))
    document = Read(tmp_path / "history.html")
    assert "between 2026-11-12 06:15 and 2026-11-13 06:15 UTC" in document.text
    assert "chip worse" in {attrs.get("class") for attrs in document.all("span")}


def test_strings_from_run_files_stay_text(site):
    """Otherwise a browser could run a name in a run file as a script."""
    page = Read(page_of(site, "run-script"))
    ours = [attrs.get("type") for attrs in page.all("script")]
    assert ours == ["application/json"] * len(page.all("figure")) + [None]
    assert not page.all("img")
    for words in ("bench.allreduce '<script>", "machine_id", "one_shot_push<script>"):
        assert words in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page.text)
    assert all(
        re.fullmatch(r"[A-Za-z0-9-]+\.html|index\.png|\.wiretax-site", name)
        for name in os.listdir(site)
    )
    assert HOSTILE[:30] in Read(site / "index.html").text


def test_unreadable_files_are_named_and_the_rest_is_shown(tmp_path, capsys):
    """A broken file must not end the build or go unnoticed, and a link must not lead out of the
    folder."""
    results = tmp_path / "results"
    whole = write_run(results, **SMALL).path
    (results / "broken.jsonl").write_text('{"kind":"run"')
    (results / "binary.jsonl").write_bytes(bytes(range(256)) * 10)
    (results / os.fsdecode(b"\xff\n\x1b[31m.jsonl")).touch()
    os.mkfifo(results / "pipe.jsonl")
    (results / "again.jsonl").write_bytes(whole.read_bytes())
    (results / "link.jsonl").symlink_to(whole)
    (results / "campaign-1").mkdir()
    (results / "campaign-1" / "campaign.jsonl").write_text("{}\n")
    odd = results / "odd.jsonl"
    odd.write_bytes(whole.read_bytes())
    rewrite_cases(odd, lambda case: case.update(shape=[1]))
    site = make_site(results, tmp_path / "site")
    errors, page = capsys.readouterr().err, Read(site / "index.html").text
    names = ["broken.jsonl", "binary.jsonl", "pipe.jsonl", "campaign-1", "odd.jsonl", "??[31m"]
    for name in (*names, "link.jsonl is a link"):
        assert name in errors
        assert name in page
    assert re.search(r"\.jsonl is the run \S+ once more", errors)
    assert "Traceback" not in errors
    assert len(list(site.glob("run-*.html"))) == 1


def test_a_folder_with_other_files_is_left_unchanged(tmp_path, capsys):
    """Otherwise `-o ~` would mix pages with the user's files, and the next build could delete some
    of them."""
    write_run(tmp_path / "results", **SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    assert main(["dashboard", str(tmp_path / "results"), "-o", str(tmp_path / "mine")]) == 2
    assert re.fullmatch(r"reports: .* need a folder.*\n", capsys.readouterr().err)
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"
    assert main(["dashboard", str(tmp_path / "nothing"), "-o", str(tmp_path / "new")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_empty_store_says_what_comes_next(tmp_path):
    (tmp_path / "empty").mkdir()
    page = Read(make_site(tmp_path / "empty", tmp_path / "site") / "index.html")
    assert "No run is here yet." in page.text
    assert "0 of 11 runs until a large change can be found. To measure one: mpirun" in page.text


def test_a_second_build_deletes_only_its_own_old_pages(tmp_path):
    """The page of a deleted run must go, and the user's own files must stay."""
    results, site = tmp_path / "results", tmp_path / "site"
    gone = write_run(results, run_id="2026-11-19T06-15-00Z-allreduce-gone", **SMALL).path
    write_run(results, **SMALL)
    make_site(results, site)
    (site / "notes.html").write_text("mine")
    (tmp_path / "outside.html").write_text("mine")
    (site / "index.html.part").symlink_to(tmp_path / "outside.html")
    with (site / MARKER).open("a") as marker:
        marker.write("\n../outside.html")
    old = page_of(site, "gone")
    gone.unlink()
    make_site(results, site)
    assert not old.exists()
    assert (site / "notes.html").read_text() == (tmp_path / "outside.html").read_text() == "mine"
    assert not list(site.glob("*.part"))


def test_only_the_newest_runs_have_pages(tmp_path, monkeypatch):
    """A build must not take hours on a store with years of runs."""
    monkeypatch.setattr(overview, "MOST_RUNS", 2)
    for number in range(3):
        run_id = f"2026-11-20T06-15-{number:02d}Z-allreduce-{number}"
        write_run(tmp_path / "results", run_id=run_id, **SMALL)
    site = make_site(tmp_path / "results", tmp_path / "site")
    names = sorted(page.name[4:23] for page in site.glob("run-*.html"))
    assert names == ["2026-11-20T06-15-01", "2026-11-20T06-15-02"]
    # Nothing changed.
    assert "<figcaption>16 KiB two_shot, allreduce on" in (site / "index.html").read_text()


def test_a_run_whose_wrong_results_stand_keeps_its_page(tmp_path, monkeypatch):
    """A kernel under work had new runs, and the page that says where it was wrong went."""
    monkeypatch.setattr(overview, "MOST_RUNS", 1)
    names = "wrong", "right", "newest"
    for name, datatype in zip(names, ("float16", "float32", "float32"), strict=True):
        run_id = f"2026-11-20T06-15-0{names.index(name)}Z-allreduce-{name}"
        path = write_run(tmp_path / "results", run_id=run_id, datatype=datatype, **SMALL).path
        if name == "wrong":
            mark_wrong(path)
    site = make_site(tmp_path / "results", tmp_path / "site")
    kept = sorted(page.name.split("-")[7] for page in site.glob("run-*.html"))
    assert kept == ["newest", "wrong"]


def test_the_vendored_library_is_the_one_that_was_looked_at():
    """Otherwise anybody's script could come into every page with an update."""
    folder = ROOT / "reports/kit/vendor"
    command = ["sha256sum", "--check", "--quiet", "SHA256SUMS.txt"]
    subprocess.run(command, cwd=folder, check=True)
    assert len([*folder.iterdir()]) == 4
    (version,) = re.findall(r"^UPLOT \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert f"(v{version})" in (folder / "uplot.js").read_text()[:200]
    assert f"uPlot {version}" in (ROOT / "docs/dependencies.md").read_text()
