"""What serving requires: each figure is compared with a case that was calculated by hand from the published fields,
without the program."""

import json
from dataclasses import replace
from itertools import combinations

import pytest

from reports.advice import prefill, serving, specs
from reports.advice.serving import Span, Workload, exact
from reports.store.result import ResultError

GB = 1e9
LLAMA = specs.model("llama-3.1-70b")
R9700 = Workload(LLAMA, 40 * GB, 640, 191, 32 * GB, 63)
MIXTRAL = specs.model("mixtral-8x7b")


def always(us):
    return lambda size_bytes: exact(us)


def by_bytes(gb_s, gpus):
    return lambda size_bytes: exact(serving.wire_factor(gpus) * size_bytes / gb_s / 1e3)


def test_parameter_counts_match_the_published_ones():
    """Otherwise every figure of a model would be wrong: its weights, its speed and its memory."""
    published = {"llama-3.1-8b": 8.03, "llama-3.1-70b": 70.6, "llama-3.1-405b": 405.9, "qwen2.5-72b": 72.7,
                 "qwen3-32b": 32.8, "qwen3-30b-a3b": 30.5, "mixtral-8x7b": 46.7, "mixtral-8x22b": 140.6}
    assert {name: specs.model(name).parameters / GB for name in published} == pytest.approx(published, rel=2e-3)
    assert serving.active_share(MIXTRAL) * MIXTRAL.parameters == pytest.approx(12.9e9, rel=3e-3)


def test_every_spec_is_complete_and_gives_both_directions_and_one():
    """A figure for both directions, used as one direction, doubles a link's bandwidth."""
    for name in specs.tables()["links"]:
        link = specs.link(name)
        assert (link.both_ways_gb_s, bool(link.source)) == (2 * link.gb_s, True)
    for gpu in specs.gpus():
        assert gpu.source
        assert specs.link(gpu.slot).name == gpu.slot
        assert gpu.peer is None or specs.link(gpu.peer)
        assert gpu.fp8_tflops is None or gpu.fp8_tflops == pytest.approx(2 * gpu.fp16_tflops, rel=0.02)


def test_two_r9700_decode_a_70b_model():
    """A buyer of two cards relies on these figures."""
    held = [serving.memory_bytes(R9700, kind, gpus, 1, 1)["weights"] for kind, gpus in (("one GPU", 1), ("TP", 2))]
    assert [weights <= serving.usable_bytes(32 * GB) for weights in held] == [False, True]
    calls, size = serving.all_reduces(LLAMA), serving.all_reduce_bytes(LLAMA, 1)
    assert (calls, size, calls * size) == (160, 16384, 2_621_440)
    assert calls * by_bytes(63, 2)(size).value == pytest.approx(41.6, abs=0.05)
    assert calls * 33 / 1e3 == 5.28
    pipe = serving.single_gpu_us(R9700, 1)
    assert pipe == 62_500
    assert serving.tensor_step_us(R9700, 2, 1, always(0)).value == 31_250
    assert serving.tensor_step_us(R9700, 2, 1, always(195.3125)).value == pytest.approx(pipe)
    for us, tokens_per_s, times in ((8, 30.7, 1.92), (33, 27.4, 1.71), (47.3, 25.8, 1.61)):
        step = serving.tensor_step_us(R9700, 2, 1, always(us))
        assert round(step.rate(1).value, 1) == tokens_per_s
        assert round(pipe / step.value, 2) == times
    handed_on = serving.pipeline_step_us(R9700, 2, 1, always(33)).value
    assert handed_on == 62_500 + 2 * 33


def test_the_prompt_of_2048_tokens_moves_5_gb():
    """Decode and prefill have different answers; one answer for both would mislead."""
    size = serving.all_reduce_bytes(LLAMA, 2048)
    assert size == 33_554_432
    assert 160 * size == pytest.approx(5.37 * GB, rel=1e-3)
    wire_us = 160 * by_bytes(63, 2)(size).value
    assert wire_us == pytest.approx(85_200, rel=1e-3)
    # 2 x 70.55e9 x 2048 operations with weights, 2 x 2048^2 x 8192 x 80 of attention.
    compute_us = (2 * 70.552387584e9 * 2048 + 2 * 2048**2 * 8192 * 80) / 191e6
    assert prefill.prompt_us(R9700, 2048) == pytest.approx(compute_us)
    tensor = prefill.tensor_prompt_us(R9700, 2, 2048, by_bytes(63, 2)).value
    assert tensor == pytest.approx(compute_us / 2 + wire_us)
    one_chunk = prefill.pipeline_prompt_us(R9700, 2, 2048, by_bytes(63, 2)).value
    assert one_chunk == pytest.approx(compute_us + 33_554_432 / 63e3)


def test_a_pipeline_hides_its_transfer_with_two_chunks_in_flight():
    """Otherwise a pipeline would look slower than it is for every prompt after the first."""
    assert [prefill.pipeline_period_us(700, 500, count) for count in (1, 2, 8)] == [1200, 700, 700]
    assert prefill.pipeline_period_us(300, 500, 2) == 500
    stage = prefill.prompt_us(R9700, 8192) / 8
    handed_on = prefill.pipeline_prompt_us(R9700, 2, 8192, always(500)).value
    assert handed_on == pytest.approx(5 * stage + 500)  # four chunks, and one more stage to pass


def test_the_kv_cache_of_a_token_uses_layers_and_grouped_heads():
    """Otherwise a context ten times too long or too short would seem to fit."""
    assert serving.kv_bytes_per_token(LLAMA) == 327_680
    assert int(24 * GB // serving.kv_bytes_per_token(LLAMA)) == 73_242
    assert 1024 * serving.kv_bytes_per_token(LLAMA) == pytest.approx(335.5e6, rel=1e-3)
    held = serving.memory_bytes(replace(R9700, weights_bytes=140 * GB, context=4096), "TP", 4, 64, 1)
    assert held["KV cache"] == pytest.approx(21.5 * GB, rel=2e-3)
    assert held["weights"] == 35 * GB
    assert held["KV cache"] + held["weights"] > 40 * GB
    assert serving.memory_bytes(replace(R9700, context=4096), "CPU offload", 4, 64, 1)["KV cache"] == pytest.approx(
        64 * 4096 * 327_680)  # the one GPU that works serves all streams
    many = serving.memory_bytes(replace(R9700, context=4096), "TP", 16, 1, 1)
    assert many["KV cache"] == 4096 * 327_680 / 8  # eight KV heads on sixteen GPUs: two GPUs hold each head


def test_a_27b_model_on_a_94_gb_card():
    """Otherwise a buyer would buy or bridge two cards for a model that one card serves equally well."""
    model, gpu = specs.model("qwen3.5-27b"), specs.gpu("h100-nvl")
    one = Workload(model, 27 * GB, gpu.bandwidth_gb_s, memory_bytes=gpu.memory_gb * GB)
    assert (gpu.memory_gb, gpu.bandwidth_gb_s, serving.all_reduces(model)) == (94, 3900, 128)
    alone = serving.single_gpu_us(one, 1)
    assert alone == pytest.approx(6923, abs=1)
    assert serving.tensor_step_us(one, 2, 1, always(27.04)).value == pytest.approx(alone, rel=1e-3)
    assert serving.tensor_step_us(one, 2, 1, always(10)).value < alone < serving.tensor_step_us(
        one, 2, 1, always(40)).value


def test_mixtral_sends_tokens_to_their_experts():
    """Otherwise an expert split would seem to cost as much as an all-reduce, or nothing."""
    tokens = 1024 // 4
    assert tokens * 2 * 8192 == 4_194_304
    assert serving.dispatch_bytes(MIXTRAL, 4, tokens) == pytest.approx(3.15e6, rel=2e-3)
    # The number of other ranks that hold the experts of each of the 28 pairs; each rank has two experts, and the token
    # is on rank 0.
    others = [len({expert // 2 for expert in pair} - {0}) for pair in combinations(range(8), 2)]
    shared = tokens * 8192 * sum(others) / len(others)
    assert serving.dispatch_bytes(MIXTRAL, 4, tokens, shared=True) == pytest.approx(shared)
    assert shared == pytest.approx(2.92e6, rel=1e-3)
    assert serving.all_reduce_bytes(MIXTRAL, 1024) == pytest.approx(8.39e6, rel=1e-3)
    # Dispatch and combine of 32 layers; each costs an all-reduce that sends 2 (n-1)/n bytes = 3.15 MB times the skew.
    skewed = Workload(MIXTRAL, 0, 1000, skew=1.5)
    step = serving.experts_step_us(skewed, 4, 1024, by_bytes(63, 4))
    assert step.value == pytest.approx(64 * 1.5 * serving.dispatch_bytes(MIXTRAL, 4, tokens) / 63e3)


def test_a_mixture_reads_only_the_experts_that_it_uses():
    """Otherwise one chat on Mixtral would look four times slower than it is."""
    whole = Workload(MIXTRAL, 46.7 * GB, 1000)
    assert serving.single_gpu_us(whole, 1) == pytest.approx(12.9e3, rel=3e-3)
    assert serving.single_gpu_us(whole, 64) == pytest.approx(46.7e3, rel=1e-3)
    assert serving.touched_experts(MIXTRAL, 2) == 3.5  # 8 x (1 - 0.75^2)


def test_links_determine_all_reduce_times():
    """Otherwise a rule of thumb would decide for eight GPUs, and not the links."""
    pcie = specs.link("pcie5x16")
    assert serving.link_all_reduce_us(pcie, 3.6, 2, 16384) == pytest.approx(3.6 + 2 + 16384 / 63e3)
    assert serving.link_all_reduce_us(pcie, 3.6, 8, 16384) == pytest.approx(3.6 + 14 + 1.75 * 16384 / 63e3)
    mesh = specs.link("xgmi-mi300x")
    assert serving.link_all_reduce_us(mesh, 0, 8, 1e9) == pytest.approx(14 * 0.47 + 1.75 * 1e9 / (7 * 64e3))


def test_an_interval_of_time_becomes_an_interval_of_tokens_per_second():
    """Otherwise a figure from a noisy link would look as exact as a figure from a quiet link."""
    step = serving.tensor_step_us(R9700, 2, 1, lambda size: Span(33, 30, 40))
    assert step == Span(31_250 + 160 * 33, 31_250 + 160 * 30, 31_250 + 160 * 40)
    rate = step.rate(1)
    assert rate.low < rate.value < rate.high
    assert rate.low == pytest.approx(1e6 / step.high)


def test_each_split_divides_many_streams_in_its_own_way():
    """Otherwise throughput and latency would be confused."""
    eight = replace(R9700, context=4096)
    cache_us = 4096 * 327_680 / 640e3
    assert serving.single_gpu_us(eight, 8) == pytest.approx(62_500 + 8 * cache_us)
    assert serving.pipeline_step_us(eight, 2, 8, always(0)).value == pytest.approx(62_500 + 4 * cache_us)
    assert serving.replicas_step_us(eight, 2, 8).value == pytest.approx(62_500 + 4 * cache_us)
    assert serving.tensor_step_us(eight, 2, 8, always(0)).value == pytest.approx((62_500 + 8 * cache_us) / 2)


def test_weights_that_do_not_fit_are_read_through_the_slot():
    """Otherwise one card with offload would look as fast as two."""
    room = 0.9 * 32 * GB - serving.activation_bytes(LLAMA, 2048)
    wanted = room / 640e3 + (40 * GB - room) / 63e3
    assert serving.offload_step_us(R9700, 1, 1).value == pytest.approx(wanted)


CONFIG = {"num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64, "num_key_value_heads": 8,
          "intermediate_size": 28672, "vocab_size": 128256}


def test_a_config_file_defines_a_model(tmp_path):
    """A user can ask about a model that the table lacks."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    assert specs.model_of(path).parameters == LLAMA.parameters
    path.write_text(json.dumps({"text_config": CONFIG | {"num_local_experts": 8, "num_experts_per_tok": 2}}))
    assert specs.model_of(path).top_k == 2


@pytest.mark.parametrize(("content", "message"), [
    ("", "is not JSON"), ("[1]", "holds no object"), ("{" * 5000, "is not JSON"), (b"\xff\xfe\x00", "is not JSON"),
    ("x" * 1_000_001, "more than the 1 MB"),
    (json.dumps({"model_type": "llama"}), "lacks num_hidden_layers, hidden_size, num_attention_heads, "
                                          "moe_intermediate_size or intermediate_size, vocab_size"),
    (json.dumps(CONFIG | {"hidden_size": "8192"}), "hidden_size is not a whole number"),
    (json.dumps(CONFIG | {"hidden_size": -1}), "hidden_size is not a whole number"),
    (json.dumps(CONFIG | {"hidden_size": True}), "hidden_size is not a whole number"),
    (json.dumps(CONFIG | {"num_experts": 8}), "lacks num_experts_per_tok"),
    (json.dumps(CONFIG | {"num_experts": 2, "num_experts_per_tok": 3}), "more experts than there are"),
    (json.dumps(CONFIG | {"kv_lora_rank": 512}), "kv_lora_rank"),
])
def test_a_file_that_is_no_config_is_refused(tmp_path, content, message):
    """Otherwise the program would print figures of a model that does not exist."""
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ResultError, match=message) as refused:
        specs.model_of(path)
    assert "\n" not in str(refused.value)


def test_unknown_names_are_refused_with_similar_names():
    """The message saves a search through the documentation after a typing error."""
    for find, name, near in ((specs.gpu, "R9070", "r9700"), (specs.model, "llama3-70b", "llama-3-70b"),
                             (specs.link, "pcie5-x16", "pcie5x16"), (specs.bits, "fp15", "fp16")):
        with pytest.raises(ResultError, match=near):
            find(name)
    with pytest.raises(ResultError) as refused:
        specs.gpu("\x1b[31m" * 50)
    assert "\x1b" not in str(refused.value)


def test_kv_heads_on_two_gpus_take_twice_the_room():
    """With eight GPUs and four KV heads, two GPUs hold each head."""
    model = specs.model("qwen3.5-27b")
    token = serving.kv_bytes_per_token(model)
    assert model.kv_heads == 4
    assert serving.room_tokens(model, 4, 1e9) == int(1e9 // (token / 4))
    assert serving.room_tokens(model, 8, 1e9) == serving.room_tokens(model, 4, 1e9)


def test_offloaded_weights_are_read_through_the_slot_for_each_chunk():
    """Ten chunks of a prompt need the weights ten times; counting them once would make an offload look six times as
    fast."""
    of = Workload(specs.model("mixtral-8x7b"), 93e9, 1008.0, 165.0, 24e9, 31.5)
    one, ten = (prefill.replicas_prompt_us(of, 1, prompt).value for prompt in (2048, 20480))
    assert ten == pytest.approx(10 * one)


def test_a_gpu_never_reads_more_experts_than_it_has():
    of = Workload(specs.model("mixtral-8x7b"), 93e9, 1008.0, skew=4.0)
    all_of_its_own = 93e9 * (1 - serving.expert_share(of.model) * 3 / 4) / 1008 / 1e3
    assert serving.experts_step_us(of, 4, 64, lambda size: serving.exact(0.0)).value == pytest.approx(all_of_its_own)
