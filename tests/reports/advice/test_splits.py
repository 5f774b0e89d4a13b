"""Splits of several kinds, several nodes, split experts, a drafter, and weights in host memory:
each figure beside a case that was calculated by hand, or beside what others published."""

import re
from dataclasses import replace
from math import prod

import pytest

from reports.advice import specs
from reports.advice.group_times import (
    GroupTimes,
    as_exchanges,
    assumed_groups,
    exchange_share,
    network_times,
)
from reports.advice.offload import offloaded
from reports.advice.reduce_times import assumed_times
from reports.advice.serving import BY_STREAMS, BY_TENSOR, Deployment, all_splits
from reports.advice.spans import as_span
from reports.advice.specs import GB
from reports.advice.split_experts import busiest_of
from reports.references.pairs import pairs
from tests.launch import ROOT
from tests.reports.advice.test_serving import LLAMA, MIXTRAL, R9700, always
from wiretax.record.result import ResultError

pytestmark = pytest.mark.unit

# An all-reduce of so many GPUs on so many nodes, and a hand-off on so many, in us.
GROUPS = GroupTimes(
    lambda gpus, nodes: always(10 * gpus * nodes),
    lambda nodes: always(5 * nodes),
    as_exchanges(lambda gpus, nodes: always(10 * gpus * nodes)),
)
ALONE_US = 62_500  # 40 GB at 640 GB/s


def by_size():
    """Times of a microsecond a byte."""
    return lambda size_bytes: as_span(float(size_bytes))


def splits_of(gpus, **values):
    times = GROUPS.all_reduces(gpus, values.get("nodes", 1))
    return all_splits(
        replace(
            R9700,
            tensor=gpus,
            times=times,
            groups=GROUPS,
            **values,
        )
    )


def test_every_factorisation_has_a_name():
    """A split that is missing cannot be recommended."""
    assert [*splits_of(1)] == ["one GPU"]
    assert [*splits_of(2)] == ["TP 2", "PP 2", "2 replicas"]
    four = ["TP 4", "PP 4", "4 replicas", "TP 2 x PP 2", "2 replicas of TP 2", "2 replicas of PP 2"]
    assert [*splits_of(4)] == four
    assert "2 replicas of TP 2 x PP 2" in splits_of(8)
    for gpus in (6, 8, 64):
        splits = splits_of(gpus)
        counts = {(split.tensor, split.stages, split.replicas) for split in splits.values()}
        assert len(counts) == len(splits)
        assert {prod(count) for count in counts} == {gpus}
    mixture = replace(R9700, model=MIXTRAL, tensor=4, groups=GROUPS)
    with_tensor = "{} 4 + EP", "{} 2 + EP x PP 2", "2 replicas of {} 2 + EP"
    experts = [name.format(attention) for attention in ("TP", "DP") for name in with_tensor]
    assert [*all_splits(mixture)] == [*four, *experts]


def test_a_hybrid_pays_for_its_own_groups():
    """Counted with the all-reduces of all four, TP 2 x PP 2 would lose to PP 4 where it wins."""
    splits = splits_of(4, slots=8)
    hybrid = splits["TP 2 x PP 2"].figures
    assert hybrid["step_us"].value == pytest.approx(ALONE_US / 2 + 160 * 20 + 2 * 5)
    # Four streams are in flight in each of two groups.
    assert hybrid["tokens_per_s"].value == pytest.approx(8e6 / hybrid["step_us"].value)
    replicas = splits["2 replicas of TP 2"].figures
    assert replicas["step_us"].value == pytest.approx(ALONE_US / 2 + 160 * 20)
    assert splits["TP 4"].figures["step_us"].value == pytest.approx(ALONE_US / 4 + 160 * 40)
    assert splits["TP 2 x PP 2"].memory_bytes(1) == pytest.approx(10 * GB, rel=0.03)
    assert splits["2 replicas of TP 2"].memory_bytes(1) == pytest.approx(20 * GB, rel=0.03)


def test_the_first_token_of_many_waits_for_its_turn():
    """Eight users at once: a prompt's own time would be an eighth of what the last one waits."""
    splits = splits_of(4, slots=8, prompt=2048)
    for name, turns in (
        ("TP 4", 8),
        ("2 replicas of TP 2", 4),
        ("4 replicas", 2),
    ):
        figures = splits[name].figures
        last_us = figures["last_first_token_us"].value
        assert last_us == pytest.approx(turns * figures["prompt_us"].value)
    pipeline = splits["PP 4"].figures
    period_us = pipeline["prompt_us"].value / 4
    assert pipeline["last_first_token_us"].value == pytest.approx(11 * period_us, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "step_us"),
    [
        ("TP 8", ALONE_US / 8 + 160 * 160),  # of 8 GPUs on 2 nodes
        ("TP 4 x PP 2", ALONE_US / 4 + 160 * 40 + 2 * 10),  # both hand-offs leave a node
        ("PP 8", ALONE_US + 6 * 5 + 2 * 10),
        ("2 replicas of TP 4", ALONE_US / 4 + 160 * 40),
        ("2 replicas of PP 4", ALONE_US + 4 * 5),
    ],
)
def test_only_what_leaves_a_node_pays_for_the_network(name, step_us):
    """TP inside a node and PP between them is the usual answer for two nodes: it must not pay for
    all-reduces over the network, and TP 8 must."""
    split = splits_of(8, nodes=2)[name]
    assert split.figures["step_us"].value == pytest.approx(step_us)


def test_a_split_that_does_not_divide_is_told_why():
    obstacles = {name: split.obstacle for name, split in splits_of(12, nodes=3).items()}
    assert obstacles["TP 12"] == "64 heads do not go into 12"
    assert obstacles["TP 4 x PP 3"] is None
    mixture = replace(
        R9700,
        model=replace_model(heads=48),
        tensor=12,
        nodes=3,
        groups=GROUPS,
    )
    splits = all_splits(mixture)
    assert splits["TP 6 x PP 2"].obstacle == "groups of 6 GPUs do not fill nodes of 4"
    assert splits["DP 12 + EP"].obstacle == "8 experts do not go into 12"


def replace_model(**fields):
    """Mixtral with other fields."""
    rows = {name: getattr(MIXTRAL, name) for name in MIXTRAL.__struct_fields__}
    return type(MIXTRAL)(**rows | {"parameters": 0} | fields)


def test_the_busiest_gpu_has_more_than_its_share():
    """Of one token that chooses 2 of 4 experts on two GPUs, both choices are on one GPU in a third
    of the layers; a router that always chooses the same two leaves the other GPU idle."""
    one = busiest_of("uniform", 2, 4, 2, 1)
    assert one.experts == pytest.approx(4 / 3, abs=0.15)
    assert one.rows == one.experts
    skewed = busiest_of("zipf:99", 2, 8, 2, 8)
    assert (skewed.experts, skewed.rows, skewed.leaving) == (2, 16, 4)
    many = busiest_of("uniform", 2, 8, 2, 1 << 14)
    assert many.rows == pytest.approx(1 << 14, rel=0.05)


def test_split_experts_read_what_the_router_chose():
    """With this skew one GPU reads two of its four experts, and the other none."""
    share = MIXTRAL.expert_share
    load = replace(
        R9700, model=MIXTRAL, weights="80GB", tensor=2, batch=4, skew="zipf:99", times=always(0)
    )
    read_gb = {
        BY_TENSOR: 80 * ((1 - share) / 2 + share / 4),
        BY_STREAMS: 80 * ((1 - share) + share / 4),
    }
    for experts, gb in read_gb.items():
        split = replace(load, experts=experts)
        assert split.figures["step_us"].value == pytest.approx(gb * 1e6 / 640)
    split = replace(load, experts=BY_STREAMS)
    # Two of four tokens leave the other GPU; an all-to-all counts what stays.
    assert split.exchange_bytes(4) == 2 * 4096 * 2 * 2
    timed = replace(split, times=by_size())
    alone_us = split.figures["step_us"].value
    assert timed.figures["step_us"].value == pytest.approx(alone_us + 64 * 32768)
    weights = 80 * GB * (1 - share / 2)
    assert split.memory_bytes(4) == pytest.approx(weights, rel=0.02)


def test_all_to_alls_take_the_published_share_of_all_reduces():
    share, figures = exchange_share()
    assert figures >= 7
    assert share.low < share.value < 1 < share.high
    page = (ROOT / "docs/advise.md").read_text()
    assert f"{share.value:.2f} [{share.low:.2f} {share.high:.2f}]" in page
    split = replace(splits_of(2, model=MIXTRAL)["TP 2"], experts=BY_STREAMS, groups=GROUPS)
    assert split.exchange_us(100).value == pytest.approx(share.value * 20)


def test_split_experts_cost_what_two_3090s_measured():
    """Cards without peers, in graphs, at 1, 2, 4 and 8 streams: with EP 0.93 to 0.96 of TP 2."""
    gpu, model = specs.GPUS["rtx3090"], specs.MODELS["qwen3-30b-a3b"]
    rows = [row for row in pairs() if row.gpu == "RTX 3090" and "Qwen3-30B-A3B" in row.model]
    groups = assumed_groups(2, gpu, link=specs.LINKS["pcie4x16"])
    ratios, published_ratios = list[float](), list[float]()
    for streams in (1, 2, 4, 8):
        tensor, experts = sorted(
            (row for row in rows if row.streams == streams and row.split.tensor == 2),
            key=lambda row: row.split.experts,
        )
        assert (tensor.split.experts, experts.split.experts) == (1, 2)
        times = groups.all_reduces(2, 1)
        load = Deployment(model, gpu, "fp8", times, 1024, slots=streams, tensor=2, groups=groups)
        splits = all_splits(load)
        whole, by_expert = (
            splits[name].figures["tokens_per_s"].value for name in ("TP 2", "TP 2 + EP")
        )
        assert experts.decode_tok_s
        assert tensor.decode_tok_s
        ratios.append(by_expert / whole)
        published_ratios.append(experts.decode_tok_s / tensor.decode_tok_s)
    assert ratios == pytest.approx(published_ratios, abs=0.03)
    page = " ".join((ROOT / "docs/advise.md").read_text().split())
    measured = f"{min(published_ratios):.2f} to {max(published_ratios):.2f}"
    assert f"measured {measured} of TP 2, where the formula says {min(ratios):.2f}" in page


@pytest.mark.parametrize(
    ("gpu", "gpus", "nodes", "fabric"),
    [
        ("h100", 16, 2, "NVLink 4 + network"),
        ("r9700", 2, 2, "network"),
        ("r9700", 8, 2, "network"),
        ("rtx3090", 4, 2, "network"),  # a bridge joins two cards, and no node
    ],
)
def test_published_networks_are_those_of_the_cards(gpu, gpus, nodes, fabric):
    card = specs.GPUS[gpu]
    times = network_times(gpus, card, specs.link_between(card, gpus // nodes), nodes)
    assert f"eager, over {fabric} (docs" in times.source
    assert times(16384).low > 30
    if "NVLink" not in fabric and gpus > nodes:
        # The cards of a node share their slots' link first: not faster than one card a node.
        within = assumed_times(gpus // nodes, card, specs.link_between(card, gpus // nodes))
        alone = network_times(nodes, card, specs.link_between(card, 1), nodes)
        for size in (1024, 1 << 25):
            parts = within(size).value + alone(size).value
            assert times(size).value == pytest.approx(parts, rel=0.01)
    unknown = replace(specs.LINKS["nvlink4"], fabric="NVLink 9")
    with pytest.raises(ResultError, match="nobody published all-reduces of NCCL over NVLink 9"):
        network_times(16, specs.GPUS["h100"], unknown, 2)


def test_a_drafter_enlarges_the_calls_and_the_tokens():
    """Two pairs that ran a drafter of 7 passed for pairs without one: their calls had 80 KiB."""
    drafted = replace(
        R9700,
        tensor=2,
        times=by_size(),
        proposed=4,
        accepted=3.5,
    )
    figures, step_us = drafted.figures, ALONE_US / 2 + 160 * 5 * 16384
    assert figures["step_us"].value == pytest.approx(step_us)
    assert figures["token_us"].value == pytest.approx(step_us / 3.5)
    assert figures["tokens_per_s"].value == pytest.approx(3.5e6 / step_us)
    # Five tokens read more experts than one.
    mixture = replace(R9700, model=MIXTRAL, proposed=4)
    read = 1 - MIXTRAL.expert_share * 0.75**5
    assert mixture.figures["step_us"].value == pytest.approx(ALONE_US * read)


def test_offload_costs_what_the_glossary_says():
    """It says 5 to 10 times, of a 70B of 40 GB: one RTX 3090 beside two, by layer and by tensor."""
    gpu = specs.GPUS["rtx3090"]
    groups = assumed_groups(2, gpu)
    pair = Deployment(LLAMA, gpu, "40GB", groups.all_reduces(2, 1), tensor=2, groups=groups)
    one = replace(pair, tensor=1)
    ways = offloaded(one, host_gb_s=89.6, link_gb_s=31.5)
    assert [*ways] == ["one GPU, rest on the CPU", "one GPU, rest streamed"]
    cpu, streamed = ways.values()
    rest_gb = 0.9 * -24 + one.memory_bytes(1) / GB
    assert cpu.rest_bytes(1) == pytest.approx(rest_gb * GB)
    kept_ms = (40 - rest_gb) / 936 * 1e3
    assert cpu.figures["step_us"].value / 1e3 == pytest.approx(kept_ms + rest_gb / 89.6 * 1e3)
    whole_ms = 40 / 936 * 1e3
    assert streamed.figures["step_us"].value / 1e3 == pytest.approx(whole_ms + rest_gb / 31.5 * 1e3)
    page = " ".join((ROOT / "docs/advise.md").read_text().split())
    for name, words in (("PP 2", "by layer"), ("TP 2", "by tensor")):
        times = cpu.figures["step_us"].value / all_splits(pair)[name].figures["step_us"].value
        assert 5 < times < 10
        assert re.search(rf"\b{times:.1f} times as long as (on two )?{words}", page)
    assert cpu.memory_bytes(1) == pytest.approx(0.9 * 24 * GB)


def test_experts_go_to_host_memory_first():
    """A token reads two of eight: a mixture loses less than a dense model of its size."""
    mixture = replace(R9700, model=MIXTRAL, weights="50GB")
    dense = replace(R9700, weights="50GB")
    (rest, _), (dense_rest, _) = (
        offloaded(load, host_gb_s=80, link_gb_s=32).values() for load in (mixture, dense)
    )
    bytes_read = rest.read_bytes(1, tokens=1)
    assert bytes_read == pytest.approx(rest.rest_bytes(1) / 4)
    assert dense_rest.read_bytes(1, tokens=1) == dense_rest.rest_bytes(1)


def test_the_cpu_serves_one_group_at_a_time():
    """Two groups of a pipeline share one CPU: their rest cannot be read twice as fast."""
    load = replace(R9700, weights="90GB", tensor=2, slots=2)
    pipeline, _ = offloaded(load, host_gb_s=10, link_gb_s=32).values()
    read_us = pipeline.rest_bytes(2) / 10e3
    assert pipeline.figures["tokens_per_s"].value == pytest.approx(2e6 / (2 * read_us))
    with_cache = replace(load, context=10**7)
    assert not offloaded(with_cache, host_gb_s=10, link_gb_s=32)


def test_the_cache_that_is_left_is_what_fits():
    split = replace(R9700, tensor=2, context=1000)
    most = split.most_context
    assert replace(split, context=most).lack(1) is None
    assert replace(split, context=most + 1).lack(1)
    assert split.free_bytes / 2 + split.memory_bytes(1) == pytest.approx(0.9 * 32 * GB)


def test_at_the_peak_of_four_3090s_two_groups_of_two_beat_one_of_four():
    """Published: 2.07 times the tokens of TP 4, over PCIe 3, with as many streams as there may be;
    with few streams TP 4 is faster by its bandwidth."""
    rows = [row for row in pairs() if row.machine.startswith("alesha-pro 4x3090 PCIe3")]
    tensor, replicas = (
        next(row.decode_tok_s for row in rows if row.split.replicas == n and row.gpus == 4)
        for n in (1, 2)
    )
    assert replicas
    assert tensor
    assert replicas > tensor
    gpu = specs.GPUS["rtx3090"]
    groups = assumed_groups(4, gpu, link=specs.LINKS["pcie3x16"])
    times = groups.all_reduces(4, 1)
    model = specs.MODELS["qwen3.6-27b"]
    for slots, is_faster in ((8, False), (256, True)):
        load = Deployment(model, gpu, "fp8", times, 1024, slots=slots, tensor=4, groups=groups)
        splits = all_splits(load)
        four, two = (
            splits[name].figures["tokens_per_s"].value for name in ("TP 4", "2 replicas of TP 2")
        )
        assert (two > four) == is_faster


def groups_of(us):
    """All-reduces by their number of ranks; hand-offs as those of four."""
    return GroupTimes(
        lambda gpus, nodes: always(us.get(gpus, 100)),
        lambda nodes: always(us[4]),
        as_exchanges(lambda gpus, nodes: always(100)),
    )


def test_published_hybrids_of_sixteen_cards_are_ranked_by_their_calls():
    """TP 8 x PP 2 beside TP 4 x PP 4, with a drafter, by NCCL and by an own kernel, whose times
    their owner printed beside the rates. The checkpoint's format is unknown: q4 is about what
    fits."""
    rows = [row for row in pairs() if row.family == "H84"]
    calls_us = dict[int, dict[str, float]]()
    for row in rows:
        if found := re.search(r"([0-9]+) us against ([0-9]+) us NCCL at TP([0-9])", row.note):
            own, nccl, ranks = map(int, found.groups())
            calls_us[ranks] = {"two-stage custom all-reduce": own, "NCCL": nccl}
    assert {*calls_us} == {4, 8}

    ratios, published_ratios = list[float](), list[float]()
    for kernel in ("two-stage custom all-reduce", "NCCL"):
        drafted = [row for row in rows if row.split.kernel == kernel and row.draft_tokens == 5]
        deep, wide = sorted(drafted, key=lambda row: row.split.tensor)
        assert deep.decode_tok_s
        assert wide.decode_tok_s
        published_ratios.append(wide.decode_tok_s / deep.decode_tok_s)
        groups = groups_of({ranks: calls_us[ranks][kernel] for ranks in (4, 8)})
        load = Deployment(
            specs.MODELS["deepseek-v4-flash"],
            specs.GPUS["rtx5060ti"],
            "q4",
            always(100),
            tensor=16,
            groups=groups,
            proposed=5,
        )
        splits = all_splits(load)
        steps_us = [
            splits[name].figures["step_us"].value for name in ("TP 4 x PP 4", "TP 8 x PP 2")
        ]
        ratios.append(steps_us[0] / steps_us[1])
    assert ratios == pytest.approx(published_ratios, rel=0.25)
    page = " ".join((ROOT / "docs/advise.md").read_text().split())
    one, other = published_ratios
    assert f"measured {one:.2f} and {other:.2f} times" in page
    assert f"where the formula says {ratios[0]:.2f} and {ratios[1]:.2f}" in page


def test_a_pipeline_of_split_experts_takes_a_prompt_on_each_gpu():
    """DP 2 + EP x PP 2, as published of four PRO 6000s: two prompts at once, in two stages."""
    load = replace(
        R9700,
        model=MIXTRAL,
        tensor=4,
        times=always(0),
        prompt=2048,
    )
    hybrid, group = (all_splits(load)[name] for name in ("DP 2 + EP x PP 2", "DP 4 + EP"))
    pair = replace(load, tensor=2, experts=BY_STREAMS)
    assert hybrid.memory_bytes(1) == pytest.approx(pair.memory_bytes(1) / 2, rel=0.02)
    assert hybrid.prompts()[0].value == pytest.approx(pair.prompts()[0].value)
    # Both stages are busy.
    assert hybrid.prompts()[1].value == pytest.approx(2 * pair.prompts()[1].value)
    assert hybrid.decode_us(1).value == pytest.approx(pair.decode_us(1).value)
    assert group.memory_bytes(1) > hybrid.memory_bytes(1)
    # Of eight streams a GPU caches four, in half of the layers.
    long, none = (replace(hybrid, context=context).memory_bytes(8) for context in (10_000, 0))
    assert long - none == pytest.approx(4 / 2 * MIXTRAL.kv_bytes_per_token * 10_000)


def test_other_times_of_all_gpus_change_their_split():
    """Whoever asks what a free wire would give replaces `times`."""
    load = replace(R9700, tensor=2, times=always(50), groups=GROUPS)
    free = replace(load, times=always(0))
    assert free.figures["step_us"].value == pytest.approx(ALONE_US / 2)
    pipeline = replace(free, tensor=1, stages=2)
    assert pipeline.figures["step_us"].value == pytest.approx(ALONE_US)


def test_one_node_needs_no_published_network():
    """Nobody published oneCCL between hosts: two Arc cards in one have all their splits."""
    gpu = specs.GPUS["b70"]
    groups = assumed_groups(2, gpu)
    times = groups.all_reduces(2, 1)
    load = Deployment(LLAMA, gpu, "40GB", times, tensor=2, slots=4, groups=groups)
    assert all(split.figures for split in all_splits(load).values())
    with pytest.raises(ResultError, match="nobody published all-reduces of oneCCL over network"):
        groups.hand_offs(2)
