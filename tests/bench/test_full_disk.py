"""A full disk or a read-only folder before, during and after a run: the user gets one sentence and
a documented status, former files stay complete, and no file is half written."""

import re
import sys
import threading
import time
from typing import Any

import pytest

from bench import gate
from reports.__main__ import main
from reports.tables.show import text
from tests.bench.campaigns.test_campaign_command import QUICK, named
from tests.bench.faulty_runs import blocks_in
from tests.bench.launches import launch, stored
from tests.bench.small_disk import Disk
from tests.launch import end_of
from tests.reports.imports.test_import_formats import WHOLE
from tests.reports.synthetic_campaign import no_effect, write_campaign
from tests.reports.synthetic_run import write_run
from wiretax.record.manifest import MANIFEST, read_manifest
from wiretax.record.result import read

SMALL = "-b 16K -e 16K --mode isolated --algorithm ring,library --max-time 20"
FULL = "No space left on device"
READ_ONLY = "Read-only file system"
TIGHT: dict[str, Any] = {
    "sizes": [16384],
    "algorithms": ["library", "auto"],
    "modes": ["isolated"],
    "n": 5,
}


@pytest.fixture
def disk_of(tmp_path):
    """Makes a disk of a given size in bytes."""
    made: list[Disk] = []

    def make(size_bytes):
        try:
            made.append(Disk(tmp_path / f"disk{len(made)}", size_bytes))
        except OSError as error:
            pytest.skip(str(error))
        return made[-1]

    yield make
    for disk in made:
        disk.close()


def files(folder):
    """Everything below `folder` with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def half_written(folder):
    return [path.name for path in folder.rglob("*.part")]


def when(condition, act):
    """Runs `act` in the background as soon as the condition is true."""

    def watch():
        late_s = time.monotonic() + 60
        while not condition() and time.monotonic() < late_s:
            time.sleep(0.002)
        act()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize("why", [FULL, READ_ONLY])
def test_a_run_that_cannot_be_stored_does_not_start(disk_of, why):
    disk = disk_of(1 << 20)
    results = disk.at / "results"
    write_run(results, **TIGHT)
    disk.fill() if why == FULL else disk.make_read_only()
    before = files(disk.at)
    done = launch(results, SMALL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"bench.allreduce: rank 0: {results} cannot be written: {why}\n"
    assert files(disk.at) == before


def test_a_disk_that_fills_during_a_run_loses_no_stored_block(disk_of):
    disk = disk_of(2 << 20)
    out, seen = disk.at / "results", list[int]()

    def strike():
        seen.append(blocks_in(out))
        disk.fill()

    when(lambda: blocks_in(out) > 2, strike)
    done = launch(out, SMALL, "-n 0")
    result = stored(out)
    failure = f": {result.path} cannot be written: {FULL}"
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(rf"wiretax: rank 0 failed: .*{re.escape(failure)}\n", done.stderr)
    assert len(result.blocks) >= seen[0] > 2
    assert "INCOMPLETE: the run was cut off." in text(result)
    assert not half_written(disk.at)


def test_a_campaign_reports_a_full_disk_once_and_keeps_its_launches(disk_of):
    disk = disk_of(8 << 20)
    folder = disk.at / "campaign"
    manifest = folder / MANIFEST
    when(lambda: manifest.exists() and b'"finished"' in manifest.read_bytes(), disk.fill)
    words = ["--out", disk.mounted / "campaign", "--pairs", "4", *named(a=QUICK, b=QUICK)]
    done = end_of(*disk.inside(sys.executable, "-m", "bench.campaign", *words))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == done.stderr.count(FULL) == 1
    assert done.stderr.startswith("bench.campaign: ")
    launches = read_manifest(folder).launches
    runs = [launch.run for launch in launches if launch.status == "finished"]
    assert runs
    assert all(read(folder / str(run)).complete for run in runs)
    assert not half_written(folder)


def test_a_gate_whose_disk_is_full_leaves_no_pass_but_a_status(disk_of, monkeypatch):
    """Files that fitted onto the disk said PASS, and no status contradicted them."""
    disk = disk_of(900_000)
    folder = disk.at / "gate"

    def launch(*_):
        write_campaign(folder, {"base": no_effect, "head": no_effect}, pairs=6)
        disk.fill()
        with (disk.at / "filler").open("ab") as file:
            file.truncate(file.tell() - 20_000)  # enough for the summary

    monkeypatch.setattr(gate, "run_launches", launch)
    assert gate.main(["--base=true", "--head=true", "--out", str(folder), "--quiet"]) == 2
    assert (folder / "status").read_text() == "2\n"
    texts = [path.read_text(errors="replace") for path in folder.glob("*.*")]
    assert not [text for text in texts if "PASS" in text]


def test_a_gate_on_a_full_disk_has_the_status_that_it_returns(disk_of):
    """The file said 130: a new one in its place did not fit any more."""
    disk = disk_of(1 << 20)
    line = '{"collective": "all_reduce", "size_bytes": 16384, "time_us": 5, "ranks": 2}'
    (disk.at / "mine.sh").write_text(f"echo '{line}'; head -c 2M /dev/zero >{disk.mounted}/filler")
    side = f"sh {disk.mounted}/mine.sh"
    words = ["--base", side, "--head", side, "--out", disk.mounted / "gate"]
    done = end_of(*disk.inside(sys.executable, "-m", "bench.gate", *words))
    assert done.returncode in (2, 5), done.stderr
    assert (disk.at / "gate" / "status").read_text() == f"{done.returncode}\n"


def test_files_of_reports_are_complete_or_unchanged(disk_of, tmp_path, capsys):
    disk = disk_of(16 << 20)
    run = write_run(tmp_path / "results", **(TIGHT | {"sizes": [16384, 65536, 262144]})).path
    campaign = write_campaign(tmp_path / "campaign", {"main": no_effect, "new": no_effect})
    log, to = tmp_path / "a.log", disk.at
    log.write_text(WHOLE)
    sides = f"--baseline {campaign}/main --current {campaign}/new"
    commands = {
        "a.svg": f"show {run} --plot",
        "junit.xml": f"regress {sides} --junit",
        "imported": f"import {log} --out",
        "site": f"dashboard {tmp_path}/results -o",
    }
    for name in commands:
        if "." in name:
            (to / name).write_text("former")
    assert main(["dashboard", str(tmp_path / "results"), "-o", str(to / "site")]) == 0
    for damage, why in ((disk.fill, FULL), (disk.make_read_only, READ_ONLY)):
        damage()
        before = files(to)
        for name, line in commands.items():
            capsys.readouterr()
            status = main([*line.split(), str(to / name)])
            printed = capsys.readouterr()
            assert (status, printed.err.count("\n")) == (2, 1), (name, printed)
            assert printed.err.startswith("reports: "), (name, printed)
            assert printed.err.endswith(f": {why}\n"), (name, printed)
            assert files(to) == before, name
