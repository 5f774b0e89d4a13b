"""What `advise` says is likely: with times of these cards, beside its limits, and its winners."""

import pytest

from reports.advice.likely import Formula
from reports.advice.spans import Span
from tests.reports.advice.test_advise import GPU, LARGE, answer, write
from tests.reports.advice.test_advise_splits import LLAMA, answer_json
from tests.reports.synthetic_run import ranks_of

pytestmark = pytest.mark.unit

TWO_4090 = "--model qwen3-32b --gpu rtx4090"


def tensor_of(*words):
    """TP 2 of an answer."""
    splits = answer_json(*words)["splits"]
    (tensor,) = [each for each in splits if each["name"] == "TP 2"]
    return tensor


def test_a_slow_wire_makes_no_winner_by_tensor():
    """Calls of 410 us: `TP 2, likely 19.3 tokens/s, at most 16.1, 1.50x 2 replicas`."""
    _, words = answer(f"{TWO_4090} --wire 200,200,1")
    assert "latency of 1 stream: TP 2" not in words
    assert "throughput of 8 streams: TP 2" not in words


def test_slower_calls_are_never_likely_faster():
    likely = [
        tensor_of(f"{TWO_4090} --wire {wire}")["likely"]
        for wire in ("3,3,24", "3,3,12", "20,20,2", "100,100,1")
    ]
    for goal in ("stream_tokens_per_s", "tokens_per_s", "prompt_tokens_per_s"):
        rates = [each[goal][0] for each in likely]
        assert rates == sorted({*rates}, reverse=True)


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
def test_a_measured_large_call_counts_in_prefill(tmp_path, engine):
    """Two machines, one with half of the bandwidth, had the same likely prompt."""
    prompts = []
    for name, large_us in (("a", 1500), ("b", 3000)):
        times_us = {16384: 30, 131072: 60, LARGE: large_us}
        run = write(tmp_path / name, times_us, ranks=ranks_of(GPU, 2))
        line = f"{LLAMA} --engine {engine} --run"
        prompts.append(tensor_of(line, run)["likely"]["prompt_us"][0])
    assert 1.05 * prompts[0] < prompts[1]


def test_what_is_likely_is_not_above_what_is_typical_at_most():
    """oneCCL on Arc is slower than what is published of other libraries."""
    line = "--model gemma-4-31b --weights fp8 --gpus 8 --gpu a770 --prompt 32768 --batch 8"
    for split in answer_json(line)["splits"]:
        if likely := split["likely"]:
            assert likely["prompt_us"][0] >= split["prompt_us"][0] * 0.999, split["name"]
            assert likely["tokens_per_s"][0] <= split["tokens_per_s"][0] * 1.001, split["name"]


@pytest.mark.parametrize("gpu", ["mi350x", "mi300x", "h100"])
def test_one_card_of_a_mesh_has_an_answer(gpu):
    """It divided by the bandwidth to no peers."""
    assert "one GPU, likely" in answer(f"--model llama-3.1-8b --gpu {gpu} --gpus 1")[1]


@pytest.mark.parametrize(("least", "is_named"), [(1.003, False), (1.02, True)])
def test_a_winner_is_named_whose_printed_range_excludes_1(monkeypatch, least, is_named):
    """`TP 4, 1.36x [1.00 1.85] 2 replicas` contradicts the rule by what it prints."""
    monkeypatch.setattr(Formula, "ratio", lambda *passes: Span(1.36, least, 1.85))
    assert ("no winner" not in answer(TWO_4090)[1]) == is_named
