"""The ReFrame check and the sbatch array of examples/, with the real ReFrame. The default suite
starts ranks with mpirun; `make reliability` also uses a real Slurm of two nodes. The gate reads the
runs that they leave.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.cluster import OF_SLURM, cluster, missing
from tests.kernels.broken_kernels import tree
from tests.launch import ROOT, SLOW_TEST, end_of

REFRAME = ROOT / ".venv-reframe" / "bin"
SITE = """site_configuration = {"systems": [{"name": "site", "hostnames": [".*"], "partitions": [
    {"name": "slurm", "scheduler": "squeue", "launcher": "srun", "environs": ["builtin"]},
    {"name": "here", "scheduler": "local", "launcher": "mpirun", "environs": ["builtin"]}]}]}"""
CHECK = ROOT / "examples" / "reframe_wiretax.py"
CASES = "-b 16K -e 16K --mode isolated --iters 240 --algorithm"
PROGRAM = f"'{sys.executable}' -m wiretax"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
LIBRARY = "all_reduce_library_16KiB_us"

pytestmark = pytest.mark.skipif(
    not (REFRAME / "reframe").exists(),
    reason="system tool absent: ReFrame; make .venv-reframe/.installed",
)


def reframe(folder, *words, partition="here", kernels=ROOT, enter=(), **settings):
    """Runs the check from `folder` with these settings, with the kernels of a tree. Returns
    ReFrame's output and performance variables."""
    settings = {"executable": PROGRAM} | settings
    (folder / "site.py").write_text(SITE)
    command = (REFRAME / "python", REFRAME / "reframe", "-C", "site.py", "-c", CHECK)
    options = "--exec-policy=serial --report-file=report.json --nocolor"
    done = end_of(
        *enter,
        *command,
        "-r",
        f"--system=site:{partition}",
        *options.split(),
        *(f"--setvar={name}={value}" for name, value in settings.items()),
        *words,
        cwd=folder,
        PATH=PATH,
        PYTHONPATH=f"{kernels}:{ROOT}",
        TMPDIR=str(folder),
    )
    return done, dict(re.findall(r"P: (\w+): ([\d.]+) us", done.stdout))


def reports(*words):
    return end_of(sys.executable, "-m", "reports", *words)


def gate(baseline, current):
    return reports("regress", "--baseline", baseline, "--current", current)


def test_the_check_names_each_case_and_fails_where_a_reference_is_missed(tmp_path):
    options = f"{CASES} library --out elsewhere"  # the folder of the check's files counts
    done, variables = reframe(
        tmp_path, options=options, store=tmp_path / "store", references=f"{LIBRARY}:0.001"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert list(variables) == [LIBRARY]
    assert re.search(
        rf"Reason: performance error: failed to meet reference\(s\): {LIBRARY}=", done.stdout
    )
    [run] = (tmp_path / "store").glob("*.jsonl")
    case = next(
        record
        for record in map(json.loads, run.read_text().splitlines())
        if record["kind"] == "case"
    )
    assert float(variables[LIBRARY]) == pytest.approx(case["total_us"]["median"])


def test_a_wrong_result_fails_the_sanity_of_the_check_and_the_gate(tmp_path):
    broken = tree(tmp_path / "tree", "flip_bit")
    faults = (
        broken / "kernels/include/faults.h"
    )  # on a busy machine a run has fewer launches than 1,000
    faults.write_text(
        faults.read_text().replace("LAUNCHES_PER_FAULT = 1000", "LAUNCHES_PER_FAULT = 20")
    )
    done, _ = reframe(
        tmp_path,
        options="-b 16K -e 16K --mode chained --iters 12 --algorithm one_shot_ll",
        store=tmp_path / "store",
        kernels=broken,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Failing phase: sanity" in done.stdout
    [reason] = re.findall("sanity error: (.*)", done.stdout)
    assert re.search(
        r"all_reduce_one_shot_ll_16KiB_chained_us: \d+ of \d+ elements were wrong", reason
    ), reason
    answer = gate(tmp_path / "store", tmp_path / "store")
    assert (answer.returncode, "wrong" in answer.stdout) == (5, True), answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def slurm():
    """The words that enter the network of a real Slurm with nodes wt1 and wt2."""
    if reason := missing(*OF_SLURM):
        pytest.skip(reason)
    with cluster(slurm=True) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", made.environment["SLURM_CONF"])
        yield made.prefix


@SLOW_TEST
def test_reframe_measures_each_node_of_slurm_for_the_gate_and_the_fleet(slurm, tmp_path):
    done, _ = reframe(
        tmp_path,
        "--distribute=idle",
        options=f"{CASES} library",
        store=tmp_path / "store",
        partition="slurm",
        enter=slurm,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = list((tmp_path / "store").glob("*.jsonl"))
    assert len(runs) == 2
    assert {node for node in ("wt1", "wt2") if f"nid={node}" in done.stdout} == {"wt1", "wt2"}
    answer = gate(*runs)
    assert "library" in answer.stdout, answer.stderr
    assert answer.returncode in (0, 1, 3), "the gate compares one launch of each node"
    fleet = reports("fleet", tmp_path / "store")
    assert (fleet.returncode, "2 nodes, 2 runs" in fleet.stdout) == (3, True), (
        fleet.stdout + fleet.stderr
    )


@SLOW_TEST
def test_an_array_of_jobs_leaves_a_run_each(slurm, tmp_path):
    wiretax = tmp_path / "bin" / "wiretax"
    wiretax.parent.mkdir()
    wiretax.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec {PROGRAM} "$@"\n')
    wiretax.chmod(0o755)
    (wiretax.parent / "activate").write_text(f"PATH={wiretax.parent}:$PATH\n")
    job = (
        (ROOT / "examples/wiretax-array.sbatch")
        .read_text()
        .replace("#SBATCH --gpus-per-node=2\n", "")
    )
    (tmp_path / "array.sbatch").write_text(job)
    done = end_of(
        *slurm,
        "sbatch",
        "--wait",
        "array.sbatch",
        *CASES.split(),
        "library",
        cwd=tmp_path,
        WIRETAX_ENV=str(tmp_path),
        RESULTS=str(tmp_path / "store"),
        WIRETAX_NODE="login",
    )
    outputs = "".join(path.read_text() for path in tmp_path.glob("wiretax-*.out"))
    assert done.returncode == 0, done.stderr + outputs
    runs = list((tmp_path / "store").glob("*.jsonl"))
    assert len(runs) == 2, outputs
    text = "".join(run.read_text() for run in runs)
    assert '"login"' not in text, "nodes of one label are one node to `reports fleet`"
