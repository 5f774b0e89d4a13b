"""Tests the figures of `advise` for serving. Each figure is compared with a case that was
calculated by hand from the published fields, without the program."""

import json
import re
from dataclasses import replace

import pytest

from reports.advice import specs
from reports.advice.reduce_times import wire_factor
from reports.advice.serving import Deployment
from reports.advice.spans import as_span
from reports.advice.specs import GB
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit

LLAMA = specs.MODELS["llama-3.1-70b"]
MIXTRAL = specs.MODELS["mixtral-8x7b"]


def always(us):
    return lambda size_bytes: as_span(float(us))


def by_bytes(gb_s, gpus):
    return lambda size_bytes: as_span(wire_factor(gpus) * size_bytes / gb_s / 1e3)


R9700 = Deployment(LLAMA, specs.GPUS["r9700"], "40GB", always(0))


def prompt_us(prompt, times=None, **split):
    times = times or always(0)
    return replace(R9700, prompt=prompt, times=times, **split).prompts()[0].value


def test_parameter_counts_match_the_published_ones():
    """Otherwise every figure of a model would be wrong: its weights, its speed and its memory."""
    published = {
        "llama-3.1-70b": 70.6,
        "qwen2.5-72b": 72.7,
        "qwen3-30b-a3b": 30.5,
        "minimax-m2.5": 228.7,
    }
    assert {name: specs.MODELS[name].parameters / GB for name in published} == pytest.approx(
        published, rel=2e-3
    )
    assert MIXTRAL.active_share * MIXTRAL.parameters == pytest.approx(12.9e9, rel=3e-3)


def test_a_sliding_window_ends_the_growth_of_most_layers_caches():
    """Counted as full attention, eight chats of 32,768 tokens would need 236 GB and not 28."""
    gemma = specs.MODELS["gemma-4-31b"]
    # 50 layers x 2 x 16 heads x 256 x 2 B and 10 x 2 x 4 x 512 x 2 B, a token.
    assert gemma.cached_bytes(32_768) == 819_200 * 1024 + 81_920 * 32_768
    assert gemma.cached_bytes(100) == 901_120 * 100
    chats = replace(R9700, model=gemma, context=32_768)
    assert chats.kv_bytes(8) == pytest.approx(28.2e9, rel=1e-3)


def test_the_prompt_of_2048_tokens_moves_5_gb():
    """Decode and prefill have different answers; one answer for both would mislead."""
    wire_us = 160 * by_bytes(63, 2)(LLAMA.all_reduce_bytes(2048)).value
    assert wire_us == pytest.approx(85_200, rel=1e-3)
    # 2 x 70.55e9 x 2048 operations with weights, 2 x 2048^2 x 8192 x 80 of attention.
    compute_us = (2 * 70.552387584e9 * 2048 + 2 * 2048**2 * 8192 * 80) / 191e6
    assert prompt_us(2048) == pytest.approx(compute_us)
    tensor = prompt_us(2048, by_bytes(63, 2), tensor=2)
    assert tensor == pytest.approx(compute_us / 2 + wire_us)
    one_chunk = prompt_us(2048, by_bytes(63, 2), stages=2)
    assert one_chunk == pytest.approx(compute_us + 33_554_432 / 63e3)


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
        (json.dumps(CONFIG | {"num_experts": 8}), "experts but no num_experts_per_tok"),
        (json.dumps(CONFIG | {"kv_lora_rank": 512}), "kv_lora_rank"),
        (json.dumps(CONFIG | {"parameters": -1e300}), "Expected `float` >= 0.0"),
        (json.dumps(CONFIG | {"num_hidden_layers": 0}), "Expected `int` >= 1"),
        (json.dumps(CONFIG | {"hidden_size": 10**30}), "Expected `int` <= 1000000000"),
        (
            json.dumps(CONFIG | {"hidden_size": 10**9, "num_hidden_layers": 10**9}),
            "parameters, which no model has",
        ),
        (json.dumps(CONFIG | {"parameters": 1e-300}), "1e-300 parameters, which no model has"),
        (
            json.dumps(CONFIG | {"num_experts": 10**9, "num_experts_per_tok": 1}),
            "1000000000 experts, which no model has",  # to draw them took minutes
        ),
        (json.dumps(CONFIG | {"kv_layers": 81}), "more layers of a kind than layers"),
        (json.dumps(CONFIG | {"first_k_dense_replace": 81}), "more layers of a kind than layers"),
        (json.dumps(CONFIG | {"active_parameters": 71e9}), "more active parameters than"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "is not JSON (maximum recursion depth"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, message):
    """Otherwise the program would print figures of a model that does not exist."""
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=re.escape(message)) as refused:
        specs.model_of(path)
    assert "\n" not in str(refused.value)
