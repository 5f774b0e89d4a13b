"""The routed all-to-all on real ranks: its results, the command's output and its refusals."""

import csv
import io

import numpy as np
import pytest

from reports.store.result import read
from reports.tables.plot import plot
from reports.tables.show import text
from tests.fake_gpu import fake_nccl
from tests.kernels.broken_kernels import tree
from tests.launch import count, few, mpirun

pytestmark = pytest.mark.alone

FEW = ["--max-time", "40", "-n", "12", "--lean"]
SMALL = ["--experts", "8", "--tokens", "40", "--hidden", "96"]


@pytest.mark.parametrize(("ranks", "examples"), few([(2, 90), (3, 30), (1, 20), (5, 20)], 2))
def test_tokens_reach_their_experts_and_return_bit_by_bit(ranks, examples):
    examples = count(examples)
    done = mpirun(ranks, "tests/ranks/routed_ranks.py", str(examples), str(ranks))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{examples} examples right on {ranks} ranks" in done.stdout


def test_a_gpu_library_sends_tokens_to_their_experts_and_back_on_a_fake_gpu():
    """NCCL sends records in one group; MPI exchanges their counts."""
    settings = fake_nccl.environment("cuda", gpu={"count": 2})
    done = mpirun(
        2, "tests/ranks/routed_ranks.py", str(count(30)), "1", "cuda", timeout_s=400, **settings
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "examples right on 2 ranks" in done.stdout


def test_tokens_are_wrong_without_the_wait(tmp_path):
    done = mpirun(
        2,
        "tests/ranks/routed_ranks.py",
        "60",
        "5",
        tree=tree(tmp_path / "tree", "without the wait"),
    )
    assert done.returncode != 0
    assert "examples right" not in done.stdout


def run(tmp_path, *options, ranks=2):
    done = mpirun(ranks, "-m", "bench.alltoall", *options, *FEW, "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = tmp_path.glob("*.jsonl")
    return read(path), done.stdout


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("skewed"), *SMALL, "-d", "half", "--mode", "both")


def test_every_direction_and_skew_is_measured_beside_the_library_with_right_results(skewed):
    result, _ = skewed
    measured = [case for case in result.cases if case.status != "unsupported"]
    assert {(case.status, case.n_wrong) for case in measured} == {("ok", 0)}
    seen = {(case.shape["way"], case.shape["skew"], case.mode) for case in measured}
    skews = ("uniform", "zipf:1.2", "hot:2")
    isolated = {
        (way, skew, "isolated") for way in ("dispatch", "combine", "round_trip") for skew in skews
    }
    assert seen == isolated | {("round_trip", skew, "chained") for skew in skews}
    forms = {(case.algorithm, case.variant) for case in measured if case.shape["way"] == "dispatch"}
    assert forms == {
        ("library", "plain"),
        ("direct_push", "copied"),
        ("direct_pull", "copied"),
        ("direct_pull", "registered"),
        ("auto", "copied"),
        ("auto", "registered"),
    }
    why = {case.reason for case in result.cases if case.status == "unsupported"}
    assert why == {
        "a combine sums rows before it sends them: it has no copy to save",
        "a chain must return its data to their senders; use round_trip",
    }


def test_imbalance_and_sent_bytes_are_printed_beside_the_time(skewed):
    result, printed = skewed
    assert "experts 8, top_k 2, tokens 40" in printed.replace("\n", " ")
    (uniform,) = [line for line in printed.splitlines() if line.strip().startswith("uniform")][:1]
    assert uniform.split()[1:4] == ["1.00", "0.00", "1.00"]
    dispatch = next(case for case in result.cases if case.shape["skew"] == "hot:2")
    assert dispatch.routing["leaving_bytes"] == [0, 20 * 96 * 2], (
        "both experts of each token are rank 0's"
    )
    assert dispatch.bus_bw_gb_s == pytest.approx(20 * 96 * 2 / dispatch.time_us.median / 1e3)
    assert max(len(line) for line in printed.splitlines() if not line.startswith("run: ")) <= 80


def test_every_format_and_the_plot_distinguish_skews(skewed, tmp_path):
    result, printed = skewed
    assert "round trip, dispatch and combine" in printed
    rows = list(csv.DictReader(io.StringIO(text(result, "csv"))))
    assert len(
        {(row["shape"], row["algorithm"], row["variant"], row["mode"]) for row in rows}
    ) == len(rows)
    assert "other cases: python -m reports show --format csv" in text(result, "nccl-tests"), (
        "the format is one test"
    )
    long = text(result, long=True)
    assert all(word in long for word in ("uniform", "zipf:1.2", "hot:2", "combine"))
    plot(result, tmp_path / "routed.svg")
    drawn = (tmp_path / "routed.svg").read_text()
    assert all(
        word in drawn
        for word in ("zipf:1.2", "rows of the busiest rank / mean", "dispatch, to the experts")
    )


def test_python_dispatch_gives_right_results(tmp_path):
    result, _ = run(tmp_path, *SMALL, "--skew", "zipf:1", "--dispatch", "python")
    assert {case.n_wrong for case in result.cases if case.status == "ok"} == {0}
    assert {case.shape["way"] for case in result.cases if case.status == "ok"} == {
        "dispatch",
        "combine",
        "round_trip",
    }


@pytest.mark.parametrize(
    ("options", "ranks"),
    few(
        [
            (
                ["--experts", "3", "--tokens", "2", "--skew", "hot:2"],
                3,
            ),  # one rank has no tokens, and one gets none
            (
                ["--experts", "2", "--tokens", "33", "--top-k", "1", "--skew", "hot:1"],
                2,
            ),  # one rank gets all tokens
            (["--experts", "5", "--tokens", "20", "--skew", "uniform"], 1),
        ],
        2,
    ),
)
def test_ranks_without_tokens_and_a_rank_that_gets_all_tokens(tmp_path, options, ranks):
    result, _ = run(tmp_path, *options, "--hidden", "257", ranks=ranks)
    assert {case.n_wrong for case in result.cases if case.status == "ok"} == {0}
    assert any(case.status == "ok" for case in result.cases)


def test_counts_from_a_file(tmp_path):
    np.save(tmp_path / "counts.npy", np.array([40, 0, 25, 15]))
    options = [
        "--experts",
        "4",
        "--tokens",
        "40",
        "--hidden",
        "64",
        "--skew",
        f"file:{tmp_path / 'counts.npy'}",
    ]
    result, _ = run(tmp_path, *options)
    assert {case.n_wrong for case in result.cases if case.status == "ok"} == {0}
    assert result.cases[0].routing["expert_max_over_mean"] == 2.0
    assert str(tmp_path) not in result.path.read_text()


def test_rows_that_fit_no_buffer_are_refused_before_any_timing(tmp_path):
    options = ["--experts", "4", "--tokens", "65536", "--hidden", "8192", "--skew", "hot:2"]
    done = mpirun(2, "-m", "bench.alltoall", *options, "--out", str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert (
        "with hot:2 a rank gets 131072 rows of 32768 B, and a buffer has 1 GiB at most"
        in done.stderr
    )
    assert not list(tmp_path.glob("*.jsonl"))
