"""The dashboard on unusual stores: wrong results, too few blocks, unreadable folders, names in other encodings, copies,
and stores with only campaigns or only imports."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.__main__ import main
from reports.site.fleet_page import plot
from reports.store import result
from reports.tables.page import Page, Section, to_html
from reports.trends.fleet_groups import load
from tests.launch import ROOT
from tests.reports.site.test_dashboard import SMALL, Read, page_of
from tests.reports.synthetic_campaign import no_effect, slower, write_campaign
from tests.reports.synthetic_fleet import write_fleet
from tests.reports.synthetic_run import mark_wrong, write_run
from tests.reports.synthetic_site import LOG, SPEC, make_site

SMALLEST: dict[str, Any] = SMALL | {"sizes": [16384], "algorithms": ["library", "two_shot"]}


def run_id(night: int, name: str = "made") -> str:
    return f"2026-11-{night:02d}T06-15-00Z-allreduce-{name}"


def write_wrong(folder: Path, night: int) -> Path:
    """Writes a run of two cases; one case has wrong results."""
    path = write_run(folder, run_id=run_id(night), **SMALLEST).path
    mark_wrong(path, 1)
    return path


def cards_of(site: Path) -> list[str]:
    """The texts of the cards: worse, better, unknown, last run."""
    cards = (site / "index.html").read_text().partition("</ul>")[0].split("<li>")[1:]
    return [" ".join(re.sub("<[^>]*>", " ", card).split()) for card in cards]


def test_wrong_results_are_worse_until_a_right_run_follows(tmp_path):
    """Otherwise the dashboard would report no problem after a kernel starts to compute wrong sums."""
    results = tmp_path / "results"
    write_run(results, run_id=run_id(1), **SMALLEST)
    for night in (2, 3):
        mark_wrong(write_run(results, run_id=run_id(night), **SMALLEST).path, 1)
    worse, _, unknown, _ = cards_of(make_site(results, tmp_path / "site"))
    assert (
        "The newest run: allreduce: WRONG RESULTS in 1 of 2 cases"
        in Read(tmp_path / "site" / "index.html").text
    )
    assert worse.startswith("1 worse")
    assert "WRONG" in worse
    assert unknown.startswith("2 unknown")  # one run has no history
    links = [attrs["href"] for attrs in Read(tmp_path / "site" / "index.html").all("a")]
    assert page_of(tmp_path / "site", "run-2026-11-02").name in links
    write_run(results, run_id=run_id(4), **SMALLEST)
    assert cards_of(make_site(results, tmp_path / "site"))[0].startswith("0 worse")
    assert "The newest run: allreduce: 16 KiB " in Read(tmp_path / "site" / "index.html").text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"n_blocks": 4}, "too few blocks"),
        ({}, "too early"),
        ({"status": "incomplete"}, "in no run that a history can use"),
    ],
)
def test_cases_without_a_verdict_are_unknown_with_the_reason(tmp_path, options, why):
    """Otherwise a store with one short run would look like a store without regressions."""
    write_run(tmp_path / "results", **SMALLEST | options)
    worse, better, unknown, _ = cards_of(make_site(tmp_path / "results", tmp_path / "site"))
    assert worse.startswith("0 worse 0 of 2")
    assert better.startswith("0 better 0 of 2")
    assert unknown.startswith("2 unknown 2 of 2")
    assert why in unknown


def test_a_file_may_have_any_name(tmp_path, capsys):
    """A name in another encoding must not end the build, and a control character must not reverse the text after it."""
    results = tmp_path / "results"
    write_run(results, **SMALLEST)
    for name in (
        b"\xff\xfe.jsonl",
        b"\xff.toml",
        b"\xfe.toml",
        "a\x1b[31m\n\u202eb.jsonl".encode(),
    ):
        Path(os.fsdecode(os.path.join(os.fsencode(results), name))).touch()
    site = make_site(results, tmp_path / "site")
    assert "??.jsonl is empty" in capsys.readouterr().err
    assert "??.jsonl is empty" in Read(site / "index.html").text
    assert "a?[31m??b.jsonl is empty" in Read(site / "index.html").text
    assert len(list(site.glob("procure-*.html"))) == 2
    assert not any(
        re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\ud800-\udfff]", page.read_text())
        for page in site.glob("*.html")
    )


def test_an_unreadable_folder_is_named_and_the_rest_is_shown(tmp_path):
    """An unreadable folder must not end the command, and the pages must name it."""
    results = tmp_path / "results"
    write_run(results, **SMALLEST)
    write_campaign(results / "campaign-1", {"main": no_effect, "new": slower(5)}, fresh=0)
    (results / "campaign-1" / "new").chmod(0)
    (results / "closed").mkdir(mode=0)
    (results / "listed").mkdir()
    (results / "listed" / "run.jsonl").touch()
    (results / "listed").chmod(0o444)
    # Without these capabilities, file modes restrict root, too.
    allowed = (
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in ("dashboard results -o site", "history results"):
        done = subprocess.run(
            [*allowed, sys.executable, "-m", "reports", *command.split()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    overview = Read(tmp_path / "site" / "index.html").text
    for words in (
        "closed is a folder that cannot be read",
        "listed/run.jsonl cannot be read",
        "campaign-1",
    ):
        assert words in overview
    assert "a folder that cannot be read: 2 (" in done.stdout


def test_no_page_shows_the_path_of_the_folder(tmp_path):
    """Published pages would disclose a home folder and its owner's name."""
    home = tmp_path / "home-alice"
    write_run(home / "out", status="incomplete", **SMALLEST)
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "my.toml").write_text(
        SPEC.replace("2026-*", "../../home-alice/missing/*")
    )
    (home / "elsewhere" / "torn.toml").write_text("=")
    words = ["dashboard", str(home / "out"), "-o", str(tmp_path / "site")]
    for spec in ("my.toml", "torn.toml"):
        words += ["--spec", str(home / "elsewhere" / spec)]
    assert main(words) == 2  # a spec given with --spec is unusable
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) == 5
    for page in pages:
        assert "alice" not in page.read_text(), page


def test_the_complete_copy_counts_and_a_run_without_a_time_is_not_the_last_run(tmp_path):
    """A truncated copy must not replace the run, and a run without a time must not look like the latest."""
    results = tmp_path / "results"
    whole = write_run(results / "b", **SMALLEST).path.read_text()
    for place in ("a", "c"):
        (results / place).mkdir()
        (results / place / "cut.jsonl").write_text(whole[: len(whole) // 2])
    write_run(results, **SMALLEST | {"run_id": "zzz"})
    site = make_site(results, tmp_path / "site")
    assert cards_of(site)[3] == "last run 2026-11-20 06:15 UTC: allreduce on a1b2c3"
    overview = Read(site / "index.html").text
    assert len(re.findall(r"[ac]/cut.jsonl is the run of b/2026", overview)) == 2
    assert "Run of 2026-11-20 06:15 UTC: complete" in Read(page_of(site, "run-2026")).text


def test_worker_processes_end_with_the_command(tmp_path):
    """Otherwise each build that a timeout kills would leave its workers running."""
    for night in range(1, 9):
        write_run(tmp_path / "results", run_id=run_id(night), **SMALL)
    words = [
        sys.executable,
        "-m",
        "reports",
        "dashboard",
        str(tmp_path / "results"),
        "-o",
        str(tmp_path / "site"),
    ]
    command = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    while not (workers := children.read_text().split()):
        time.sleep(0.02)
    time.sleep(0.3)
    command.kill()
    command.wait()
    assert workers

    def is_alive(worker: str) -> bool:
        try:
            return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    until = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))


def test_pages_of_only_campaigns_or_only_imports_are_consistent(tmp_path):
    """The overview must not report an empty store and show verdicts of its runs."""
    write_campaign(
        tmp_path / "campaigns" / "campaign-1", {"main": no_effect, "new": slower(5)}, fresh=0
    )
    page = Read(make_site(tmp_path / "campaigns", tmp_path / "one") / "index.html")
    assert cards_of(tmp_path / "one")[3].startswith("last run 2026-")
    assert "campaign-1" in page.text
    assert "mpirun" in page.text
    assert "Machines and benchmarks" not in page.text
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text(LOG)
    assert (
        main(["import", "--out", str(tmp_path / "imports"), str(tmp_path / "logs" / "a.log")]) == 0
    )
    page = Read(make_site(tmp_path / "imports", tmp_path / "two") / "index.html")
    assert cards_of(tmp_path / "two")[::3] == [
        "0 worse nothing here has a verdict",
        "last run none here was measured",
    ]
    assert not page.all("table")
    assert "software_id" not in page.text
    assert "imported logs" in page.text


def test_each_run_is_read_once(tmp_path, monkeypatch):
    """Otherwise the overview, the run pages and the history would each read the whole store."""
    for night in (1, 2):
        write_run(tmp_path / "results", run_id=run_id(night), **SMALL)
    write_campaign(
        tmp_path / "results" / "campaign-1", {"main": no_effect, "new": slower(5)}, fresh=0
    )
    log, read_lines = tmp_path / "log", result.read_lines

    def logged(path, *arguments):
        with log.open("a") as file:  # several processes append
            file.write(f"{path}\n")
        return read_lines(path, *arguments)

    monkeypatch.setattr(result, "read_lines", logged)
    make_site(tmp_path / "results", tmp_path / "site")
    reads = log.read_text().splitlines()
    assert len(reads) > 10
    assert len(set(reads)) == len(reads)


def test_a_text_is_complete_and_a_long_value_is_truncated():
    """The table of a long run must not be truncated, and a long name must not fill a page."""
    page = Page("a", ["y" * 5000], [Section("a", text="x\n" * 2500)])
    html = to_html(page)
    assert "x\n" * 2500 in html
    assert f"<p>{'y' * 4000} ...</p>" in html


def test_a_column_of_hashes_is_not_aligned_like_numbers(tmp_path):
    """Otherwise hashes that begin with a digit would be right-aligned and the others left-aligned."""
    rows = [
        ["a", "1a2b3c", "12.5 [12 13]", "16 KiB"],
        ["b", "c0ffee", "-", "9"],
        ["c", "123456", "<0.1", "85%"],
    ]
    page = Page(
        "a", sections=[Section("a", rows=[dict(zip("abcd", row, strict=True)) for row in rows])]
    )
    (tmp_path / "a.html").write_text(to_html(page))
    assert [attrs.get("class") for attrs in Read(tmp_path / "a.html").all("td")] == [
        None,
        "n",
        "n",
    ] * 3


def test_a_store_of_several_nodes_has_a_page_of_the_fleet(tmp_path):
    """One slow node of many must not drown among them, and one node needs no such page."""
    write_fleet(tmp_path / "one", ["n1"], runs=1)
    assert not (make_site(tmp_path / "one", tmp_path / "site-1") / "fleet.html").exists()
    paths = write_fleet(
        tmp_path / "many", [f"n{number}" for number in range(8)], slower={"n3": 0.2}
    )
    mark_wrong(paths[-1])
    site = make_site(tmp_path / "many", tmp_path / "site-2")
    page = Read(site / "fleet.html")
    for words in ("n7 WRONG; n3 SLOW +", "n7\nWRONG", "slower than the median"):
        assert " ".join(words.split()) in " ".join(page.text.split())
    assert "The fleet: n7 WRONG; n3 SLOW +" in Read(site / "index.html").text
    of_nodes = {path.name for path in site.glob("node-*.html")}
    assert {attrs.get("href") for attrs in page.all("a")} >= of_nodes, "each node leads to its page"
    assert "Wrong, failed or still running" in page.text


def test_labels_of_slow_neighbours_do_not_cover_each_other(tmp_path):
    """As in a slow rack: the slowest has its label."""
    slow = {"r1-n07": 0.2, "r1-n08": 0.3, "r1-n09": 0.2}
    write_fleet(tmp_path, [f"r{number // 6}-n{number:02d}" for number in range(24)], slower=slow)
    (group,) = load(tmp_path).groups
    assert {group.names[row] for row in np.flatnonzero(group.screen.is_named)} == {*slow}
    picture = io.StringIO()
    plot(group, picture)
    assert re.findall(r">(r1-n\d\d) ", picture.getvalue()) == ["r1-n08"]
