"""The observations of a folder of runs: the reports say the same with its cache and without it, and
one rule says which runs count."""

import shutil
from operator import itemgetter
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import pytest

from reports.__main__ import main
from tests.another_user import as_root, give, link_of_nobody
from tests.reports.synthetic_nights import write_night
from tests.reports.synthetic_run import mark_wrong, rewrite_cases, run_id, write_run
from wiretax.record import cache
from wiretax.record import folder as folders
from wiretax.record.folder import CACHED_RUNS, read_store
from wiretax.record.observations import costs_of, entry_of, table
from wiretax.record.result import read

SMALL = {
    "sizes": [16384, 65536],
    "algorithms": ["library", "two_shot"],
    "modes": ["isolated"],
    "n": 4,
}


def write(folder, night, **options):
    """Writes a run whose link is in another state for a while."""
    fast = range(night % 3, night % 3 + 3)
    made = {"n_blocks": 12, "fast_rounds": fast, "seed": night, "run_id": run_id(night)}
    return write_run(folder, **SMALL | made | options).path


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Eight nights, one of which was cut off and one wrong, a copy, and a file that is no run."""
    folder = tmp_path / "results"
    for night in range(8):
        write(folder / f"week{night // 4}", night, finish=night != 5)
    mark_wrong(folder / "week1" / f"{run_id(6)}.jsonl")
    shutil.copy(folder / "week0" / f"{run_id(1)}.jsonl", folder / "copy.jsonl")
    (folder / "other.jsonl").write_text("hello\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def cached(results, monkeypatch):
    """The same folder with a cache, which the file that is no run is in no part of."""
    monkeypatch.setattr(folders, "CACHED_RUNS", 4)
    assert files_read(results) == 10
    assert files_read(results) == 1
    return results


def files_read(folder):
    """How many files a report on the folder reads, the others being in the cache."""
    with mock.patch.object(folders, "read", wraps=read) as reading:
        read_store(folder)

    return reading.call_count


def said(folder, capsys):
    assert main(["history", str(folder), "--json"]) == 0
    return capsys.readouterr().out


def test_reports_are_the_same_with_and_without_the_cache(results, cached, capsys, monkeypatch):
    with_cache = said(cached, capsys)
    monkeypatch.setattr(folders, "CACHED_RUNS", CACHED_RUNS)
    assert said(results, capsys) == with_cache
    beside = {path.suffix for path in results.rglob("*")} - {""}
    assert beside == {".jsonl"}  # the cache lies elsewhere


def test_a_new_run_is_added_and_a_changed_one_read_again(cached):
    write(cached / "week1", 20)
    assert files_read(cached) == 2  # and the file that is no run
    cut_off = cached / "week1" / f"{run_id(5)}.jsonl"
    cut_off.write_bytes(cut_off.read_bytes()[:-100])  # a run that is being written grows
    shutil.rmtree(cached / "week0")
    assert files_read(cached) == 2
    assert len(read_store(cached).entries) == 6


@pytest.mark.parametrize("damage", ["cut", "empty", "folder", "bit", "code"])
def test_a_cache_that_is_damaged_or_of_other_code_costs_time_and_no_run(
    cached, capsys, tmp_path, damage, monkeypatch
):
    before = said(cached, capsys)
    [path] = (tmp_path / "cache/wiretax").iterdir()
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "bit":  # in the figures of the last run
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "code":
        path.write_bytes(content)
        monkeypatch.setattr(cache, "CODE", b"other code")
    else:
        path.write_bytes(content[: 1000 * (damage == "cut")])
    assert files_read(cached) == 10
    assert said(cached, capsys) == before


@as_root
@pytest.mark.parametrize("whose", ["cache", "parent", "file", "writable"])
def test_a_cache_that_another_user_could_write_is_not_believed(
    cached, open_folder, monkeypatch, whose
):
    """As root with a user's HOME: a figure that nobody measured was reported."""
    (open_folder / "home").mkdir(mode=0o755)  # else nobody could enter it
    monkeypatch.setenv("XDG_CACHE_HOME", str(open_folder / "home" / "cache"))
    assert [files_read(cached) for _ in range(2)] == [10, 1]
    folder = open_folder / "home" / "cache" / "wiretax"
    [file] = folder.iterdir()
    if whose == "file":
        link_of_nobody(folder / "link", give(file).rename(open_folder / "theirs"))
        (folder / "link").rename(file)
    elif whose == "writable":
        folder.chmod(0o777)
    else:
        give({"cache": folder, "parent": folder.parent}[whose])
    assert files_read(cached) == 10


def test_an_observation_is_the_median_cost_of_the_blocks_that_count(tmp_path):
    """Not of blocks between states, or in the other; a block without probes counts."""

    def change(block):
        trips = {0: None, 1: (100.0, 300.0)}.get(block.round, block.link_rtt_ns)
        us = 10.0 + block.round + 100 * (block.link_rtt_ns[0] > 200)
        return msgspec.structs.replace(block, link_rtt_ns=trips, total_us=us, time_us=us)

    path = write(
        tmp_path,
        0,
        change=change,
        n_blocks=13,
        fast_rounds=range(9),
        algorithms=["auto"],
    )
    rows, planned = table([entry_of(read(path))])
    assert len(planned) == 2
    assert rows.n_blocks.tolist() == [8, 8]  # rounds 0, 2 to 8
    assert rows.cost_us[0] == 14.5


def test_an_observation_has_the_percentiles_that_its_run_keeps(tmp_path):
    """A report on months of runs would read all their blocks again, or show a P99 of 0."""
    new = entry_of(read(write_night(tmp_path, 1)))
    old = entry_of(read(write(tmp_path, 2)))
    kept = [case.step_p99_us.value for case in read(new.path).cases if case.step_p99_us]
    steps_us, planned = costs_of([new, old], figure=itemgetter("step_p99_us"))
    assert len(planned) == len(kept) == 4
    assert steps_us[0] == pytest.approx(kept, rel=1e-6)
    assert np.isnan(steps_us[1]).all()
    few = new.observed["step_p999_us"]  # of 1,200 steps
    assert np.isnan(few).all()


def test_the_cache_keeps_percentiles(tmp_path, monkeypatch):
    for night in range(4):
        write_night(tmp_path / "results", night)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "CACHED_RUNS", 2)
    first, again = (
        [each.observed for each in read_store(tmp_path / "results").entries] for _ in "12"
    )
    assert files_read(tmp_path / "results") == 0
    assert [each.tobytes() for each in first] == [each.tobytes() for each in again]
    assert first[0]["step_p99_us"].min() > 0


def test_a_large_folder_is_read_by_several_processes(results, monkeypatch):
    alone = [entry.path for entry in read_store(results).entries]
    monkeypatch.setattr(folders, "CHUNK_RUNS", 2)
    assert [entry.path for entry in read_store(Path(results)).entries] == alone


@pytest.mark.parametrize("chunk_runs", [2, 64])
def test_runs_share_their_plan_however_they_were_read_but_none_that_differs(
    results, monkeypatch, chunk_runs
):
    """Of 10,000 runs of 200 cases, each with its own, the cases take gigabytes. Runs whose keys are
    equal may differ in what `auto` chose."""
    monkeypatch.setattr(folders, "CHUNK_RUNS", chunk_runs)
    monkeypatch.setattr(folders, "CACHED_RUNS", 4)
    other = results / "week0" / f"{run_id(2)}.jsonl"
    rewrite_cases(other, lambda case: case.update(chosen="ring"))
    for _ in ("read", "from the cache"):
        entries = read_store(results).entries
        assert len({entry.plan.keys for entry in entries}) == 1
        assert len({entry.plan for entry in entries}) == 2
        assert all(entry.run.cases is entry.plan.cases for entry in entries)
        [chosen] = {entry.path for entry in entries if entry.plan.cases[0].chosen}
        assert chosen == other


def test_a_run_that_no_pipe_carries_does_not_hide_the_others(tmp_path, monkeypatch):
    paths = [write(tmp_path, number) for number in range(3)]
    nested = '"shape":{"x":' + '{"x":' * 900 + "0" + "}" * 901
    text = paths[0].read_text()
    assert '"shape":null' in text
    paths[0].write_text(text.replace('"shape":null', nested))
    monkeypatch.setattr(folders, "CHUNK_RUNS", 1)
    assert {entry.path for entry in read_store(tmp_path).entries} >= {*paths[1:]}
