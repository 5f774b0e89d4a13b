"""The routed all-to-all on real ranks: its results, the command's output and its refusals."""

import json

import pytest

from tests.bench.launches import launch, run
from tests.fake_gpu import fake_nccl
from tests.launch import count, few, printed

FEW = "--max-time 40 -n 2"
SMALL = "--experts 8 --top-k 3 --tokens 40 --hidden 96"


@pytest.mark.parametrize("ranks", few([2, 3, 1, 5], 2))
def test_tokens_reach_their_experts_and_return_bit_by_bit(ranks):
    """In back-to-back dispatches, combines and round trips."""
    for seed in range(count(6)):
        program = "-m", "tests.ranks.stress_ranks", "300", str(seed), "routed"
        report = json.loads(printed(ranks, *program))
        assert report == {"launches": 300, "wrong_elements": 0, "timed_out": False}


def test_a_gpu_library_sends_tokens_to_their_experts_and_back_on_a_fake_gpu(tmp_path):
    """NCCL sends rows in one group."""
    settings = fake_nccl.environment("cuda", gpu={"count": 2})
    words = f"{SMALL} --algorithm library --device cuda --mode isolated"
    assert_all_ways_right(measured(tmp_path, words, **settings)[1])


def measured(tmp_path, options, **environment):
    return run(tmp_path, options, FEW, command="alltoall", **environment)


def assert_all_ways_right(result):
    cases = [case for case in result.cases if case.status == "ok"]
    assert {case.shape["way"] for case in cases} == {"dispatch", "combine", "round_trip"}
    assert {case.n_wrong for case in cases} == {0}


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    options = f"{SMALL} -d half --mode both --skew uniform,zipf:99"
    return measured(tmp_path_factory.mktemp("skewed"), options)


def test_every_direction_and_skew_is_measured_beside_the_library_with_right_results(skewed):
    _, result = skewed
    cases = [case for case in result.cases if case.status != "unsupported"]
    assert {(case.status, case.n_wrong) for case in cases} == {("ok", 0)}
    seen = {(case.shape["way"], case.shape["skew"], case.mode) for case in cases}
    skews = ("uniform", "zipf:99")
    isolated = {
        (way, skew, "isolated") for way in ("dispatch", "combine", "round_trip") for skew in skews
    }
    assert seen == isolated | {("round_trip", skew, "chained") for skew in skews}
    forms = {(case.algorithm, case.variant) for case in cases if case.shape["way"] == "dispatch"}
    assert forms == {
        ("library", "plain"),
        ("direct_push", "copied"),
        ("direct_pull", "copied"),
        ("auto", "copied"),
    }
    why = {case.reason for case in result.cases if case.status == "unsupported"}
    assert why == {"a chain must return its data to their senders; use round_trip"}


@pytest.mark.parametrize("top_k", [3, 8])
def test_a_chain_in_float_is_right_with_many_choices(tmp_path, top_k):
    """The library's too: weights that do not add up to 1 made all of them look wrong."""
    words = f"--experts 8 --top-k {top_k} --tokens 8 --hidden 96 --skew uniform --mode chained"
    _, result = measured(tmp_path, f"{words} -d float")
    cases = [case for case in result.cases if case.status == "ok"]
    assert {case.algorithm for case in cases} >= {"library", "direct_push", "direct_pull"}
    assert {(case.mode, case.n_wrong) for case in cases} == {("chained", 0)}


def test_imbalance_and_sent_bytes_are_printed_beside_the_time(skewed):
    said, result = skewed
    assert "experts 8, top_k 3, tokens 40" in said.replace("\n", " ")
    hot = next(line for line in said.splitlines() if line.strip().startswith("zipf:99"))
    assert hot.split()[1:3] == ["2.67", "2.00"]
    dispatch = next(case for case in result.cases if case.shape["skew"] == "zipf:99")
    assert dispatch.routing["leaving_bytes"] == [0, 20 * 96 * 2], (
        "all experts of each token are rank 0's"
    )
    assert dispatch.bus_bw_gb_s == pytest.approx(20 * 96 * 2 / dispatch.time_us.median / 1e3)


def test_a_rank_may_have_no_tokens_and_get_none(tmp_path):
    options = "--experts 2 --tokens 1 --top-k 1 --skew zipf:9 --hidden 257 --mode isolated"
    assert_all_ways_right(measured(tmp_path, options)[1])


def test_a_batch_of_real_routes_is_read_from_a_file_and_stored_by_its_digest(tmp_path):
    """The file decides tokens and choices. A run must hold no path of its machine."""
    file = tmp_path / "their-batch.csv"
    file.write_text("".join(f"{token % 2},{2 + token % 5},7\n" for token in range(10)))
    words = f"--experts 8 --hidden 96 --mode isolated --skew uniform,file:{file}"
    said, result = measured(tmp_path, f"{words} --algorithm auto,library")
    assert_all_ways_right(result)
    skews = {case.shape["skew"] for case in result.cases}
    assert len(skews) == 2
    (name,) = skews - {"uniform"}
    assert name.startswith("file:")
    assert (name in said, "their-batch" in said) == (True, False)
    assert "their-batch" not in result.path.read_text()
    assert {(case.shape["tokens"], case.shape["top_k"]) for case in result.cases} == {(10, 3)}
    sent = {
        case.shape["way"]: case.routing["leaving_bytes"]
        for case in result.cases
        if case.shape["skew"] == name
    }
    # Each token has expert 7, of rank 1, and expert 0 or 1, of rank 0.
    assert sent["dispatch"] == [5 * 96 * 4, 5 * 96 * 4]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, " cannot be read: No such file or directory"),
        ("0,1\n2\n", ": line 2 has 1 experts, and line 1 has 2"),
    ],
)
def test_a_file_of_routes_that_cannot_be_used_ends_the_run_in_one_sentence(
    tmp_path, content, sentence
):
    file = tmp_path / "routes.csv"
    if content:
        file.write_text(content)
    done = launch(tmp_path, f"--experts 8 --hidden 96 --skew file:{file}", command="alltoall")
    assert done.returncode == 2
    assert done.stderr == f"bench.alltoall: --skew file:{file}{sentence}\n"
    assert not [*tmp_path.glob("*.jsonl")]
