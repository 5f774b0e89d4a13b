"""The soak mode: a run is clean when the epoch wraps. A soak finds and locates wrong results, names a stopped rank, and
ends within two seconds of Ctrl-C with its counts."""

import re
import signal
import time

import pytest

from tests.bench.faulty_runs import Launch, sentence, wait_for
from tests.kernels.broken_kernels import tree
from tests.launch import few, mpirun

pytestmark = pytest.mark.alone

COUNTED = re.compile(
    r"soak: (\d+) launches in \d+ s, [\d.]+ GB of messages, (\d+) wrong elements; \d+ hands, and the "
    r"epoch went( past 2\^32)? to (\d+)"
)
SMALL = ["-e", "32K", "-d", "float", "-o", "sum"]
LOCATED = (
    r"wiretax: all_reduce \w+ \w+ float32 sum \d+ B.*, launch \d+: rank [01] got \S+ \(0x[0-9a-f]{8}\) at "
    r"offset \d+, element \d+; \S+ \(0x[0-9a-f]{8}\) expected\n"
)
TIMED_OUT = r"wiretax: rank [01] .* held the others up: .*epoch \d+ step \d+ seen, epoch \d+ step \d+ wanted by .*\n"


def soaked(seconds, out, *options, **tree):
    done = mpirun(
        2, "-m", "bench.allreduce", "--soak", f"{seconds}s", "--out", str(out), *options, **tree
    )
    wait_for(lambda: not list(out.iterdir()), 2.0)  # after a fault, the witness removes the files
    return done, COUNTED.search(done.stdout)


def test_a_soak_is_clean_across_the_epochs_wrap_and_leaves_nothing(tmp_path):
    done, counted = soaked(2, tmp_path, *SMALL, "--seed", "3")
    assert (done.returncode, done.stderr) == (0, "")
    drawn_from = r"seed 3, from epoch 4294966296 on: one_shot_ll, .* 32768 B"
    assert re.match(rf"soak of all_reduce for 2 s on 2 ranks .*{drawn_from}", done.stdout)
    assert counted
    assert int(counted[1]) > 1000
    assert counted[2] == "0"
    assert counted[3]


@pytest.mark.parametrize(
    ("patch", "algorithm"),
    few(
        [
            ("flip_bit", "ring"),
            ("drop_flag", "one_shot_pull"),
            ("without the epoch flip", "one_shot_push"),
            ("skip_push", "one_shot_push"),
            ("stale_epoch", "one_shot_ll"),
            ("without the wait", "two_shot"),
        ],
        2,
    ),
)
def test_a_soak_ends_at_a_wrong_result_and_locates_it(tmp_path, patch, algorithm):
    options = *SMALL, "--algorithm", algorithm, "--timeout", "2"
    done, counted = soaked(60, tmp_path / "out", *options, tree=tree(tmp_path / "tree", patch))
    assert done.returncode == 1
    assert re.fullmatch(f"{LOCATED}|{TIMED_OUT}", done.stderr), done.stderr
    assert counted is None or int(counted[2]) > 0


def test_a_soak_names_a_stopped_rank(tmp_path):
    run = Launch(tmp_path, "--soak", "60s", *SMALL, "--timeout", "2", small=())
    wait_for(
        lambda: any(
            b'"step": "soak"' in page.read_bytes() for page in tmp_path.glob("*.flight/rank-1")
        ),
        60,
    )
    run.signal(run.ranks()[1], signal.SIGSTOP)
    assert "wiretax: rank 1 was stopped for 2 s and held the others up: " in sentence(run.end())
    wait_for(lambda: not list(tmp_path.iterdir()), 5)


def test_an_interrupted_soak_ends_within_two_seconds_with_its_counts(tmp_path):
    run = Launch(tmp_path, "--soak", "60s", *SMALL, "--timeout", "2", small=())
    wait_for(
        lambda: any(
            b'"step": "soak"' in page.read_bytes() for page in tmp_path.glob("*.flight/rank-1")
        ),
        60,
    )
    time.sleep(0.2)
    run.signal(run.process.pid, signal.SIGINT)
    done = run.end()
    assert done.returncode == 130
    assert run.took_s < 2
    counted = COUNTED.search(done.stdout)
    assert counted
    assert counted[2] == "0"
    assert not list(tmp_path.iterdir())


def test_ranks_with_different_clocks_start_and_end_together(tmp_path):
    options = [
        "--soak",
        "3s",
        *SMALL,
        "--algorithm",
        "ring",
        "--timeout",
        "5",
        "--out",
        str(tmp_path),
    ]
    done = mpirun(2, "tests/ranks/soaked_ranks.py", "clock", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert ", 0 wrong elements; 2 hands" in done.stdout


@pytest.mark.parametrize("collective", few(["sendrecv", "alltoall"], 1))
def test_a_soak_also_checks_the_library_and_has_its_own_sizes(tmp_path, collective):
    """A round trip of sendrecv is two successive MPI calls. The smallest size of a sweep, 16 KiB, is no limit for a
    soak of small messages."""
    options = [
        "--soak",
        "1s",
        "-e",
        "1K",
        "-d",
        "float",
        "--algorithm",
        "library",
        "--out",
        str(tmp_path),
    ]
    done = mpirun(2, "-m", f"bench.{collective}", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "; 1 to 1024 B\n" in done.stdout
    counted = COUNTED.search(done.stdout)
    assert counted
    assert int(counted[1]) > 10
    assert counted[2] == "0"
    assert not list(tmp_path.iterdir())


def test_a_library_failure_ends_a_soak_with_its_error(tmp_path):
    options = ["--soak", "10s", *SMALL, "--algorithm", "library", "--out", str(tmp_path)]
    done = mpirun(2, "tests/ranks/soaked_ranks.py", "failure", *options)
    assert done.returncode == 1
    assert re.fullmatch(
        r"wiretax: rank [01] failed: .*step soak.*: DeviceError: rank 1: \S+ of \S+ \S+ returned "
        r"error \d+\n",
        done.stderr,
    ), done.stderr


def test_an_algorithm_that_cannot_soak_is_refused_with_a_sentence(tmp_path):
    done, _ = soaked(1, tmp_path, "--algorithm", "two_shot_int8", "-d", "int32")
    assert (done.returncode, done.stdout.count("\n"), done.stderr.count("\n")) == (3, 1, 1)
    assert "none of these algorithms can do that here" in done.stderr
