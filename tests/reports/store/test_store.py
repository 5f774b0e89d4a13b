"""A folder of results with killed runs, many writers at once and corrected clocks. No measured
block is lost, and no run counts as later than it was."""

import json
import random
import subprocess
import sys

from reports.site import shared
from reports.store.result import latest, read
from reports.trends import history
from reports.verdicts.sides import side_of
from tests.launch import ROOT, SLOW_TEST, count, mpirun
from tests.ranks import store_writers
from tests.reliability import kill_writers

WRITERS = 24
QUICK = [
    "-b",
    "16K",
    "-e",
    "16K",
    "--mode",
    "isolated",
    "--algorithm",
    "ring",
    "-n",
    "60",
    "--lean",
]


@SLOW_TEST  # tests/bench/test_faults.py kills ranks at named moments
def test_killed_runs_keep_their_blocks_and_are_shown_as_incomplete(capsys):
    assert kill_writers.campaign(count(6), seed=random.randrange(1 << 30)) == [], (
        capsys.readouterr().out
    )


def test_many_processes_that_write_into_one_folder_lose_no_run(tmp_path):
    runs = tmp_path / "runs"
    words = [sys.executable, "-m", "tests.ranks.store_writers", str(runs), str(WRITERS)]
    writers = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    most_incomplete = 0
    while writers.poll() is None:  # reads at the same time
        if not runs.is_dir():
            continue
        store = shared.find(runs)
        assert store.left_out == []
        complete = [entry for entry in store.runs if entry.complete]
        n_blocks = store_writers.BLOCKS * store_writers.CASES
        assert {entry.n_blocks for entry in complete} <= {n_blocks}
        most_incomplete = max(most_incomplete, len(store.runs) - len(complete))
    assert most_incomplete > 1  # some runs were read while their writers still ran
    assert int(writers.communicate()[0]) == 0
    results = [read(path) for path in runs.glob("*.jsonl")]
    assert len({result.run.seed for result in results}) == len(results) == WRITERS
    for result in results:
        assert result.complete
        assert {block.time_us for block in result.blocks} == {1.0 + result.run.seed}
    assert {path.suffix for path in runs.iterdir()} == {".jsonl", ".samples"}


def test_a_clock_that_jumps_back_keeps_the_order_of_runs(tmp_path):
    out = tmp_path / "results"
    clocks = ["2026-11-20T12:00:00", "2026-11-20T11:00:00", "2026-11-20T11:30:00"]
    for clock in clocks:
        done = mpirun(1, "tests/ranks/clock_ranks.py", clock, *QUICK, "--out", str(out))
        assert done.returncode == 0, done.stderr

    for runs in (
        history.load(out).runs.values(),
        [entry.run for entry in shared.find(out).runs],
        [launch.run for launch in side_of(str(out)).launches],
    ):
        assert [run.run_id[11:19] for run in runs] == ["12-00-00", "11-00-00", "11-30-00"]


def at(hour):
    return f"2026-11-20T{hour:02}-00-00Z-allreduce-a"


def test_a_run_names_all_simultaneous_runs_before_it(tmp_path):
    def put(run_id, after):
        fields = {} if after is None else {"after": after}
        head = {"kind": "run", "run_id": run_id} | fields | {"benchmark": "allreduce"}
        (tmp_path / f"{run_id}.jsonl").write_text(json.dumps(head, separators=(",", ":")) + "\n")

    assert latest(tmp_path) == []
    put(at(4), None)
    put(at(5), None)  # from a version without `after`
    assert latest(tmp_path) == [at(5)]
    put(at(1), [at(5)])
    put(at(2), [at(5)])
    (tmp_path / "campaign.jsonl").write_text("{}\n")
    assert latest(tmp_path) == [at(1), at(2)]
    put(at(0), [at(1), at(2)])
    assert latest(tmp_path) == [at(0)]
