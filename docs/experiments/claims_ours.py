"""The figures of docs/claims.md by claim: computed by the advisor's formulas from the commands that
the page shows, or read from `reports/references` and the archived runs.

A function a1() returns its figures by name, as the sentences of data/claims.toml have them, and the
verdict where arithmetic decides it; None where it is a judgement."""

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median

import answer_cases
from answer_cases import chats, groups, prefill_gains, prefills
from answer_counter import times_text
from answer_pairs import between, gains
from claims_table import (
    Claim,
    Found,
    alone,
    by_layer,
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
    usable_gb,
)
from figures_answer import archived

from reports.advice.group_times import exchange_share
from reports.advice.offload import HOST_GB_S, offloaded
from reports.advice.reduce_times import wire_factor
from reports.advice.serving import CHUNK_TOKENS, Deployment, all_splits
from reports.advice.spans import Span
from reports.advice.specs import BITS, ENGINE, GB, LINKS, ROUTES, engine_calls
from reports.references.pairs import pairs
from reports.references.published import calls, select, serving
from reports.tables.sentences import counted, number, size_text
from wiretax.common.grouped import grouped

# A. Tensor parallelism on two R9700s


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
    lost = step(load).value - step(linked).value
    figures = {
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
    faster = step(load).high < step(layer).low
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
    figures = {
        "alone": us(blocking.us),
        "inside": us(inside.implied_us or 0),
        "eager": source(inside.other),
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
    return figures, decided(not also)


def a10(claim: Claim) -> Found:
    load = claim.load()
    size = load.model.all_reduce_bytes(1)
    library = published(size, gpus={2}, kind={"library"})
    own = published(size, gpus={2, 3, 4}, kind={"tuned"})
    figures = {
        "even": us(even_us(load)),
        "size": size_text(size),
        "tuned": from_to((each.us for each in own), "us"),
        "library": from_to((each.us for each in library), "us"),
        "tuned_of_four": number(min(each.us for each in select(own, gpu={"R9700"}))),
    }
    survives = max(each.us for each in own) < even_us(load)
    return figures, "holds if" if survives else "wrong"


# B. A lesson on tensor parallelism and NVLink


def b1(claim: Claim) -> Found:
    load = claim.load()
    figures = {"weights": gb(load.weights_bytes)} | memory(load)
    same = close(load.weights_bytes / GB, claim.values["gb"])
    return figures, decided(load.obstacle is None and same)


def b2(claim: Claim) -> Found:
    model = claim.load().model
    deferred = [row for row in pair("H78") if "deferred" in row.split.variant]
    figures = {
        "layers": str(model.layers),
        "calls": f"{model.all_reduces}",
        "engine_calls": str(engine_calls(model)),
        "mi50": source(*deferred),
        "mi50_tok_s": printed(rates(deferred)),
    }
    return figures, decided(model.all_reduces == claim.values["calls"])


def b3(claim: Claim) -> Found:
    nvlink, pcie = claim.load(), claim.load(1)
    value = claim.values

    def times(figure: Callable[[Deployment], Span]) -> float:
        return figure(pcie).value / figure(nvlink).value

    figures = {
        "sheet": number(value["nvlink_gb_s"] / value["pcie_gb_s"]),
        "size": size_text(nvlink.model.all_reduce_bytes(1)),
        "nvlink_us": us(call(nvlink)),
        "pcie_us": us(call(pcie)),
        "call_ratio": number(times(call)),
        "token_ratio": number(times(step)),
        "prompt": f"{nvlink.prompt:,}",
        "prompt_call_ratio": number(times(lambda load: call(load, CHUNK_TOKENS))),
        "prompt_ratio": number(times(prompt)),
        "nvlink_ms": ms(step(nvlink)),
        "pcie_ms": ms(step(pcie)),
    }
    small, large = times(call), times(lambda load: call(load, CHUNK_TOKENS))
    return figures, "holds if" if small < value["times"] / 2 < large else None


def b4(claim: Claim) -> Found:
    many, proxy = [*pair("H44"), *pair("H120b")], pair("H54d")
    ratios = []
    for rows in (pair("H44"), pair("H120b")):
        (tensor,) = [row for row in rows if row.kind == "tensor" and row.split.tensor == 4]
        ratios += [gain(tensor, row) for row in rows if row.split.replicas > 1]
    copies = max(rows, key=lambda row: row.split.replicas)
    (split,) = [row for row in proxy if row.split.tensor == 2]
    (behind,) = [row for row in proxy if row.split.replicas == 2]
    found = groups()["fits"]
    figures = {
        "replicas": from_to(ratios),
        "rows": source(*many),
        "replica_rates": printed(rates(pair("H44"))),
        "gemma_rates": printed(rates([tensor, copies])),
        "proxy": number(gain(split, behind)),
        "proxy_row": source(behind),
        "proxy_rates": printed(rates([split, behind])),
    }
    both = min(ratios) > 1 and max(gains(found)) > 1
    return figures | of_engines(found), "holds if" if both else None


def b5(claim: Claim) -> Found:
    down, works = claim.load(), claim.load(1)
    one = step(replace(down, tensor=1))
    figures = {
        "down": ms(step(down)),
        "alone": ms(one),
        "works": ms(step(works)),
        "down_ratio": ratio(one, step(down)),
        "works_ratio": ratio(one, step(works)),
        "least_us": us(call(down).low),
    }
    return figures, decided(step(works).value < one.value <= step(down).value)


# C. Consumer rigs


def c1(claim: Claim) -> Found:
    load = claim.load()
    figures = memory(load) | {
        "most_context": str(load.most_context),
        "short": short(load, load.slots),
    }
    return figures, decided(load.obstacle is None)


def c2(claim: Claim) -> Found:
    bridge, pcie = claim.load(0), claim.load(1)
    value = claim.values
    found = groups()["fits"]
    inside = [each for each in gains(found) if value["pcie_low"] <= each <= value["pcie_high"]]
    with_bridge, without = pair("H46")
    figures = {
        "inside": f"{len(inside)} of {len(found)}",
        "best_rates": printed(rates(pair("H104a"))),
        "pcie": ratio(step(alone(pcie)), step(pcie)),
        "pcie_ms": ms(step(pcie)),
        "bridge_ms": ms(step(bridge)),
        "bridge": ratio(step(alone(bridge)), step(bridge)),
        "bridge_decode": lost(with_bridge.decode_tok_s, without.decode_tok_s),
        "bridge_prefill": lost(with_bridge.prefill_tok_s, without.prefill_tok_s),
        "bridge_row": source(with_bridge),
        "bridge_rates": printed(rates([with_bridge, without])),
    }
    return figures | of_engines(found), "holds if" if 0 < len(inside) < len(found) else None


def lost(before: float | None, after: float | None) -> str:
    assert before
    assert after
    return f"{100 * (1 - after / before):.0f} %"


def c3(claim: Claim) -> Found:
    card, slower, pair_of_cards = claim.load(), claim.load(1), claim.load(2)
    value, enough = claim.values, step(card).value  # with enough memory
    host_gb_s = [HOST_GB_S, float(claim.repeat[1].command.split()[-1])]
    ways = [
        offloaded(load, gb_s, LINKS[load.gpu.slot].gb_s)["one GPU, rest on the CPU"]
        for load, gb_s in zip((card, slower), host_gb_s, strict=True)
    ]
    slow = [step(way).value for way in ways]

    def share(times: float, gb_s: float) -> float:
        """Of the weights in host memory, at which a token takes so many times as long."""
        return 100 * (times - 1) / (card.gpu.bandwidth_gb_s / gb_s - 1)

    shares = {name: [share(value[name], gb_s) for gb_s in host_gb_s] for name in ("least", "most")}
    figures = {
        "file": gb(card.weights_bytes),
        "rest": gb(ways[0].rest_bytes(1)),
        "fast_host": f"{number(host_gb_s[0])} GB/s",
        "slow_host": f"{number(host_gb_s[1])} GB/s",
        "slow": from_to((each / 1e3 for each in slow), "ms"),
        "fast": ms(step(by_layer(pair_of_cards))),
        "ratio": from_to(each / enough for each in slow),
        "ratio_fast": number(slow[0] / enough),
        "ratio_slow": number(slow[1] / enough),
        "least_shares": from_to(shares["least"], "%"),
        "most_shares": from_to(shares["most"], "%"),
    }
    inside = [value["least"] <= each / enough <= value["most"] for each in slow]
    return figures, "holds if" if all(inside) else None


def c4(claim: Claim) -> Found:
    large, small, old = claim.load(), claim.load(1), claim.load(2)
    sheets = {load.gpu.name: load.gpu.memory_gb for load in (large, small, old)}
    assert large.obstacle is None
    assert old.obstacle is None
    assert small.obstacle
    figures = {name: f"{number(size)} GB" for name, size in sheets.items()}
    figures |= {"file": gb(large.weights_bytes)} | memory(large)
    return figures, decided(sheets == claim.values)


def c5(claim: Claim) -> Found:
    row, mlc = (max(rates(row for row in pair(name) if row.gpus == 8)) for name in ("H34", "H32"))
    tensor = pair("H10")
    exl = pair("H116a")
    figures = {
        "row": number(row),
        "mlc": number(mlc),
        "mlc_row": source(*pair("H32")),
        "tensor": number(gain(*tensor)),
        "tensor_row": source(*tensor),
        "tensor_rates": printed(rates(tensor)),
        "exl": number(gain(*exl)),
        "exl_row": source(*exl),
        "exl_rates": printed(rates(exl)),
    }
    return figures, "holds if" if row < mlc and gain(*tensor) > 1 else None


# D. A guide to several GPUs


def d1(claim: Claim) -> Found:
    load, value = claim.load(), claim.values
    model = load.model
    all_heads = model.kv_bytes_per_token * model.heads // model.kv_heads
    figures = {
        "weights": gb(load.weights_bytes),
        "share": gb(load.weights_bytes / load.tensor),
        "heads": str(model.heads),
        "kv_heads": str(model.kv_heads),
        "kv": f"{model.kv_bytes_per_token:,}",
        "mha": f"{all_heads:,}",
        "times": number(model.heads / model.kv_heads),
    }
    assert close(load.weights_bytes / GB, value["gb"])
    return figures, decided(all_heads == model.kv_bytes_per_token)


def a_layer(load: Deployment) -> float:
    return load.model.all_reduces / load.model.layers


def d2(claim: Claim) -> Found:
    load, many = claim.load(), claim.load(1)
    value = claim.values
    tokens = next(
        1 << power
        for power in range(20)
        if a_layer(load) * call(load, 1 << power).value >= value["least_us"]
    )
    assert tokens == many.batch, tokens
    layer = a_layer(load) * call(load)
    figures = {
        "layer": us(layer),
        "each": us(call(load)),
        "token": ms(calls_of_pass(load)),
        "share": f"{100 * calls_of_pass(load).value / step(load).value:.0f} %",
        "tokens": str(tokens),
        "layer_many": us(a_layer(load) * call(load, tokens)),
        "each_many": us(call(load, tokens)),
    }
    return figures, "holds if" if layer.value < value["least_us"] else "holds"


def d3(claim: Claim) -> Found:
    load, value = claim.load(), claim.values
    (seen,) = re.findall(r"\d+ counted for \d+ layers", ENGINE["source"])
    figures = {
        "a_layer": f"{a_layer(load):g}",
        "a_pass": str(load.model.all_reduces),
        "layers": str(load.model.layers),
        "seen": seen,
    }
    assert load.model.all_reduces == value["a_pass"]
    return figures, decided(a_layer(load) == value["a_layer"])


def d4(claim: Claim) -> Found:
    load, usual = claim.load(), claim.load(1)
    value = claim.values
    both = all_splits(claim.load(2))["TP 4 x PP 2"]
    longest = max(
        tokens
        for tokens in range(10, 2048, 10)
        if prompt(replace(load, prompt=tokens)).value <= value["tp_ms"] * 1e3
    )
    figures = {
        "prompt": str(load.prompt),
        "tp": ms(prompt(load)),
        "pp": ms(prompt(by_layer(load))),
        "both": ms(prompt(both)),
        "longest": str(longest),
        "usual": f"{usual.prompt:,}",
        "usual_tp": ms(prompt(usual)),
        "usual_pp": ms(prompt(by_layer(usual))),
    }
    return figures, "holds if" if load.prompt <= longest < usual.prompt else None


def d5(claim: Claim) -> Found:
    load, value = claim.load(), claim.values
    modal = {
        each.gpus: each
        for each in select(calls(), gpu={"H100"}, mode={"graph"}, gpus={2, 4}, size_bytes={8192})
        if "Modal" in each.machine and each.collective == "all_reduce"
    }
    growth = modal[4].us / modal[2].us
    figures = {
        "weights": ", ".join(number(load.weights_bytes / n / GB) for n in (1, 2, 4, 8)),
        "calls": str(load.model.all_reduces),
        "ms": ms(calls_of_pass(load)),
        "bytes": number(wire_factor(8) / wire_factor(2)),
        "two": us(modal[2].us),
        "four": us(modal[4].us),
        "growth": number(growth),
    }
    return figures, decided(growth > 0.9 * value["ms_4"] / value["ms_2"])


def d6(claim: Claim) -> Found:
    two, eight = claim.load(), claim.load(1)
    four = replace(eight, tensor=4)
    nvlink, pcie = pair("H38"), pair("H32")
    slower = {row.gpus: row for row in pair("H50a")}
    fastest_two = max(rates(row for row in pair("H50a") if row.gpus == 2))
    series = [rates(rows) for rows in (nvlink, pcie)]
    figures = {
        "short": short(two, 1),
        "read": ms(two.weights_bytes / 2 / two.gpu.bandwidth_gb_s / 1e3),
        "four": ms(step(four)),
        "eight": ms(step(eight)),
        "nvlink": ", ".join(map(number, series[0])),
        "pcie": ", ".join(map(number, series[1])),
        "nvlink_row": source(*nvlink),
        "pcie_row": source(*pcie),
        "streams": str(slower[4].streams),
        "slower": number(rates([slower[4]])[0] / fastest_two),
        "slower_row": source(slower[4]),
    }
    grows = all(one < other for own in series for one, other in itertools.pairwise(own))
    assert two.obstacle
    return figures, decided(not grows)


def d7(claim: Claim) -> Found:
    large = select(calls(), gpu={"GB200"}, size_bytes={1 << 30})
    rack, _, racks = sorted(large, key=lambda each: each.gpus)
    many = int(claim.values["gpus"])
    figures = {
        "two": f"{wire_factor(2):g}",
        "many": f"{wire_factor(many):g}",
        "rack": number(rack.us),
        "rack_gpus": str(rack.gpus),
        "racks": number(racks.us),
        "times": number(racks.us / rack.us),
        "more": number(racks.gpus / rack.gpus),
        "racks_gpus": str(racks.gpus),
    }
    return figures, decided(wire_factor(many) / wire_factor(2) > many / 2)


def d8(claim: Claim) -> Found:
    route = ROUTES["other_numa_node"]
    eight = [
        each
        for each in select(calls(), gpu={"RTX PRO 6000"}, gpus={8}, size_bytes={64 << 10})
        if each.collective == "all_reduce" and each.grade != "hearsay"
    ]
    library = select(eight, kind={"library"})
    two_sockets = [each.us for each in library if "two sockets" in each.machine]
    one_socket = [each.us for each in library if "WRX90" in each.machine]
    times = max(two_sockets) / min(one_socket)
    rows = {row.gpus: row for row in pair("H32")}
    figures = {
        "times": number(times),
        "sockets": f"{number(LINKS['sockets'].gb_s)} GB/s",
        "hop": route.hop.low_is_best().text(),
        "store": route.store.high_is_best().text(),
        "two_sockets": from_to(two_sockets, "us"),
        "one_socket": from_to(one_socket, "us"),
        "sockets_us": number(min(two_sockets)),
        "socket_us": number(min(one_socket)),
        "eight_over_four": number(gain(rows[4], rows[8])),
        "row": source(rows[8]),
        "rates": printed(rates([rows[4], rows[8]])),
        "collapse": us(max(each.us for each in select(eight, kind={"tuned"}))),
        "library": us(max(two_sockets)),
    }
    return figures, decided(times >= claim.values["least_times"])


def d9(claim: Claim) -> Found:
    one_way = LINKS["nvlink4"].gb_s
    bytes_us = wire_factor(8) * claim.values["mb"] * 1e6 / one_way / 1e3
    four = select(calls(), gpu={"H100"}, gpus={4}, size_bytes={1 << 20}, kind={"library"})
    times = [each.us for each in select(four, collective={"all_reduce"})]
    figures = {
        "one_way": f"{number(one_way)} GB/s",
        "bytes_us": us(bytes_us),
        "published": from_to(times, "us"),
        "published_us": number(min(times)),
    }
    return figures, decided(close(bytes_us, claim.values["us"]))


def d10(claim: Claim) -> Found:
    load, value = claim.load(1), claim.values
    data = all_splits(load)[f"DP {load.tensor} + EP"]
    both_ways = 2 * LINKS["nvlink4"].gb_s
    (small,) = [
        each
        for each in select(calls(), collective={"alltoall"}, size_bytes={1 << 20})
        if each.fabric == "NVLink 3"
    ]
    figures = {
        "published": f"{small.time_us:g} us",
        "size": size_text(1 << 20),
        "both_ways": f"{number(both_ways)} GB/s",
        "layers": str(load.model.layers),
        "each": us(data.exchange_us(data.exchange_bytes(1))),
        "all_to_alls": str(2 * load.model.layers),
        "all_reduces": str(load.model.all_reduces),
    }
    assert close(value["mb"] * 1e3 / both_ways, value["each_us"])
    return figures, decided(small.us <= value["each_us"])


def d11(claim: Claim) -> Found:
    load, h100 = claim.load(), claim.load(1)
    value = claim.values
    readable = value["token_ms"] * 1e-3 * load.gpu.bandwidth_gb_s * load.gpus
    figures = {
        "a_request": f"{value['tokens_s'] / value['requests']:g}",
        "readable": f"{number(readable)} GB",
        "weights": gb(load.weights_bytes),
        "token": ms(step(load)),
        "token_h100": ms(step(h100)),
    }
    return figures, "holds if" if step(load).value > value["token_ms"] * 1e3 else None


def d12(claim: Claim) -> Found:
    load, value = claim.load(), claim.values
    cache_bytes = load.kv_bytes(load.batch)
    figures = memory(load, load.batch) | {
        "cache": gb(cache_bytes),
        "cache_share": gb(cache_bytes / load.tensor),
        "weights_share": gb(load.weights_bytes / load.tensor),
        "short": short(load, load.batch),
        "q4": gb(replace(load, weights="q4").memory_bytes(load.batch)),
    }
    assert (load.batch, load.context) == (value["streams"], value["tokens"])
    return figures, decided(load.obstacle is None)


def d13(claim: Claim) -> Found:
    value = claim.values
    large = [
        each
        for each in select(calls(), collective={"all_reduce"}, kind={"library"}, hosts={1})
        if (each.size_bytes or 0) >= 1 << 30
    ]
    nvlink, pcie = (
        [each.gb_s for each in large if each.generation.startswith(fabric)]
        for fabric in ("NVLink", "PCIe 5")
    )
    four = select(calls(), gpu={"H100"}, gpus={4}, size_bytes={1 << 20}, kind={"library"})
    small = [each.gb_s for each in select(four, collective={"all_reduce"})]
    eight = select(large, gpu={"RTX PRO 6000"}, gpus={8}, size_bytes={1 << 30})
    figures = {
        "nvlink": from_to(nvlink, "GB/s"),
        "pcie": from_to(pcie, "GB/s"),
        "pcie_gb_s": number(max(each.gb_s for each in eight)),
        "small": from_to(small, "GB/s"),
        "small_gb_s": number(min(small)),
        "bridge": f"{number(LINKS['nvlink3-bridge'].gb_s)} GB/s",
    }
    first = min(nvlink) >= value["nvlink_gb_s"] > min(small)
    second = max(pcie) > value["pcie_gb_s"]
    return figures, "holds if" if first and second else None


def of_prefill() -> dict[str, str]:
    """Published prefill by tensor beside by layer, on two cards over PCIe."""
    found = prefills(between("layer", "tensor"))
    return {
        "prefills": times_text(prefill_gains(found)),
        "prefill_median": number(median(prefill_gains(found))),
        "prefill_pairs": counted(len(found), "pair"),
    }


def d14(claim: Claim) -> Found:
    rows = [row for row in pairs() if row.split.stages > 1]
    figures = {
        "machines": str(len({row.machine for row in rows})),
        "all_machines": str(len({row.machine for row in pairs()})),
    }
    return figures | of_prefill(), decided(not rows)


def d15(claim: Claim) -> Found:
    load, value = claim.load(), claim.values
    (row,) = [row for row in pair("H32") if row.gpus == 8]
    token = calls_of_pass(load)
    figures = {
        "calls": str(load.model.all_reduces),
        "token": ms(token),
        "implied": us(value["ms"] * 1e3 / load.model.all_reduces),
        "eight": number(rates([row])[0]),
        "whole": f"{number(1e3 / rates([row])[0])} ms",
        "row": source(row),
        "prompt": f"{CHUNK_TOKENS:,}",
        "prompt_calls": ms(calls_of_pass(load, CHUNK_TOKENS)),
    }
    return figures, decided(1e3 / rates([row])[0] > value["ms"])


def d16(claim: Claim) -> Found:
    load = claim.load()
    figures = {
        "a_layer": f"{a_layer(load):g}",
        "a_pass": str(load.model.all_reduces),
    }
    return figures, decided(a_layer(load) == claim.values["a_layer"])


def d17(claim: Claim) -> Found:
    nvlink, pcie, nvlink_many, pcie_many = map(claim.load, range(4))
    value = claim.values

    def of(load: Deployment) -> Span:
        return calls_of_pass(load, load.batch) / 1e3

    figures = {
        "nvlink": of(nvlink).text(" ms"),
        "pcie": of(pcie).text(" ms"),
        "many": str(nvlink_many.batch),
        "nvlink_many": of(nvlink_many).text(" ms"),
        "pcie_many": of(pcie_many).text(" ms"),
    }
    less = of(nvlink).value < value["nvlink_ms"] and of(pcie).value < value["pcie_ms"]
    return figures, "holds if" if less else "holds"


def d18(claim: Claim) -> Found:
    load = claim.load()
    (one,) = [row for row in pair("H40") if row.gpus == 1]
    bound = load.gpu.bandwidth_gb_s * GB / load.weights_bytes
    fp8 = replace(load, weights="fp8")
    assert usable_gb(load) * GB < fp8.memory_bytes(1) < load.gpu.memory_gb * GB
    figures = {
        "short": short(load, 1),
        "bandwidth": f"{number(load.gpu.bandwidth_gb_s)} GB/s",
        "weights": gb(load.weights_bytes),
        "bound": number(bound),
        "fp8": gb(fp8.weights_bytes),
        "fp8_bound": number(fp8.gpu.bandwidth_gb_s * GB / fp8.weights_bytes),
        "int4": number(rates([one])[0]),
        "row": source(one),
    }
    return figures, decided(load.obstacle is None)


def d19(claim: Claim) -> Found:
    load, value = claim.load(), claim.values
    (row,) = [row for row in pair("H38") if row.gpus == 8]
    token_ms = 1e3 / rates([row])[0]
    figures = {
        "bound": ms(step(load)),
        "tok_s": number(rates([row])[0]),
        "ms": f"{number(token_ms)} ms",
        "row": source(row),
    }
    return figures, "holds if" if token_ms < value["p50_ms"] else "wrong"


def d20(claim: Claim) -> Found:
    load, many = claim.load(), claim.load(1)
    k, cards = load.model.top_k, load.tensor
    one, splits = all_splits(load), all_splits(many)
    names = f"TP {cards}", f"TP {cards} + EP", f"DP {cards} + EP"
    tensor, with_tensor, data = (one[name] for name in names)
    call_share, figures_of_both = exchange_share()
    measured = [gain(*pair(name)) for name in ("H108a", "H108b", "H108c", "H108d")]
    figures = {
        "k": str(k),
        "share": f"{k / cards:g}",
        "call_share": call_share.text(),
        "both": str(figures_of_both),
        "tensor": ms(step(tensor)),
        "with_tensor": ms(step(with_tensor)),
        "data": ms(step(data)),
        "streams": str(many.batch),
        "tensor_many": ms(step(splits[names[0]])),
        "data_many": ms(step(splits[names[2]])),
        "measured": from_to(measured),
        "row": source(*pair("H108a")),
        "rates": printed(rates(pair("H108a"))),
        "rates_many": printed(rates(pair("H108d"))),
    }
    cheaper, faster = call_share.value < 1, step(data).value < step(tensor).value
    return figures, "holds if" if cheaper and not faster else None


OURS: Mapping[str, Callable[[Claim], Found]] = {
    each.__name__: each
    for each in (
        *(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10),
        *(b1, b2, b3, b4, b5),
        *(c1, c2, c3, c4, c5),
        *(d1, d2, d3, d4, d5, d6, d7, d8, d9, d10),
        *(d11, d12, d13, d14, d15, d16, d17, d18, d19, d20),
    )
}
