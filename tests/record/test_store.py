"""A folder of results with killed runs and many writers at once. No measured block is lost."""

import subprocess
import sys

from reports.site import shared
from tests.launch import ROOT
from tests.ranks import store_writers
from wiretax.record.result import read

WRITERS = 12


def test_many_processes_that_write_into_one_folder_lose_no_run(tmp_path):
    runs = tmp_path / "runs"
    words = [sys.executable, "-m", "tests.ranks.store_writers", str(runs), str(WRITERS)]
    writers = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    most_incomplete = 0
    while writers.poll() is None:  # reads at the same time
        if not runs.is_dir():
            continue
        store = shared.find(runs)
        assert all("left out, incomplete" in sentence for sentence in store.left_out), (
            store.left_out
        )
        complete = [entry for entry in store.runs if entry.complete]
        n_blocks = store_writers.BLOCKS * store_writers.CASES
        assert {entry.observed["n_blocks"].sum() for entry in complete} <= {n_blocks}
        most_incomplete = max(most_incomplete, len(store.runs) - len(complete))
    assert most_incomplete > 1  # some runs were read while their writers still ran
    assert int(writers.communicate()[0]) == 0
    results = [read(path) for path in runs.glob("*.jsonl")]
    assert len({result.run.seed for result in results}) == len(results) == WRITERS
    for result in results:
        assert result.complete
        assert {block.time_us for block in result.blocks} == {1.0 + result.run.seed}
    assert {path.suffix for path in runs.iterdir()} == {".jsonl", ".npz"}
