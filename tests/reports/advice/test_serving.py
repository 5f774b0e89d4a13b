"""Tests the figures of `advise` for serving. Each figure is compared with a case that was
calculated by hand from the published fields, without the program."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from reports.advice import specs
from reports.advice.reduce_times import wire_factor
from reports.advice.serving import EXPERTS, GB, OFFLOAD, ONE, PIPELINE, REPLICAS, TENSOR, Split
from reports.store.result import ResultError

pytestmark = pytest.mark.unit

LLAMA = specs.MODELS["llama-3.1-70b"]
MIXTRAL = specs.MODELS["mixtral-8x7b"]


def always(us):
    return lambda size_bytes: np.full(3, float(us))


def by_bytes(gb_s, gpus):
    return lambda size_bytes: np.full(3, wire_factor(gpus) * size_bytes / gb_s / 1e3)


R9700 = Split(LLAMA, specs.GPUS["r9700"], 2, "40GB", 40 * GB, always(0))
SLOW = replace(specs.GPUS["r9700"], bandwidth_gb_s=1000, fp16_tflops=float("inf"))
MIXTURE = Split(MIXTRAL, SLOW, 4, "fp16", 46.7 * GB, always(0))


def step_us(load, kind, gpus, streams=1, times=None):
    return replace(load, times=times or load.times, kind=kind, gpus=gpus).decode_us(streams)


def prompt_us(load, kind, gpus, prompt, times):
    return replace(load, times=times, prompt=prompt, kind=kind, gpus=gpus).prompts()[0][0]


def test_parameter_counts_match_the_published_ones():
    """Otherwise every figure of a model would be wrong: its weights, its speed and its memory."""
    published = {
        "llama-3.1-8b": 8.03,
        "llama-3.1-70b": 70.6,
        "llama-3.1-405b": 405.9,
        "qwen2.5-72b": 72.7,
        "qwen3-32b": 32.8,
        "qwen3-30b-a3b": 30.5,
        "mixtral-8x7b": 46.7,
        "mixtral-8x22b": 140.6,
    }
    assert {name: specs.MODELS[name].parameters / GB for name in published} == pytest.approx(
        published, rel=2e-3
    )
    assert MIXTRAL.active_share * MIXTRAL.parameters == pytest.approx(12.9e9, rel=3e-3)


def test_the_prompt_of_2048_tokens_moves_5_gb():
    """Decode and prefill have different answers; one answer for both would mislead."""
    size = LLAMA.all_reduce_bytes(2048)
    assert size == 33_554_432
    assert 160 * size == pytest.approx(5.37 * GB, rel=1e-3)
    wire_us = 160 * by_bytes(63, 2)(size)[0]
    assert wire_us == pytest.approx(85_200, rel=1e-3)
    # 2 x 70.55e9 x 2048 operations with weights, 2 x 2048^2 x 8192 x 80 of attention.
    compute_us = (2 * 70.552387584e9 * 2048 + 2 * 2048**2 * 8192 * 80) / 191e6
    assert prompt_us(R9700, ONE, 1, 2048, always(0)) == pytest.approx(compute_us)
    tensor = prompt_us(R9700, TENSOR, 2, 2048, by_bytes(63, 2))
    assert tensor == pytest.approx(compute_us / 2 + wire_us)
    one_chunk = prompt_us(R9700, PIPELINE, 2, 2048, by_bytes(63, 2))
    assert one_chunk == pytest.approx(compute_us + 33_554_432 / 63e3)


def test_a_pipeline_hides_its_transfer_with_two_chunks_in_flight():
    """Otherwise a pipeline would look slower than it is for every prompt after the first."""
    stage = prompt_us(R9700, ONE, 1, 8192, always(0)) / 8
    handed_on = prompt_us(R9700, PIPELINE, 2, 8192, always(500))
    assert handed_on == pytest.approx(5 * stage + 500)  # four chunks, and one more stage to pass
    slow = prompt_us(R9700, PIPELINE, 2, 8192, always(2 * stage))
    assert slow == pytest.approx(2 * stage + 4 * 2 * stage)  # the hand-off hides the work
    rates = replace(R9700, prompt=8192, times=always(2 * stage), kind=PIPELINE).prompts()[1]
    assert rates == pytest.approx(1e6 * 2048 / (2 * stage))


def test_the_kv_cache_of_a_token_uses_layers_and_grouped_heads():
    """Otherwise a context ten times too long or too short would seem to fit."""
    assert LLAMA.kv_bytes_per_token == 327_680
    assert int(24 * GB // LLAMA.kv_bytes_per_token) == 73_242
    assert 1024 * LLAMA.kv_bytes_per_token == pytest.approx(335.5e6, rel=1e-3)
    many = replace(R9700, context=4096, batch=64, prompt=1)
    held = replace(many, weights_bytes=140 * GB, gpus=4).memory_bytes
    assert held["KV cache"] == pytest.approx(21.5 * GB, rel=2e-3)
    assert held["weights"] == 35 * GB
    assert held["KV cache"] + held["weights"] > 40 * GB
    offload = replace(many, kind=OFFLOAD, gpus=1).memory_bytes["KV cache"]
    assert offload == pytest.approx(
        64 * 4096 * 327_680
    )  # the one GPU that works serves all streams
    wide = replace(many, batch=1, gpus=16).memory_bytes["KV cache"]
    assert wide == 4096 * 327_680 / 8  # eight KV heads on sixteen GPUs: two GPUs hold each head


def test_mixtral_sends_tokens_to_their_experts():
    """Otherwise an expert split would seem to cost as much as an all-reduce, or nothing."""
    tokens = 1024 // 4
    assert tokens * 2 * 8192 == 4_194_304
    assert MIXTRAL.dispatch_bytes(4, tokens) == pytest.approx(3.15e6, rel=2e-3)
    assert MIXTRAL.dispatch_bytes(4, tokens, shared=True) == pytest.approx(2.92e6, rel=1e-3)
    assert MIXTRAL.all_reduce_bytes(1024) == pytest.approx(8.39e6, rel=1e-3)
    # Dispatch and combine of 32 layers; each costs an all-reduce that sends 2 (n-1)/n bytes = 3.15
    # MB times the skew.
    skewed = replace(MIXTURE, weights_bytes=0, skew=1.5)
    step = step_us(skewed, EXPERTS, 4, 1024, by_bytes(63, 4))
    assert step[0] == pytest.approx(64 * 1.5 * MIXTRAL.dispatch_bytes(4, tokens) / 63e3)


def test_each_split_divides_many_streams_in_its_own_way():
    """Otherwise throughput and latency would be confused."""
    eight = replace(R9700, context=4096)
    cache_us = 4096 * 327_680 / 640e3
    assert eight.step_us(8) == pytest.approx(62_500 + 8 * cache_us)
    assert step_us(eight, PIPELINE, 2, 8)[0] == pytest.approx(62_500 + 4 * cache_us)
    assert step_us(eight, REPLICAS, 2, 8)[0] == pytest.approx(62_500 + 4 * cache_us)
    assert step_us(eight, TENSOR, 2, 8)[0] == pytest.approx((62_500 + 8 * cache_us) / 2)


def test_weights_that_do_not_fit_are_read_through_the_slot():
    """Otherwise one card with offload would look as fast as two."""
    room = 0.9 * 32 * GB - LLAMA.activation_bytes(2048)
    wanted = room / 640e3 + (40 * GB - room) / 63e3
    assert step_us(R9700, OFFLOAD, 1)[0] == pytest.approx(wanted)


CONFIG = {
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
}


def test_a_config_file_defines_a_model(tmp_path):
    """A user can ask about a model that the table lacks."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    assert specs.model_of(path).parameters == LLAMA.parameters
    path.write_text(
        json.dumps({"text_config": CONFIG | {"num_local_experts": 8, "num_experts_per_tok": 2}})
    )
    assert specs.model_of(path).top_k == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{" * 5000, "is not JSON"),
        ("x" * 1_000_001, "more than the 1 MB"),
        (json.dumps({"model_type": "llama"}), "missing required field `num_hidden_layers`"),
        (json.dumps(CONFIG | {"hidden_size": -1}), "Expected `int` >= 1 - at"),
        (json.dumps(CONFIG | {"num_experts": 8}), "experts but no num_experts_per_tok"),
        (json.dumps(CONFIG | {"kv_lora_rank": 512}), "kv_lora_rank"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, message):
    """Otherwise the program would print figures of a model that does not exist."""
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=re.escape(message)) as refused:
        specs.model_of(path)
    assert "\n" not in str(refused.value)
