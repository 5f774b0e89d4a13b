"""The dashboard's pages as files: their content, the messages for bad input, and the files that a build leaves."""

import os
import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import numpy as np
import pytest

from reports.__main__ import main
from reports.site.across import MOST_RUNS, history_page
from reports.site.dashboard import MARKER
from reports.store.result import read
from reports.tables.page import to_html
from reports.trends.history import load
from tests.reports.synthetic_run import write_run
from tests.reports.synthetic_site import HOSTILE, make_site, write_hostile

MOST_BYTES = 1_000_000
SMALL: dict[str, Any] = {
    "sizes": [16384, 65536],
    "algorithms": ["library", "auto", "two_shot"],
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
    """Pages must not need a network, and every picture and table needs a name for a screen reader."""
    pages = sorted(site.glob("*.html"))
    assert len(pages) == 10
    for path in pages:
        page = Read(path)
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(ids) == len(set(ids)), path
        for tag, attrs in page.tags:
            assert not {name for name in attrs if name.startswith("on")}, (path, tag)
            for name in ("src", "href", "xlink:href", "data", "action"):
                link = attrs.get(name, "#")
                assert link.startswith(("#", "data:")) or (
                    tag == "a" and (site / link).is_file()
                ), (path, tag, link)
                assert not link.startswith("#") or link == "#" or link[1:] in ids, (path, link)
            for name in ("aria-labelledby", "aria-describedby"):
                assert set(attrs.get(name, "").split()) <= set(ids), path
        assert "url(http" not in path.read_text()
        assert [attrs.get("lang") for attrs in page.all("html")] == ["en"]
        assert {tag for tag, _ in page.tags} >= {"main", "nav", "header", "footer"}
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
        assert levels[0] == 1
        assert set(np.diff(levels)) <= {0, 1, -1}
        assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
        figures = [attrs for attrs in page.all("svg") if "aria-hidden" not in attrs]
        assert all(
            attrs.get("role") == "img" and len(attrs["aria-labelledby"].split()) == 2
            for attrs in figures
        )
        assert len(page.all("figure")) == len(figures) == len(page.all("desc"))
        assert "How to reproduce this page" in page.text
        assert f"python -m reports dashboard '<path>/results' -o '<path>/{site.name}'" in page.text
        assert str(site.parent) not in path.read_text()


def test_imports_are_shown_without_verdicts_and_boxes_are_compared(site):
    """Another benchmark's log must not look like a measurement by Wiretax, and a `procure` spec gets a page."""
    imported, boxes = Read(page_of(site, "imported")), Read(page_of(site, "boxes"))
    for words in ("Imported, never judged", "nccl-tests", "37.3"):
        assert words in imported.text
    for words in ("16K <= 8 us", "UNDECIDED", "5200 EUR", "python -m reports procure boxes.toml"):
        assert words in boxes.text
    links = [attrs.get("href") for attrs in Read(site / "index.html").all("a")]
    assert {page_of(site, "imported").name, page_of(site, "boxes").name} <= set(links)


def test_a_regression_is_on_the_history_page_and_counted(tmp_path):
    """Otherwise users would miss a regression that the runs show."""
    for number in range(24):
        write_run(
            tmp_path / "results",
            run_id=f"2026-11-{number + 1:02d}T06-15-00Z-allreduce-{number}",
            seed=number,
            scale=1.0 if number < 14 else 1.2,
            **SMALL | {"algorithms": ["library", "two_shot"]},
        )
    page = history_page(load(tmp_path / "results"))
    assert page.counts["worse"] == sum(page.counts.values()) == 4
    assert re.fullmatch(
        r"4 worse, 0 better of 4 series over 24 runs; most: 16 KiB .* \+\d\d\.\d% from 2026-11-15 on",
        page.sentences[0],
    )
    assert page.verdicts == {("a1b2c3", "allreduce"): page.counts}
    (tmp_path / "history.html").write_text(to_html(page))
    document = Read(tmp_path / "history.html")
    assert "first at 2026-11-15T06-15-00Z-allreduce-14" in document.text
    assert len(document.all("figure")) == 1
    assert {"worse"} <= {attrs.get("class") for attrs in document.all("strong")}
    assert [attrs.get("class") for attrs in document.all("svg")][1:] == [
        "spark"
    ] * 4  # a picture of each series' runs
    for words in ("before, us", "after, us", "2026-11-15"):
        assert words in document.text


def test_strings_from_run_files_stay_text(site):
    """Otherwise a browser could run a name in a run file as a script."""
    page = Read(page_of(site, "run-script"))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    for words in ("bench.allreduce '<script>", "machine_id", "one_shot_push<script>"):
        assert words in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page.text)
    assert all(
        re.fullmatch(r"[A-Za-z0-9-]+\.html|\.wiretax-site", name) for name in os.listdir(site)
    )
    assert HOSTILE[:30] in Read(site / "index.html").text


def test_a_mark_has_the_height_of_its_case(tmp_path):
    """Otherwise a reader would see the figures of a different case than the marked one."""
    result = write_run(tmp_path / "results", **SMALL)
    page = page_of(make_site(tmp_path / "results", tmp_path / "site"), "allreduce").read_text()
    picture = page[
        page.index('aria-labelledby="time0log-t') : page.index('aria-labelledby="time0linear-t')
    ]
    heights: dict[int, float] = {}
    for line in picture.split(" data-cases=")[1:]:
        cases, marks = line.split('"')[1].split("-"), re.findall(r'<use [^>]*? y="([\d.]+)"', line)
        heights |= {int(case): float(y) for case, y in zip(cases, marks, strict=False) if case}
    costs = {case.case: case.total_us.median for case in result.cases if case.total_us}
    assert heights.keys() == costs.keys()
    slope, at_1 = np.polyfit(np.log(list(costs.values())), [heights[case] for case in costs], 1)
    assert slope < 0
    assert all(
        abs(slope * np.log(cost) + at_1 - heights[case]) < 0.2 for case, cost in costs.items()
    )


def test_unreadable_files_are_named_and_the_rest_is_shown(tmp_path, capsys):
    """A broken file must not end the build or go unnoticed, and a link must not lead out of the folder."""
    results = tmp_path / "results"
    whole = write_run(results, **SMALL).path
    (results / "broken.jsonl").write_text('{"kind":"run"')
    (results / "binary.jsonl").write_bytes(bytes(range(256)) * 10)
    os.mkfifo(results / "pipe.jsonl")
    (results / "again.jsonl").write_bytes(whole.read_bytes())
    (results / "link.jsonl").symlink_to(whole)
    (results / "elsewhere").symlink_to(tmp_path)
    (results / "campaign-1").mkdir()
    (results / "campaign-1" / "campaign.jsonl").write_text("{}\n")
    lines = [msgspec.json.decode(line) for line in whole.read_bytes().splitlines()]
    lines[0]["run_id"] = "odd"
    for line in [*lines[0]["cases"], *(line for line in lines if line["kind"] == "case")]:
        line["shape"] = [1]
    (results / "odd.jsonl").write_bytes(
        b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    )
    site = make_site(results, tmp_path / "site")
    errors, page = capsys.readouterr().err, Read(site / "index.html").text
    for name in (
        "broken.jsonl",
        "binary.jsonl",
        "pipe.jsonl",
        "link.jsonl is a link",
        "elsewhere is a link",
        "campaign-1",
        "odd.jsonl",
    ):
        assert name in errors
        assert name in page
    assert re.search(r"again.jsonl is the run of|is the run of .*again.jsonl", errors)
    assert "Traceback" not in errors
    assert len(list(site.glob("run-*.html"))) == 1


@pytest.mark.parametrize("content", ["pickle", "short", "link"])
def test_invalid_samples_remove_only_their_section(tmp_path, content):
    """The dashboard must not unpickle a file, and bad samples must not remove the whole page."""
    path = write_run(tmp_path / "results", **SMALL).path
    samples = path.with_suffix(".samples") / "case-0000.npy"
    good = samples.read_bytes()
    samples.unlink()
    if content == "pickle":
        np.save(samples, np.array([{"harm": 1}], dtype=object), allow_pickle=True)
    elif content == "short":
        samples.write_bytes(good[:-40])
    else:
        (tmp_path / "secret.npy").write_bytes(good)
        samples.symlink_to(tmp_path / "secret.npy")
    page = Read(page_of(make_site(tmp_path / "results", tmp_path / "site"), "allreduce")).text
    assert "This cannot be shown: 2026" in page
    assert "Every cell" in page


def test_a_slow_rank_is_named(tmp_path):
    """Otherwise readers would search for a straggler in the columns of the table."""
    path = write_run(tmp_path / "results", **SMALL).path
    for file in path.with_suffix(".samples").iterdir():
        samples = np.load(file)
        samples[samples[:, 1] == 1, 2] *= 1.3
        np.save(file, samples)
    page = Read(page_of(make_site(tmp_path / "results", tmp_path / "site"), "allreduce")).text
    assert re.search(r"Rank 1 is slow at 16 KiB: 1\.[23]\dx the others' time", page)
    assert "Rank 0 is slow" not in page


def test_a_folder_with_other_files_is_left_unchanged(tmp_path, capsys):
    """Otherwise `-o ~` would mix pages with the user's files, and the next build could delete some of them."""
    write_run(tmp_path / "results", **SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in ("mine", "file"):
        assert main(["dashboard", str(tmp_path / "results"), "-o", str(tmp_path / out)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert (
        (tmp_path / "mine" / "index.html").read_text() == (tmp_path / "file").read_text() == "mine"
    )
    assert main(["dashboard", str(tmp_path / "nothing"), "-o", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


def test_a_second_build_deletes_only_its_own_old_pages(tmp_path):
    """The page of a deleted run must go, and the user's own files must stay."""
    results, site = tmp_path / "results", tmp_path / "site"
    gone = write_run(results, run_id="2026-11-19T06-15-00Z-allreduce-gone", **SMALL).path
    write_run(results, **SMALL)
    make_site(results, site)
    (site / "notes.html").write_text("mine")
    (tmp_path / "outside.html").write_text("mine")
    (site / "index.html.part").symlink_to(tmp_path / "outside.html")
    marker = msgspec.json.decode((site / MARKER).read_bytes())
    (site / MARKER).write_bytes(msgspec.json.encode([*marker, "../outside.html"]))
    old = page_of(site, "gone")
    gone.unlink()
    make_site(results, site)
    assert not old.exists()
    assert (site / "notes.html").read_text() == (tmp_path / "outside.html").read_text() == "mine"
    assert not list(site.glob("*.part"))


def test_pages_of_big_runs_stay_small_and_only_the_newest_runs_have_pages(tmp_path):
    """A phone must be able to open the pages of a store with years of runs."""
    everything = [1024 << step for step in range(18)]
    big = write_run(
        tmp_path / "results",
        sizes=everything,
        in_place=(False, True),
        n_blocks=6,
        n=2,
        library_variants=("plain", "tuned", "registered", "graph"),
        run_id="2026-11-22T06-15-00Z-big",
    )
    assert len(big.cases) > 400
    for number in range(MOST_RUNS + 2):
        write_run(
            tmp_path / "results",
            run_id=f"2026-11-20T06-15-{number:02d}Z-allreduce-{number}",
            **SMALL | {"algorithms": ["library"], "sizes": [16384]},
        )
    write_hostile(tmp_path / "results" / "foreign")
    site = make_site(tmp_path / "results", tmp_path / "site")
    sizes = {path.name: path.stat().st_size for path in site.glob("*.html")}
    assert len(sizes) == MOST_RUNS + 3
    assert max(sizes.values()) < MOST_BYTES
    assert f"#case-{len(read(big.path).cases) - 1}" in page_of(site, "big").read_text()
