"""The store under what happens to a folder of results: runs that are killed, many writers at once, clocks that are put
right. Nothing that was measured is lost, and nothing passes for later than it was."""

import json
import random
import re
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.__main__ import main
from reports.site import store as site_store
from reports.store.order import HEAD_BYTES, latest, places
from reports.store.result import read
from reports.store.schema import Run
from reports.trends import history
from reports.verdicts.sides import side_of
from tests import kill_writers, store_writers
from tests.launch import ROOT, mpirun
from tests.synthetic_run import write_run

WRITERS = 64
QUICK = ["-b", "16K", "-e", "16K", "--mode", "isolated", "--algorithm", "ring", "-n", "60", "--lean"]


def test_runs_that_are_killed_keep_what_was_measured_and_are_shown_as_what_they_are(capsys):
    assert kill_writers.campaign(4, seed=random.randrange(1 << 30)) == [], capsys.readouterr().out


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "control"])
def test_many_processes_that_write_into_one_folder_lose_no_run(tmp_path, claimed):
    """In the control nobody claims his name, so runs are lost: else this would say nothing."""
    words = [sys.executable, "-m", "tests.store_writers", str(tmp_path / "runs"), str(WRITERS)]
    writers = subprocess.Popen([*words, *["unclaimed"] * (not claimed)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    met = 0
    while writers.poll() is None:  # a reader at the same time
        if not (tmp_path / "runs").is_dir():
            continue
        found = site_store.find(tmp_path / "runs")
        assert found.left_out == []
        whole = [result for result in found.results if result.complete]
        assert all(len(one.blocks) == store_writers.BLOCKS * store_writers.CASES for one in whole)
        met = max(met, len(found.results) - len(whole))
    assert met > 1  # it did read runs that were being written
    lost = int(writers.communicate()[0])
    results = [read(path) for path in (tmp_path / "runs").glob("*.jsonl")]
    assert (lost == 0) == claimed
    assert len(results) == WRITERS - lost
    for result in results:
        assert result.complete
        assert {block.time_us for block in result.blocks} == {1.0 + result.run.seed}
    assert len({result.run.seed for result in results}) == len(results)
    assert {path.suffix for path in (tmp_path / "runs").iterdir()} == {".jsonl", ".samples"}


def test_a_clock_that_jumps_back_does_not_turn_the_order_of_runs_around(tmp_path):
    out = tmp_path / "results"
    clocks = ["2026-11-20T12:00:00", "2026-11-20T11:00:00", "2026-11-20T11:30:00"]
    for clock in clocks:
        done = mpirun(1, "tests/clock_ranks.py", clock, *QUICK, "--out", str(out))
        assert done.returncode == 0, done.stderr

    def orders():
        found = (history.load(out).runs.values(), [one.run for one in site_store.find(out).results],
                 [launch.result.run for launch in side_of(str(out), []).launches])
        return [[run.run_id[11:19] for run in runs] for runs in found]

    assert orders() == [["12-00-00", "11-00-00", "11-30-00"]] * 3
    for path in out.glob("*.jsonl"):  # the control: without what each run came after, the clock decides, wrongly
        path.write_text(re.sub(r'"after":\[[^]]*\]', '"after":[]', path.read_text()))
    assert orders() == [["11-00-00", "11-30-00", "12-00-00"]] * 3


def test_an_empty_file_among_runs_is_passed_over_with_a_sentence(tmp_path, capsys):
    """A power cut, or a copy to a full disk, may leave one; it must not stop who looks at the whole folder."""
    for side in ("a", "b"):
        run_id = f"2026-11-20T06-15-00Z-allreduce-{side}"
        write_run(tmp_path / side, sizes=[16384], algorithms=["library"], modes=["isolated"], run_id=run_id)
        (tmp_path / side / "2026-11-20T06-15-01Z-allreduce-000000.jsonl").touch()
    for words, said in ((("compare", "a", "b"), "000000.jsonl is empty: left out"),
                        (("history", "a"), "left out, not a run that can be read: 1"),
                        (("dashboard", "a", "-o", "site"), "000000.jsonl is empty, not a run file")):
        assert main([words[0], *(word if word.startswith("-") else str(tmp_path / word) for word in words[1:])]) == 0
        out, err = capsys.readouterr()
        assert said in " ".join((out + err).split()).replace("- ", "-")


def run(run_id, after=()):
    return Run(run_id=run_id, after=list(after), benchmark="allreduce", version="0", argv=[], seed=0, machine_id="a",
               software_id="b", environment={}, world={"size": 2}, cases=[])


def at(hour, name="a"):
    return f"2026-11-20T{hour:02}-00-00Z-allreduce-{name}"


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_with_clocks_that_are_right_the_order_is_that_of_the_times_whatever_was_copied_or_deleted(data):
    ids = [at(number // 4, f"{number % 4}") for number in range(data.draw(st.integers(1, 40)))]
    runs = [run(run_id, data.draw(st.lists(st.sampled_from(ids[:place] or ["gone"]), max_size=3)))
            for place, run_id in enumerate(ids)]
    kept = data.draw(st.lists(st.sampled_from(runs), unique_by=lambda one: one.run_id))
    assert [*places(kept)] == sorted(one.run_id for one in kept)


def test_of_runs_whose_order_somebody_has_altered_none_is_left_out():
    altered = [run(at(3), [at(2)]), run(at(2), [at(3)]), run(at(1), [at(1)]), run("no time")]
    assert [*places(altered)] == ["no time", at(1), at(3), at(2)]


def test_a_long_chain_whose_last_clock_was_wrong_stays_in_order():
    chain = [f"{2000 + number}-01-01T00-00-00Z-a" for number in range(3000)] + ["1970-01-01T00-00-00Z-a"]
    runs = [run(run_id, chain[place - 1:place]) for place, run_id in enumerate(chain)]
    assert [*places(runs)] == chain


def test_a_run_names_all_that_went_on_at_the_same_time_before_it(tmp_path):
    def put(run_id, after):
        said = {} if after is None else {"after": after}
        head = {"kind": "run", "run_id": run_id} | said | {"benchmark": "allreduce"}
        (tmp_path / f"{run_id}.jsonl").write_text(json.dumps(head, separators=(",", ":")) + "\n")

    assert latest(tmp_path) == []
    put(at(4), None)
    put(at(5), None)  # of a version that did not say
    assert latest(tmp_path) == [at(5)]
    put(at(1), [at(5)])
    put(at(2), [at(5)])
    (tmp_path / "campaign.jsonl").write_text("{}\n")
    assert latest(tmp_path) == [at(1), at(2)]
    put(at(0), [at(1), at(2)])
    assert latest(tmp_path) == [at(0)]


def test_of_many_runs_only_the_names_are_held(tmp_path):
    for number in range(100):
        (tmp_path / f"{at(number)}.jsonl").write_bytes(b'{"after":[]}'.ljust(HEAD_BYTES))
    tracemalloc.start()
    try:
        assert len(latest(tmp_path)) == 64
        assert tracemalloc.get_traced_memory()[1] < 20 * HEAD_BYTES
    finally:
        tracemalloc.stop()
