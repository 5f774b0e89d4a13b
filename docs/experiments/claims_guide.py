"""The figures of the claims D1 to D20: a guide to several GPUs."""

import itertools
import re
from dataclasses import replace

from claims_table import (
    Claim,
    Found,
    call,
    calls_of_pass,
    close,
    decided,
    from_to,
    gain,
    gb,
    memory,
    ms,
    of_prefill,
    pair,
    printed,
    prompt,
    rates,
    short,
    source,
    step,
    us,
)

from reports.advice.even_calls import by_layer
from reports.advice.group_times import exchange_share
from reports.advice.reduce_times import wire_factor
from reports.advice.serving import CHUNK_TOKENS, Deployment, all_splits
from reports.advice.spans import Span
from reports.advice.specs import ENGINE, GB, LINKS, ROUTES
from reports.references.pairs import pairs
from reports.references.published import calls, select
from reports.tables.sentences import number, size_text


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
        "share_many": f"{100 * calls_of_pass(load, tokens).value / step(many).value:.0f} %",
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
    nvlink, pcie, row_split = pair("H38"), pair("H32"), pair("H34")
    slower = {row.gpus: row for row in pair("H50a")}
    fastest_two = max(rates(row for row in pair("H50a") if row.gpus == 2))
    series = [rates(rows) for rows in (nvlink, pcie, row_split)]
    grow = [all(one < other for one, other in itertools.pairwise(own)) for own in series]
    figures = {
        "short": short(two, 1),
        "read": ms(two.weights_bytes / 2 / two.gpu.bandwidth_gb_s / 1e3),
        "four": ms(step(four)),
        "eight": ms(step(eight)),
        "nvlink": ", ".join(map(number, series[0])),
        "pcie": ", ".join(map(number, series[1])),
        "nvlink_row": source(*nvlink),
        "pcie_row": source(*pcie),
        "row_split": ", ".join(map(number, series[2])),
        "row_ratio": number(series[2][-1] / series[2][-2]),
        "growing": f"{sum(grow)} of {len(grow)}",
        "streams": str(slower[4].streams),
        "slower": number(rates([slower[4]])[0] / fastest_two),
        "slower_row": source(slower[4]),
    }
    assert grow == [True, True, False]
    assert two.obstacle
    return figures, decided(not any(grow))


def d7(claim: Claim) -> Found:
    large = select(calls(), gpu={"GB200"}, size_bytes={1 << 30}, archive={""})
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
        for each in select(calls(), collective={"alltoall"}, size_bytes={1 << 20}, archive={""})
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


def d14(claim: Claim) -> Found:
    rows = [row for row in pairs() if row.split.stages > 1]
    nvidia = pair("H68")
    figures = {
        "nvidia": printed(rates(nvidia)),
        "nvidia_ratio": number(gain(*nvidia)),
        "nvidia_row": source(*nvidia),
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
    assert load.usable_bytes < fp8.memory_bytes(1) < load.gpu.memory_gb * GB
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


OURS = {
    each.__name__: each
    for each in (
        *(d1, d2, d3, d4, d5, d6, d7, d8, d9, d10),
        *(d11, d12, d13, d14, d15, d16, d17, d18, d19, d20),
    )
}
