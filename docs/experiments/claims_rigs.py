"""The figures of the claims B1 to C5: a lesson on NVLink, and consumer rigs."""

from collections.abc import Callable
from dataclasses import replace

from answer_cases import groups
from answer_pairs import between, gains, has_many
from claims_table import (
    Claim,
    Found,
    alone,
    call,
    close,
    decided,
    from_to,
    gain,
    gb,
    memory,
    ms,
    of_engines,
    pair,
    printed,
    prompt,
    rates,
    ratio,
    short,
    source,
    step,
    us,
)

from reports.advice.even_calls import by_layer
from reports.advice.offload import HOST_GB_S, offloaded
from reports.advice.serving import CHUNK_TOKENS, Deployment
from reports.advice.spans import Span
from reports.advice.specs import GB, LINKS, engine_calls, model_called
from reports.references.published import select, serving
from reports.tables.sentences import number, size_text


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
    proxy = pair("H54d")
    many = [
        each
        for each in between("tensor", "copies", cards=range(2, 17))
        if has_many(each.other) and each.other.fabric != "network"
    ]
    ratios = gains(many)
    most = max(many, key=lambda each: each.other.split.replicas)
    (split,) = [row for row in proxy if row.split.tensor == 2]
    (behind,) = [row for row in proxy if row.split.replicas == 2]
    found = groups()["fits"]
    figures = {
        "replicas": from_to(ratios),
        "rows": source(*(each.other for each in many)),
        "replica_rates": printed(rates(pair("H44"))),
        "gemma_rates": printed(rates([most.one, most.other])),
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
    load, usual = claim.load(), claim.load(3)
    (ran,) = [
        row
        for row in select(serving(), gpu={"RTX 3090"}, gpus={2})
        if model_called(row.model) == usual.model
    ]
    figures = memory(load) | {
        "usual_gb": gb(usual.weights_bytes),
        "usual_short": short(usual, 1),
        "ran": number(rates([ran])[0]),
        "ran_row": source(ran),
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
    by_bridge = step(alone(bridge)).value / step(bridge).low
    assert by_bridge < value["bridge_low"]
    assert with_bridge.drafter != "none"
    figures = {
        "bridge_most": number(by_bridge),
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


OURS = {each.__name__: each for each in (b1, b2, b3, b4, b5, c1, c2, c3, c4, c5)}
