"""The bill of served figures, beside published pairs and arithmetic by hand. Files have the fields
that the benches write (docs/import.md)."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.breakdown import served
from reports.breakdown.bill import Alone
from reports.breakdown.served import weighted
from tests.reports.advice.test_implied import published
from tests.reports.breakdown.test_alone import US, a_run
from tests.reports.test_report_json import PAGE
from tests.test_answer import section, tables

VLLM: dict[str, Any] = {
    "backend": "vllm",
    "model_id": "Qwen/Qwen3-8B",
    "tokenizer_id": "Qwen/Qwen3-8B",
    "num_prompts": 8,
    "request_rate": "inf",
    "max_concurrency": 1,
    "completed": 8,
    "total_output_tokens": 1024,
}
SGLANG = VLLM | {"backend": "sglang", "total_output_tokens_retokenized": 1024}
LLAMA_TABLE = """
| model              |      size |   params | backend | ngl |   sm |  test |          t/s |
| ------------------ | --------: | -------: | ------- | --: | ---: | ----: | -----------: |
| qwen35 27B Q4_K    | 16.20 GiB |  27.00 B | ROCm    |  99 | none | tg128 | 29.50 ± 0.05 |
"""
LATENCY = {
    "avg_latency": 1.0,
    "latencies": [2.1, 2.0, 2.2],
    "percentiles": {},
}


def vllm(token_ms, **more):
    times = dict.fromkeys(("median_tpot_ms", "mean_tpot_ms", "mean_itl_ms"), token_ms)
    streams = more.get("max_concurrency") or 1
    duration = 1024 * token_ms / 1e3 / streams
    return VLLM | times | {"duration": duration} | more


def sglang(token_ms, **server):
    return SGLANG | vllm(token_ms, backend="sglang") | {"server_info": server}


def llama(split, *tok_s, **more):
    samples_ns = [128e9 / each for each in tok_s]
    row = {
        "build_commit": "8cf427ff",
        "gpu_info": "RTX 5060 Ti, RTX 5060 Ti",
        "n_prompt": 0,
    }
    shape = {
        "model_type": "qwen35 27B Q4_0",
        "n_gen": 128,
        "n_depth": 0,
        "split_mode": split,
    }
    prompt = (
        row
        | shape
        | {
            "n_prompt": 512,
            "n_gen": 0,
            "samples_ns": [7e7],
        }
    )
    return [prompt, row | shape | {"samples_ns": samples_ns} | more]


@pytest.fixture
def bill(tmp_path, reports):
    """A function that runs the command on documents of both sides, and returns its exit status,
    standard output and standard error."""

    def run(ones, twos, *words):
        names: dict[str, list[Path]] = {}
        for side, documents in (("--one", ones), ("--two", twos)):
            for number, document in enumerate(documents):
                path = tmp_path / f"{side[2:]}{number}.json"
                path.write_text(document if isinstance(document, str) else json.dumps(document))
                names.setdefault(side, []).append(path)
        return reports(
            "breakdown", *(word for side in names.items() for word in (side[0], *side[1])), *words
        )

    return run


@pytest.fixture
def fields(bill):
    """The same with --json; returns the fields."""

    def run(ones, twos, *words):
        status, out, err = bill(ones, twos, *words, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    return run


def told(text, *sentences):
    flat = " ".join(text.split())
    assert [sentence for sentence in sentences if sentence not in flat] == []


@pytest.mark.parametrize(
    ("gpu", "model", "splits", "more", "words", "by_hand", "inside"),
    [
        (
            "RX 7900 XT",
            "Qwen3-8B",
            ("single", "tp2"),
            {},
            ["--replay", "graph"],
            (1e6 / 79.6 - 1e6 / 46.7 / 2) / 73,
            "2x RX 7900 XT, PCIe 3 x16, no peer access: Qwen3-8B, vLLM, graph",
        ),
        (
            "RTX 5060 Ti",
            "Qwen3.8-27B",
            ("layer", "tensor"),
            {},
            [],
            (1e6 / 37.1 - 1e6 / 22.1 / 2) / 128,
            "2x RTX 5060 Ti, PCIe 3 x8, no peer access: Qwen3.8-27B, llama.cpp",
        ),
        (
            "R9700",
            "Llama-3.1-8B",
            ("single", "tp2"),
            {"engine": "vLLM, ROCm attention"},
            [],
            (19.18 - 30.79 / 2) * 1e3 / 65,
            "2x R9700: Llama-3.1-8B, vLLM, graph",
        ),
        (
            "R9700",
            "Llama-3.1-8B",
            ("single", "tp2"),
            {"engine": "vLLM, Triton attention"},
            [],
            (21.74 - 37.08 / 2) * 1e3 / 65,
            "2x R9700: Llama-3.1-8B, vLLM, graph",
        ),
        (
            "Arc Pro B70",
            "Qwen3.8-27B",
            ("single", "tp2"),
            {"replay": "eager"},
            ["--replay", "eager"],
            (1e6 / 17.5 - 1e6 / 28.5 / 2) / 129,
            "2x Arc Pro B70, PCIe 5 x8: Qwen3.8-27B, vLLM XPU, eager",
        ),
        (
            "Arc Pro B70",
            "Qwen3.6-27B",
            ("single", "tp2"),
            {"replay": "eager"},
            ["--replay", "eager", "--calls", "128"],  # as its owner counted
            (1e6 / 4.18 - 1e6 / 7.84 / 2) / 128,
            "2x Arc Pro B70, PCIe 3 x16, no peer access: Qwen3.6-27B, vLLM XPU, eager",
        ),
    ],
)
def test_published_pairs_cost_what_the_answer_says(
    gpu, model, splits, more, words, by_hand, inside, fields
):
    """From files as the engines write them, with the figures of docs/answer.md's rows."""
    rows = [published(gpu, model, split, **more) for split in splits]
    if splits[0] == "layer":
        sides = [llama(row.split, row.decode_tok_s) for row in rows]
    else:
        times_ms = [1e3 / row.decode_tok_s if row.decode_tok_s else row.tpot_ms for row in rows]
        sides = [vllm(token_ms, model_id=model) for token_ms in times_ms]
    found = fields(sides[:1], sides[1:], "--model", model, *words)
    assert found["implied_us"] == pytest.approx(by_hand, rel=1e-9)
    _, answers, *_ = tables(section("## Counter-examples"))
    costs = [float(row["inside, us"]) for row in answers if row["by tensor"] == inside]
    assert any(found["implied_us"] == pytest.approx(cost, rel=5e-3) for cost in costs)


def test_what_a_call_costs_beyond_the_call_alone_has_a_name(bill, fields, monkeypatch):
    """16.6 us alone and 25.4 in the engine; the instrument is asked for 8 KiB from a graph."""
    asked = []

    def alone_of(call, gpus, _):
        asked.append((call.collective, call.size_bytes, gpus, call.is_graph))
        return Alone((16.6, 16.0, 17.0), "a graph of calls")

    monkeypatch.setattr(served, "alone_of", alone_of)
    sides = [vllm(1e3 / 46.7)], [vllm(1e3 / 79.6)]
    found = fields(*sides, "--replay", "graph")
    assert asked == [("all_reduce", 8192, 2, True)]
    assert found["rest_us"] == pytest.approx(found["implied_us"] - 16.6)
    assert found["asked"] == []
    told(
        bill(*sides)[1],
        "a call alone 16.6 [16.0 17.0]",
        "Alone: a graph of calls.",
        "the rest: launch, waiting, smaller kernels 8.83",
        "With calls as cheap as alone it would be 1.80 x.",
    )


def test_the_call_alone_is_of_a_run_or_as_published_in_the_engine_s_mode(fields, tmp_path):
    """16.6 to 19.3 us through host memory from a graph, 41.9 eager over PCIe 5; and the chain of a
    run, of 16 KiB for two streams."""
    graph = "--replay", "graph"
    found = fields([vllm(1e3 / 46.7)], [vllm(1e3 / 79.6)], *graph, "--gpu", "RX 7900 XT")
    assert found["intervals"]["alone_us"] == [
        pytest.approx(each, abs=0.05) for each in (16.6, 19.3)
    ]
    model = "--model", "qwen3.8-27b"
    sides = [vllm(1e3 / rate, model_id="Qwen3.8-27B") for rate in (28.5, 17.5)]
    eager = fields(sides[:1], sides[1:], *model, "--replay", "eager", "--gpu", "Arc Pro B70")
    assert (eager["alone_us"], eager["rest_us"]) == (41.9, pytest.approx(265.1, abs=0.1))
    two_streams = [vllm(each, max_concurrency=2) for each in (20, 12)]
    run = a_run(tmp_path / "alone")
    measured = fields(two_streams[:1], two_streams[1:], *graph, "--run", run)
    assert measured["alone_us"] == pytest.approx(US["auto"], rel=0.1)


def test_the_text_says_what_it_would_take_and_what_the_files_do_not_say(bill):
    status, out, _ = bill([vllm(1e3 / 28.5)], [vllm(1e3 / 17.5)], "--model", "qwen3-8b")
    assert status == 0
    told(
        out,
        "2 by tensor decode 0.61 x as fast as one card: a call costs 542 us, and at 240 us they "
        "would be even qwen3-8b on 2 cards",
        "In it too: the gather of the logits, 148.4 KiB from each card once a step.",
        "Unknown: how the engine launched a step, where a graph's calls cost less: --replay graph",
        "No interval: it needs 3 results a side",
    )
    words = "--model", "qwen3-8b", "--replay", "graph"
    _, out, _ = bill([vllm(1e3 / 28.5)], [vllm(1e3 / 17.5)], *words)
    told(out, "bench.allreduce -b 8K -e 8K -G 1 --out alone")
    shorter = bill([vllm(1e3 / 34.4)], [vllm(1e3 / 69.1)])[1]
    told(shorter, "a call, as implied -0.86", "The step became shorter than its share")


def test_cards_by_layer_stand_for_one(bill):
    _, out, _ = bill(
        [llama("layer", 22.1)], [llama("tensor", 37.1)], "--model", "qwen3.8-27b", "--gpus", "2"
    )
    told(out, "beside 2 by layer", "Hand-offs between layers make the implied cost too small.")
    assert "logits" not in out  # llama.cpp gathers none
    for more in ({"gpu_info": "RTX 5060 Ti"}, {"devices": "CUDA0"}):
        alone = llama("layer", 22.1, **more)
        _, out, _ = bill([alone], [llama("tensor", 37.1)], "--model", "qwen3.8-27b")
        told(out, "beside one card")


def test_one_file_of_llama_bench_has_both_sides_and_its_file_names_the_model(tmp_path, reports):
    file = {"model_filename": "/models/Qwen3.8-27B-UD-Q4_K_XL.gguf"}
    rows = [*llama("layer", 22.1, **file), *llama("tensor", 37.1, **file)]
    path = tmp_path / "llama.json"
    path.write_text(json.dumps(rows))
    status, out, _ = reports("breakdown", "--one", path, "--two", path)
    told(out, "2 by tensor decode 1.68 x as fast as 2 by layer", "qwen3.8-27b on 2 cards")
    path.write_text(json.dumps([*llama("none", 29.5, **file), *rows]))
    _, out, _ = reports("breakdown", "--one", path, "--two", path)
    told(out, "2 by tensor decode 1.26 x as fast as one card")
    assert status == 0


def test_three_results_a_side_have_an_interval(fields):
    """By hand: steps of 20, 21, 22 and 12, 12.5, 13 ms have variances of 1/3 and 1/12 ms^2 of
    their means; half of the first and the second give sqrt(1/12 + 1/12) = 0.408 ms, at 4 degrees of
    freedom 2.776 times."""
    found = fields([vllm(each) for each in (20, 21, 22)], [vllm(each) for each in (12, 12.5, 13)])
    low, high = found["intervals"]["implied_us"]
    assert found["implied_us"] == pytest.approx(2000 / 73)
    assert (high - low) / 2 == pytest.approx(2.776 * 408.2 / 73, rel=0.02)
    assert found["intervals"]["ideal_us"] == [
        pytest.approx(each / 2) for each in found["intervals"]["step_one_us"]
    ]
    assert "intervals are over results, each of which should be of its own launch" in found["notes"]


def test_steps_that_may_be_equal_are_undecided(bill):
    close = bill([vllm(each) for each in (20, 21, 22)], [vllm(each) for each in (19.9, 20.5, 21.1)])
    told(close[1], "Which is faster is undecided")
    apart = bill([vllm(each) for each in (20, 21, 22)], [vllm(each) for each in (12, 12.5, 13)])
    assert "undecided" not in apart[1]


def test_fewer_results_and_repetitions_in_one_launch_have_no_interval(fields):
    """Repetitions agree better than launches do."""
    sides = [llama("layer", 22, 22.1, 22.3)], [llama("tensor", 37, 37.1, 37.2)]
    assert fields(*sides, "--model", "qwen3.8-27b")["intervals"]["implied_us"] == [None, None]
    fewer = fields([vllm(20), vllm(21)], [vllm(12), vllm(13)])
    assert fewer["intervals"]["implied_us"] == [None, None]
    assert fewer["step_one_us"] == pytest.approx(20500)


@pytest.mark.parametrize("n", [3, 5])
def test_intervals_hold_the_truth(n):
    """Of one side with twice the spread of the other."""
    draws, held, trials = np.random.default_rng(5), 0, 1500
    for _ in range(trials):
        _, low, high = weighted((1.0, draws.normal(12, 1, n)), (-0.5, draws.normal(20, 2, n)))
        held += (low or 0) < 2 < (high or 0)
    assert 0.93 < held / trials < 0.985


DRAFTS = {
    "spec_decode_acceptance_length": 3.0,
    "spec_decode_num_drafts": 100,
    "spec_decode_draft_tokens": 400,
}


def test_a_step_with_a_drafter_makes_several_tokens_and_its_calls_carry_more(fields, bill):
    """A reader who takes a token for a step finds calls a third as dear."""
    plain = fields([vllm(20)], [vllm(12)])
    sides = [vllm(20, mean_itl_ms=60, **DRAFTS)], [vllm(12, mean_itl_ms=36, **DRAFTS)]
    drafted = fields(*sides)
    assert drafted["implied_us"] == pytest.approx(3 * plain["implied_us"])
    assert drafted["size_bytes"] == 5 * plain["size_bytes"]
    assert drafted["gather_bytes"] == 5 * plain["gather_bytes"]
    told(
        bill(*sides)[1],
        "The drafter's own calls are not included, so a call costs less than that",
        "use_local_argmax_reduction spares its gathers of logits (vllm-project/vllm#39419)",
    )

    luckless = vllm(18, mean_itl_ms=36, **DRAFTS | {"spec_decode_acceptance_length": 2.0})
    status, out, _ = bill(sides[0], [luckless])
    assert status == 0
    told(
        out,
        "The drafters differ: a step makes 3.00 and 2.00 tokens for a stream",
        "2 by tensor decode 1.11 x as fast as one card",
    )

    bundled = [vllm(20, mean_itl_ms=60)], [vllm(12, mean_itl_ms=36)]
    status, _, err = bill(*bundled)
    assert status == 2
    told(err, "one0.json: 3 tokens arrive at a time (itl / tpot): say --tokens-a-step X")
    asked = fields(*bundled, "--tokens-a-step", "3")
    assert asked["implied_us"] == pytest.approx(3 * plain["implied_us"])
    assert asked["size_bytes"] is None
    assert "--draft K" in asked["asked"][0]
    assert fields(*bundled, "--tokens-a-step", "3", "--draft", "4")["size_bytes"] == 5 * 8192


def test_sglangs_server_says_what_a_file_of_vllm_does_not(fields, bill):
    server = {
        "model_path": "/models/Qwen3-8B",
        "disable_cuda_graph": False,
        "speculative_num_draft_tokens": 4,
    }
    one = sglang(20, tp_size=1, **server) | {"accept_length": 2.5}
    two = sglang(12, tp_size=2, **server) | {"accept_length": 2.5}
    found = fields([one], [two])
    assert (found["n_calls"], found["size_bytes"]) == (73, 4 * 8192)
    assert (found["tokens_a_step"], found["asked"]) == (2.5, [])
    status, _, err = bill([one], [two], "--gpus", "4")
    assert (status, "say --gpus 2" in err) == (2, True)
    silent = [sglang(each) | {"server_info": None} for each in (20, 12)]
    asked = fields(silent[:1], silent[1:], "--model", "qwen3-8b")["asked"]
    assert "whether a drafter ran" in asked[0]


def test_calls_carry_the_tokens_of_all_streams(fields, bill):
    """8 streams at 20 ms a token make 400 tokens/s; a cap of 64 that nobody reaches counts not."""
    sides = [vllm(20, max_concurrency=8)], [vllm(12, max_concurrency=8)]
    many = fields(*sides)
    assert (many["streams"], many["size_bytes"]) == (pytest.approx(8), 8 * 8192)
    told(bill(*sides)[1], "vllm, 8.0 streams at once", "their tpot contains the prompts of others")
    idle = [vllm(each, max_concurrency=64) | {"duration": each * 1.024 / 4} for each in (20, 12)]
    assert fields(idle[:1], idle[1:])["streams"] == pytest.approx(4)
    unlike = [idle[0], idle[1] | {"duration": 12 * 1.024 / 2}]
    assert "the loads differ: 2.0 and 4.0 streams" in " ".join(
        fields(unlike[:1], unlike[1:])["notes"]
    )


def test_batches_of_vllm_need_what_their_file_lacks(fields, bill):
    shorter = LATENCY | {"latencies": [1.3, 1.2, 1.4]}
    status, _, err = bill([LATENCY], [shorter], "--model", "qwen3-8b")
    assert status == 2
    told(err, "one0.json: vllm bench latency does not store how many tokens it generated")
    words = "--model", "qwen3-8b", "--output-len", "100"
    found = fields([LATENCY], [shorter], *words)
    assert found["step_one_us"] == pytest.approx(21000)
    assert len(found["asked"]) == 3
    assert found["size_bytes"] is found["streams"] is None
    assert fields([LATENCY], [shorter], *words, "--batch-size", "8")["size_bytes"] == 8 * 8192


def test_fields_are_those_of_the_page(fields):
    listed = PAGE.partition("Of served figures `breakdown` prints")[2].partition(".\n")[0]
    assert [*fields([vllm(20)], [vllm(12)])][2:] == re.findall("`(.*?)`", listed)


@pytest.mark.parametrize(
    ("one", "two", "words", "sentence"),
    [
        (vllm(20), vllm(12, model_id="Qwen3-14B"), [], "load: model Qwen3-8B and Qwen3-14B"),
        (vllm(20), vllm(12, max_concurrency=8), [], "not of one load: concurrency 1 and 8"),
        (vllm(20), vllm(12, num_prompts=9, completed=9), [], "not of one load: prompts 8 and 9"),
        (vllm(20), vllm(12, backend="openai"), [], "not of one load: engine vllm and openai"),
        (vllm(20), vllm(12, dataset_name="random"), [], "load: dataset unset and random"),
        (vllm(20, version="1"), vllm(12, version="2"), [], "not of one load: version 1 and 2"),
        (vllm(20), vllm(12, completed=7), [], "two0.json: 1 of 8 requests failed"),
        (vllm(20), vllm(12, completed=0, num_prompts=None), [], "two0.json: it has no rows"),
        (vllm(20), sglang(12), [], "not of one load: bench vllm-bench-serve and sglang"),
        (vllm(20), vllm(12, median_tpot_ms=0, p99_tpot_ms=15), [], "has no median time of a token"),
        (
            vllm(20, max_concurrency=None),
            vllm(12, max_concurrency=None, duration=1e-6),
            [],
            "two0.json: no engine computes 1.23e+07 tokens in a step",
        ),
        (vllm(20), vllm(12, mean_tpot_ms=-1), [], "two0.json: Expected `float` >= 0"),
        (vllm(20), json.dumps(vllm(12)).replace("12", "NaN"), [], "two0.json: it is JSON that is"),
        (vllm(20), "# nThread 1\n", [], "two0.json has no timings"),
        (vllm(20), vllm(20), [], "one0.json and /"),
        (vllm(20), vllm(12), ["--gpus", "1"], "'1' is not a whole number from 2 to 64"),
        (vllm(20), vllm(12), ["--model", "qwen3-14b"], "is of Qwen3-8B, not of qwen3-14b"),
        (vllm(20), vllm(12), ["--model", "qwen9-8b"], "unknown model 'qwen9-8b': did you mean"),
        (vllm(20), vllm(12), ["--tokens-a-step", "0.5"], "a step makes 0.5 tokens, not 1 or more"),
        (vllm(20), vllm(12, mean_itl_ms=36, **DRAFTS), [], "not of one load: drafter no and yes"),
        (llama("tensor", 22), llama("layer", 37), [], "one0.json is by tensor: --one is of one"),
        (llama("none", 22), llama("layer", 37), [], "two0.json has split mode layer: --two is by"),
        (llama("layer", 22)[:1], llama("tensor", 37), [], "one0.json has prompts alone"),
        (llama("layer", 22), llama("tensor", 37), [], "names no known model: say --model NAME"),
        (
            llama("none", 22),
            [*llama("row", 30), *llama("tensor", 37)],
            ["--model", "qwen3.8-27b"],
            "two0.json has split modes row and tensor: keep one of them",
        ),
        (vllm(0.02), vllm(12), [], "one0.json: a step would take 20.0 us, which is not credible"),
        (vllm(20), vllm(12e4), [], "this bench writes its times in milliseconds"),
        (
            llama("none", 22, samples_ns=[5818.0]),
            llama("tensor", 37),
            [],
            "this bench writes its times in nanoseconds",
        ),
        (vllm(20), {"median_tpot_ms": 12.0}, [], "by one of these fields: total_output_tokens_ret"),
        (LLAMA_TABLE, vllm(12), [], "one0.json is llama-bench's table: repeat it with -o json"),
    ],
)
def test_bad_input_is_one_sentence(one, two, words, sentence, bill):
    status, out, err = bill([one], [two], *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert sentence in err


def test_a_side_that_is_missing_and_a_model_without_layers_are_told(bill, tmp_path):
    for sides, lacking in ((([vllm(20)], []), "--two"), (([], [vllm(20)]), "--one")):
        status, _, err = bill(*sides)
        assert (status, f"one is missing: {lacking}" in err) == (2, True)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"hidden_size": 4096, "num_attention_heads": 32}))
    status, _, err = bill([vllm(20)], [vllm(12)], "--config", config)
    assert (status, "missing required field `num_hidden_layers`" in err) == (2, True)
