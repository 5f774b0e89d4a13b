"""The dashboard on unusual stores: wrong results, too few blocks, unreadable folders, names in
other encodings, copies, and stores with only campaigns or only imports."""

import os
import re
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from reports.site import overview
from reports.site.history_page import history_page
from reports.site.shared import find
from tests.bench.faulty_runs import wait_for
from tests.launch import ROOT
from tests.reports.site.test_dashboard import SMALL, Read, page_of
from tests.reports.synthetic_campaign import no_effect, write_campaign
from tests.reports.synthetic_fleet import write_fleet
from tests.reports.synthetic_run import ONE, mark_wrong, rewrite_head, write_run
from tests.reports.synthetic_site import make_site


def run_id(night, name="made"):
    return f"2026-11-{night:02d}T06-15-00Z-allreduce-{name}"


def test_wrong_results_are_listed_until_a_right_run_follows(tmp_path):
    """Otherwise the dashboard would report no problem after a kernel starts to compute wrong
    sums."""
    results, heading = tmp_path / "results", "Wrong results that no correct run has followed"
    write_run(results, run_id=run_id(1), **SMALL)
    mark_wrong(write_run(results, run_id=run_id(2), **SMALL).path, 1)
    page = Read(make_site(results, tmp_path / "site") / "index.html")
    assert "WRONG RESULTS" in page.text
    assert heading in page.text
    links = [attrs["href"] for attrs in page.all("a")]
    assert page_of(tmp_path / "site", "run-2026-11-02").name in links
    write_run(results, run_id=run_id(3), **SMALL)
    page = Read(make_site(results, tmp_path / "site") / "index.html")
    assert heading not in page.text


def test_wrong_launches_of_a_campaign_are_on_the_first_page(tmp_path):
    """`history` named them, and the page of this store said SAME."""
    results = tmp_path / "results"
    folder = write_campaign(
        results / "campaign", {"a": no_effect, "b": no_effect}, pairs=6, **SMALL
    )
    last = max(folder.glob("*/*.jsonl"), key=lambda path: path.name)
    mark_wrong(last, 0)
    page = Read(make_site(results, tmp_path / "site") / "index.html")
    assert "WRONG RESULTS" in page.text
    assert "Wrong results that no correct run has followed" in page.text
    assert "UNUSABLE" in page.text
    for run in folder.glob("*/*.jsonl"):
        mark_wrong(run, 0)
    page = Read(make_site(results, tmp_path / "site") / "index.html")
    assert "12 runs, the last:" in page.text, "also if no run is left for a history"


def test_worker_processes_end_with_the_command(tmp_path):
    """Otherwise each build that a timeout kills would leave its workers running."""
    for night in range(1, 9):
        write_run(tmp_path / "results", run_id=run_id(night), **SMALL)
    command = subprocess.Popen(
        [sys.executable, "-m", "reports", "dashboard", "results", "-o", "site"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    group = psutil.Process(command.pid)
    workers = set(wait_for(group.children))
    time.sleep(0.3)
    command.kill()
    command.wait()

    def running():
        """The workers that are no zombies, which a container may keep."""
        found = psutil.process_iter(["status"])
        return workers & {each for each in found if each.info["status"] != psutil.STATUS_ZOMBIE}

    wait_for(lambda: not running(), 10)


def test_a_store_of_several_nodes_has_a_page_of_the_fleet(tmp_path, monkeypatch):
    """One slow node of many must not drown among them."""
    monkeypatch.setattr(overview, "MOST_RUNS", 1)  # with a page
    names = [f"n{number}" for number in range(5)]
    paths = write_fleet(tmp_path / "many", names, slower={"n3": 0.2})
    mark_wrong(paths[-1])
    site = make_site(tmp_path / "many", tmp_path / "site")
    page = Read(site / "fleet.html")
    assert "n4 WRONG; n3 SLOW +" in " ".join(page.text.split())
    paths[-1].unlink()
    index = (make_site(tmp_path / "many", site) / "index.html").read_text()
    assert "<h1>n3 SLOW +" in index  # the worst of all reports
    assert "16 KiB library" not in index  # of one of five nodes


def test_the_fleet_links_to_the_run_with_wrong_results(tmp_path, monkeypatch):
    """Of the runs of twenty nodes only the newest had pages, and the wrong one was an old one."""
    monkeypatch.setattr(overview, "MOST_RUNS", 1)  # with a page
    paths = write_fleet(tmp_path / "many", [f"n{number}" for number in range(5)])
    mark_wrong(paths[0])
    site = make_site(tmp_path / "many", tmp_path / "site")
    links = [attrs["href"] for attrs in Read(site / "fleet.html").all("a")]
    assert page_of(site, f"run-{paths[0].stem}").name in links


def test_a_suspect_node_comes_before_what_is_too_early(tmp_path):
    """One run of each of ten nodes finds a slow one, long before a history says anything."""
    write_fleet(tmp_path / "runs", [f"n{number}" for number in range(10)], 1, slower={"n3": 0.2})
    page = (make_site(tmp_path / "runs", tmp_path / "site") / "index.html").read_text()
    assert "<h1>n3 SUSPECT +" in page


def test_too_few_nodes_to_compare_is_no_verdict_on_the_runs(tmp_path):
    """Two machines in one folder are no fleet, and its page finds nothing."""
    write_fleet(tmp_path / "results", ["n1", "n2"], runs=1)
    page = Read(make_site(tmp_path / "results", tmp_path / "site") / "index.html")
    assert "Too few nodes" in page.text, "in the table of pages"
    assert "Too few nodes" not in page.text.partition("Machines and benchmarks")[0]
    assert "Too early" in page.text


def test_an_unreadable_folder_is_named_and_the_rest_is_shown(tmp_path):
    """An unreadable folder must not end the command, and the pages must name it."""
    results = tmp_path / "results"
    write_run(results, **SMALL)
    (results / "closed").mkdir(mode=0)
    (results / "listed").mkdir()
    (results / "listed" / "run.jsonl").touch()
    (results / "listed").chmod(0o444)
    command = [sys.executable, "-m", "reports", "dashboard", "results", "-o", "site"]
    if os.geteuid() == 0:  # file modes restrict root only without these capabilities
        if not shutil.which("setpriv"):
            pytest.skip("system tool absent: setpriv")
        command[:0] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    text = Read(tmp_path / "site" / "index.html").text
    assert "closed is a folder that cannot be read" in text
    assert "listed/run.jsonl cannot be read" in text


def test_a_case_that_changed_twice_is_drawn_once(tmp_path):
    """The case that changed stood with its change, with the next one, and alone in its panel."""
    for night in range(30):
        write_run(
            tmp_path / "results",
            run_id=f"2026-10-{night + 1:02d}T06-15-00Z-allreduce-{night}",
            sizes=[16384],
            algorithms=["auto"],
            modes=["isolated"],
            n_blocks=6,
            n=4,
            seed=night,
            scale=1.3 ** ((night > 9) + (night > 19)),
        )
    sections = history_page(find(tmp_path / "results").history).sections
    assert sum("longer since" in section.heading for section in sections) == 2
    (chart,) = (chart for section in sections for chart in section.charts)
    assert len(chart.steps) == 2


def test_git_ignores_the_default_place_in_a_checkout():
    """Pages are made anew from the runs, and `git status` must not name them."""
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    done = subprocess.run(["git", "check-ignore", "-q", "site/index.html"], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_many_cards_are_grouped_by_machine_and_the_early_ones_share_a_line(tmp_path):
    """Those that said nothing yet hid the others, in no order of machines."""
    benchmarks = "allgather", "allreduce", "alltoall"
    for number in range(3):
        for place, name in enumerate(benchmarks):
            for day in range(22 if number and place else 2):
                run_id = f"2026-11-{day + 1:02}T0{number}-{place:02}-00Z-{name}-{number}"
                made = write_run(tmp_path / "runs", run_id=run_id, n_blocks=6, **ONE)
                rewrite_head(made.path, benchmark=name, machine_id=f"m{number}")
    path = make_site(tmp_path / "runs", tmp_path / "site") / "index.html"
    found = re.findall(r"<h3[^>]*>(?:<a [^>]*>)?([^<]+)", path.read_text())
    cards = [text for text in found if " on " in text]
    assert cards == [
        f"{name} on AMD EPYC 9B45 ({machine})"
        for machine in ("m2", "m1")
        for name in ("alltoall", "allreduce")
    ]
    assert found[::3] == ["AMD EPYC 9B45 (m2)", "AMD EPYC 9B45 (m1)"]
    early = Read(path).text.partition("Too early to tell a change")[2]
    for machine, names in (("m2", ["allgather"]), ("m0", [*reversed(benchmarks)])):
        said = " ".join(f"{name} (2 of 11 runs)" for name in names)
        assert f"AMD EPYC 9B45 ({machine}): {said}" in " ".join(early.split())
