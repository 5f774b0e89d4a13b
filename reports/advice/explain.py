"""`advise --explain`: where well-known formulas err, and by how much, for the model and the machine that are asked
about. Every figure is computed; nothing is looked up but what was published of dual cards.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from reports.advice import serving, specs
from reports.advice.reduce_times import Times
from reports.advice.serving import wire_factor
from reports.tables.sentences import number

if TYPE_CHECKING:
    from reports.advice.advise import Question

TOKENS = 1024
ALL_REDUCES_SAID = 7  # a layer, one for each of its matrices
PUBLISHED = {"PCIe": (1.6, 1.8), "NVLink": (1.85, 1.9)}  # two cards over one, as reported for decoding


def render(asked: Question, times: Times) -> str:
    """Five paragraphs, at most 80 columns; ends with a newline."""
    found = [cache(asked), calls(asked, times), wire(asked, times), ways(asked), scaling(asked, times)]
    return "\nWHERE WELL-KNOWN FORMULAS ERR\n" + "".join(
        textwrap.fill(f"{order}. {text}", 80, subsequent_indent="   ") + "\n" for order, text in enumerate(found, 1))


def cache(asked: Question) -> str:
    """Keys and values by hidden size alone."""
    model = asked.serving.model
    right = TOKENS * serving.kv_bytes_per_token(model)
    wrong = TOKENS * 2 * model.hidden * serving.WIRE_BYTES
    return (f"Cache as 2 x tokens x hidden x 2 B, without layers and grouped heads: {wrong / 1e6:.1f} MB for "
            f"{TOKENS} tokens, where {right / 1e6:.1f} MB is right ({model.kv_layers or model.layers} layers, "
            f"{model.kv_heads} KV heads of {model.head_dim}): {ratio(wrong, right)}.")


def calls(asked: Question, times: Times) -> str:
    """An all-reduce for each matrix."""
    n, model = max(2, asked.gpus), asked.serving.model
    right, said = serving.all_reduces(model), ALL_REDUCES_SAID * model.layers
    each = at(times, n, serving.all_reduce_bytes(model, asked.batch))
    return (f"{ALL_REDUCES_SAID} all-reduces a layer, one a matrix: {said} a token and {number(said * each / 1e3)} ms "
            f"at {number(each)} us, where column-parallel matrices need none: {right} and "
            f"{number(right * each / 1e3)} ms, {ratio(said, right)}.")


def wire(asked: Question, times: Times) -> str:
    """Bytes over bandwidth."""
    n, model, gb_s = max(2, asked.gpus), asked.serving.model, times.link.gb_s
    decode, prompt = (serving.all_reduce_bytes(model, tokens) for tokens in (asked.batch, serving.CHUNK_TOKENS))
    parts = [f"{name} {number(size / gb_s / 1e3)} us, where it takes {number(at(times, n, size))} us "
             f"({ratio(size / gb_s / 1e3, at(times, n, size))})" for name, size in
             (("decode", decode), ("prefill", prompt))]
    return (f"Bytes over bandwidth, without 2(n-1)/n = {wire_factor(n):g} at TP {n} ({wire_factor(8):g} at TP 8) and "
            f"without latency: an all-reduce of {'; of '.join(parts)}.")


def ways(asked: Question) -> str:
    """Both ways beside one way."""
    names = dict.fromkeys(("pcie5x16", "nvlink4", asked.gpu.slot, asked.gpu.peer or asked.gpu.slot))
    found = [specs.link(name) for name in names]
    size = serving.all_reduce_bytes(asked.serving.model, serving.CHUNK_TOKENS)
    said = [f"{link.name} {number(link.both_ways_gb_s)} GB/s both ways is {number(link.gb_s)} one way "
            f"({number(size / link.gb_s / 1e3)} us and not {number(size / link.both_ways_gb_s / 1e3)} for a chunk at "
            "TP 2)" for link in found]
    return f"Advertised link figures add both directions up: {'; '.join(said)}. PCIe's 128 is before its encoding."


def scaling(asked: Question, times: Times) -> str:
    """What was published of two cards, beside what is predicted."""
    what, model = asked.serving, asked.serving.model
    calls, whole = serving.all_reduces(model), serving.alone_us(what, asked.batch)
    size = serving.all_reduce_bytes(model, asked.batch)
    each = at(times, 2, size)
    said = []
    for link, speedups in PUBLISHED.items():
        slow, fast = (serving.flip_us(whole / speedup, whole / 2, calls) for speedup in speedups)
        said.append(f"{speedups[0]:g}-{speedups[1]:g}x over {link} (of this model on this card that means all-reduces "
                    f"of {number(slow)} to {number(fast)} us)")
    predicted = whole / (whole / 2 + calls * each)
    return (f"Two cards over one, as published: {', '.join(said)}; predicted here {predicted:.2f}x "
            f"at {number(each)} us. One figure for a link cannot be right for every model.")


def at(times: Times, gpus: int, size_bytes: float) -> float:
    """Microseconds of an all-reduce of two or more GPUs."""
    return (times if times.gpus == gpus else Times(gpus, "", times.link))(size_bytes).value


def ratio(said: float, right: float) -> str:
    """`10.0 times too much`."""
    return f"{said / right:.1f} times too much" if said > right else f"{right / said:.1f} times too little"
