"""The figures of the claims A1 to A10: tensor parallelism on two R9700s."""

import answer_cases
import answer_open
from answer_cases import chats, groups
from answer_pairs import between, gains
from answer_text import times_text
from claims_table import (
    Claim,
    Found,
    alone,
    call,
    calls_of_pass,
    close,
    decided,
    even_us,
    from_to,
    gain,
    gb,
    memory,
    ms,
    of_engines,
    of_prefill,
    pair,
    printed,
    prompt,
    published,
    rates,
    ratio,
    short,
    source,
    step,
    us,
)
from figures_answer import archived

from reports.advice.even_calls import by_layer
from reports.advice.serving import CHUNK_TOKENS
from reports.advice.specs import BITS, GB, LINKS, engine_calls
from reports.references.published import calls, select, serving
from reports.tables.sentences import number, size_text
from wiretax.common.grouped import grouped


def a1(claim: Claim) -> Found:
    tensor, value = claim.load(), claim.values
    single = alone(tensor)
    cards_gb = 2 * tensor.gpu.memory_gb
    cards_tb_s = 2 * tensor.gpu.bandwidth_gb_s / 1e3
    figures = {
        "parameters": f"{number(tensor.model.parameters / GB)}e9",
        "q4_bits": f"{BITS['q4']:g}",
        "q4_k_m_bits": f"{BITS['q4_k_m']:.2f}",
        "q4_gb": gb(tensor.model.parameters * BITS["q4"] / 8),
        "q4_k_m_gb": gb(claim.load(1).weights_bytes),
        "short": short(single, 1),
        "cards_gb": f"{number(cards_gb)} GB",
        "cards_tb_s": f"{number(cards_tb_s)} TB/s",
    }
    fits = tensor.obstacle is None and single.obstacle is not None
    same = close(cards_gb, value["cards_gb"]) and close(cards_tb_s, value["cards_tb_s"])
    return figures | memory(tensor), decided(fits and same)


def a2(claim: Claim) -> Found:
    model, value = claim.load().model, claim.values
    stages = by_layer(claim.load()).stages
    figures = {
        "layers": str(model.layers),
        "calls": str(model.all_reduces),
        "engine_calls": str(engine_calls(model)),
        "handoffs": str(stages - 1),
    }
    same = model.all_reduces == value["calls"] and stages - 1 == value["handoffs"]
    return figures, decided(same)


def a3(claim: Claim) -> Found:
    load, value = claim.load(), claim.values
    token = calls_of_pass(load)
    size = load.model.all_reduce_bytes(1)
    figures = {
        "bytes": f"{size:,}",
        "mb": f"{number(load.model.all_reduces * size / 1e6)} MB",
        "us": us(token.value),
        "each": us(call(load)),
        "token_ms": ms(token),
        "gb_s": f"{number(LINKS['pcie5x16'].gb_s)} GB/s",
        "published": from_to((each.us for each in published(size, gpus={2})), "us"),
    }
    same = close(token.value, value["us"]) and size == value["kib"] * 1024
    return figures, decided(same)


def a4(claim: Claim) -> Found:
    with_wire, load, value = claim.load(), claim.load(1), claim.values
    token_ms = load.model.all_reduces * value["each_us"] / 1e3
    kernels = [
        case.time_us.median
        for result in archived("h100-wire", "link")
        for case in result.cases
        if case.algorithm == "graph_kernel" and case.time_us
    ]
    figures = {
        "calls": str(load.model.all_reduces),
        "each_us": us(value["each_us"]),
        "token_ms": f"{number(token_ms)} ms",
        "with_wire": ms(calls_of_pass(with_wire)),
        "even": us(even_us(load)),
        "left": us(even_us(load) - value["each_us"]),
        "kernel": from_to(kernels, "us"),
    }
    return figures, "holds if" if close(token_ms, value["token_ms"]) else "wrong"


def a5(claim: Claim) -> Found:
    load = claim.load()
    layer = by_layer(load)
    without_calls_us = step(load).value - calls_of_pass(load).value
    found = groups()["large"]
    by_layer_of_one = gains(chats(between("one card", "layer")))
    figures = {
        "bound": number(step(layer).value / without_calls_us),
        "ratio": ratio(step(layer), step(load)),
        "tensor": ms(step(load)),
        "best_rates": printed(rates(pair("H10"))),
        "layer_engines": times_text(by_layer_of_one),
        "pipeline": number(step(alone(load)).value / step(layer).value),
        "two_streams": number(layer.figures["tokens_per_s"].value),
        "pipeline_two": number(layer.figures["tokens_per_s"].value * step(alone(load)).value / 1e6),
    }
    less = max(gains(found)) < claim.values["ratio"]
    return figures | of_engines(found), "holds if" if less else "holds"


def a6(claim: Claim) -> Found:
    load, value = claim.load(), claim.values
    pass_us = calls_of_pass(load, CHUNK_TOKENS)
    size = load.model.all_reduce_bytes(CHUNK_TOKENS)
    large = select(published(size, gpus={2}), size_bytes={size})
    figures = {
        "bytes": f"{size:,}",
        "gb": gb(load.model.all_reduces * size),
        "each": us(call(load, CHUNK_TOKENS)),
        "ms": ms(pass_us),
        "gb_s": f"{number(LINKS['pcie5x16'].gb_s)} GB/s",
        "published": from_to((each.us / 1e3 for each in large), "ms"),
        "published_ms": from_to((load.model.all_reduces * each.us / 1e3 for each in large), "ms"),
        "r9700_us": number(min(each.us for each in select(large, gpu={"R9700"}))),
    }
    return figures, decided(close(pass_us.value / 1e3, value["ms"]))


def a7(claim: Claim) -> Found:
    load, linked = claim.load(), claim.load(1)
    link, slot = LINKS["xgmi-mi300x"], LINKS["pcie5x16"]
    # Its other rows are shorter than a call, as their notes say.
    kernel = max(select(calls(), library={"libr4d"}), key=lambda each: each.us)
    lost = max(step(load).value - step(linked).value, 0.0)
    least = call(linked).low
    figures = {
        "least_us": us(least),
        "kernel_lost": ms(load.model.all_reduces * (kernel.us - least)),
        "link": f"{number(link.gb_s)} GB/s",
        "pcie": f"{number(slot.gb_s)} GB/s",
        "all_links": f"{number(link.gb_s * claim.values['links'])} GB/s",
        "as_they_are": ms(step(load)),
        "with_link": ms(step(linked)),
        "as_prompt": ms(prompt(load)),
        "with_prompt": ms(prompt(linked)),
        "prompt": f"{load.prompt:,}",
        "lost": f"{ms(lost)} of {ms(step(load))}",
        "pcie_us": us(call(load)),
        "link_us": us(call(linked)),
        "times_as_long": number(call(load).value / call(linked).value),
        "kernel_us": us(kernel.us),
    }
    return figures, decided(link.gb_s > 2 * slot.gb_s)


def a8(claim: Claim) -> Found:
    load, likely = claim.load(), claim.likely()
    layer = by_layer(load)
    many = load.figures["prompt_tokens_per_s"], layer.figures["prompt_tokens_per_s"]
    larger = [
        row
        for row in select(serving(), gpu={"R9700"}, gpus={2}, split={"layer"})
        if "larger than one card" in row.note
    ]
    figures = {
        "even": us(even_us(load)),
        "larger": str(len({row.model for row in larger})),
        "larger_tok_s": from_to(rates(larger)),
        "larger_row": source(*larger),
        "ratio": ratio(step(layer), step(load)),
        "tensor": ms(step(load)),
        "layer": ms(step(layer)),
        "likely_tensor": likely["TP 2"],
        "likely_layer": likely["PP 2"],
        "prompt": f"{ms(prompt(load))} by tensor, {ms(prompt(layer))} by layer",
        "tensor_rate": number(many[0].value),
        "layer_rate": number(many[1].value),
        "prompts": ratio(*(1 / each for each in many)),
    }
    inside = answer_cases.figures()
    figures |= {name: inside[name] for name in ("r9700_us", "r9700_times")}
    faster = step(load).value < step(layer).value
    return figures | of_prefill(), "holds if" if faster else "holds"


def a9(claim: Claim) -> Found:
    load = claim.load()
    forms = dict[int, dict[str, list[float]]]()
    for result in archived("h100", "allreduce_rmsnorm"):
        for case in result.cases:
            if case.exposed_us:
                own = forms.setdefault(case.size_bytes, {})
                name = "fused" if case.algorithm.startswith("fused") else "separate"
                own.setdefault(name, []).append(case.exposed_us.median)
    small, *_, large = sorted(forms)
    near = published(load.model.all_reduce_bytes(1), gpus={2})
    kinds = grouped(near, lambda each: (each.machine, each.library, each.mode)).values()
    slowest_us = [max(each.us for each in same) for same in kinds]
    slowest = max(near, key=lambda each: each.us)
    passing = [each for each in slowest_us if each < even_us(load)]
    also = [each for each in slowest_us if each + claim.values["submit_us"] < even_us(load)]
    prompt_calls = calls_of_pass(load, CHUNK_TOKENS)
    eager, replayed = "vllm-project/vllm#54766", pair("H104a")
    (blocking,) = select(near, source={eager})
    (inside,) = [pair for pair in groups()["fits"] if pair.other.source == eager]
    through_host = [pair for pair in groups()["large"] if pair.other.peer_access == "off"]
    best = max(through_host, key=lambda pair: pair.decode_gain or 0)
    assert best.other.engine == "llama.cpp", best.other
    figures = {
        "alone": us(blocking.us),
        "inside": us(inside.implied_us or 0),
        "eager": source(inside.other),
        "best": number(best.decode_gain or 0),
        "best_gpu": f"two {best.other.gpu}",
        "best_row": source(best.other),
        "best_rates": printed(rates([best.one, best.other])),
        "in_graph": number(gain(*replayed)),
        "graph": source(*replayed),
        "even": us(even_us(load)),
        "token_size": size_text(load.model.all_reduce_bytes(1)),
        "all": str(len(kinds)),
        "passing": str(len(passing)),
        "passing_submit": str(len(also)),
        "published": from_to((each.us for each in near if each.us < even_us(load)), "us"),
        "slowest": us(slowest.us),
        "slowest_who": f"{slowest.library} of two {slowest.gpu} {slowest.variant}".strip(),
        "size": size_text(small),
        "size_large": size_text(large),
        "fused": us(min(forms[small]["fused"])),
        "separate": us(min(forms[small]["separate"])),
        "fused_large": us(min(forms[large]["fused"])),
        "separate_large": us(min(forms[large]["separate"])),
        "prompt_share": f"{100 * prompt_calls.value / prompt(load).value:.0f} %",
    }
    assert (inside.implied_us or 0) > even_us(load)
    assert {row.replay for row in replayed} == {"graph"}
    assert gain(*replayed) > 2
    return figures, decided(not also)


def a10(claim: Claim) -> Found:
    load = claim.load()
    size = load.model.all_reduce_bytes(1)
    library = published(size, gpus={2}, kind={"library"})
    own = published(size, gpus={2, 3, 4}, kind={"tuned"})
    pair_took = answer_open.of_token()
    pair_of_cards, four = (select(own, gpu={"R9700"}, gpus={gpus}) for gpus in (2, 4))
    figures = {
        "even": us(even_us(load)),
        "size": size_text(size),
        "tuned": from_to((each.us for each in own), "us"),
        "library": from_to((each.us for each in library), "us"),
        "tuned_who": f"{'two' if pair_of_cards else 'four'} R9700s",
        "tuned_us": number(min(each.us for each in pair_of_cards or four)),
        "r9700": f"it took {pair_took}" if pair_took else "over PCIe nobody has measured it",
    }
    survives = min(each.us for each in own) < even_us(load)
    return figures, "holds if" if survives else "wrong"


OURS = {each.__name__: each for each in (a1, a2, a3, a4, a5, a6, a7, a8, a9, a10)}
