"""`advise --explain`: the errors of well-known formulas for the model and machine of a question."""

from __future__ import annotations

import textwrap

from reports.advice import serving, specs
from reports.advice.reduce_times import Times
from reports.advice.serving import CHUNK_TOKENS, wire_factor
from reports.advice.splits import Question
from reports.tables.sentences import number

TOKENS = 1024
ALL_REDUCES_PER_LAYER = 7  # the wrong count: one for each matrix
PUBLISHED = {"PCIe": (1.6, 1.8), "NVLink": (1.85, 1.9)}  # decode speed of two cards over one


def render(question: Question, times: Times) -> str:
    """Five paragraphs of at most 80 columns."""
    paragraphs = [cache(question), calls(question, times), wire(question, times),
                  directions(question), scaling(question, times)]
    filled = [textwrap.fill(f"{number}. {text}", 80, subsequent_indent="   ") + "\n"
              for number, text in enumerate(paragraphs, 1)]
    return "\nWHERE WELL-KNOWN FORMULAS ERR\n" + "".join(filled)


def cache(question: Question) -> str:
    """The cache computed from the hidden size alone."""
    model = question.workload.model
    right = TOKENS * serving.kv_bytes_per_token(model)
    wrong = TOKENS * 2 * model.hidden * serving.ELEMENT_BYTES
    return (f"Cache as 2 x tokens x hidden x 2 B, without layers and grouped heads: "
            f"{wrong / 1e6:.1f} MB for {TOKENS} tokens, where {right / 1e6:.1f} MB is right "
            f"({model.cached_layers} layers, {model.kv_heads} KV heads of {model.head_dim}): "
            f"{error(wrong, right)}.")


def calls(question: Question, times: Times) -> str:
    """An all-reduce for each matrix."""
    model = question.workload.model
    right, wrong = serving.all_reduces(model), ALL_REDUCES_PER_LAYER * model.layers
    each_us = reduce_us(question, times, question.batch)
    return (f"{ALL_REDUCES_PER_LAYER} all-reduces a layer, one a matrix: {wrong} a token and "
            f"{number(wrong * each_us / 1e3)} ms at {number(each_us)} us, where column-parallel "
            f"matrices need none: {right} and {number(right * each_us / 1e3)} ms, "
            f"{error(wrong, right)}.")


def wire(question: Question, times: Times) -> str:
    """Message bytes over bandwidth."""
    n = max(2, question.gpus)
    parts = []
    for name, tokens in (("decode", question.batch), ("prefill", CHUNK_TOKENS)):
        right_us = reduce_us(question, times, tokens)
        size = serving.all_reduce_bytes(question.workload.model, tokens)
        wrong_us = size / times.link.gb_s / 1e3
        parts.append(f"{name} {number(wrong_us)} us, where it takes {number(right_us)} us "
                     f"({error(wrong_us, right_us)})")
    return (f"Bytes over bandwidth, without 2(n-1)/n = {wire_factor(n):g} at TP {n} "
            f"({wire_factor(8):g} at TP 8) and without latency: an all-reduce of "
            f"{'; of '.join(parts)}.")


def directions(question: Question) -> str:
    """Link figures that add both directions."""
    gpu = question.gpu
    size = serving.all_reduce_bytes(question.workload.model, CHUNK_TOKENS)
    parts = []
    for name in dict.fromkeys(("pcie5x16", "nvlink4", gpu.slot, gpu.peer or gpu.slot)):
        link = specs.link(name)
        parts.append(f"{name} {number(link.both_ways_gb_s)} GB/s both ways is {number(link.gb_s)} "
                     f"one way ({number(size / link.gb_s / 1e3)} us and not "
                     f"{number(size / link.both_ways_gb_s / 1e3)} for a chunk at TP 2)")
    return (f"Advertised link figures add both directions up: {'; '.join(parts)}. PCIe's 128 is "
            "before its encoding.")


def scaling(question: Question, times: Times) -> str:
    """Published speedups of two cards beside the prediction."""
    reduces = serving.all_reduces(question.workload.model)
    single_us = serving.single_gpu_us(question.workload, question.batch)
    parts = []
    for link, speedups in PUBLISHED.items():
        slow_us, fast_us = ((single_us / speedup - single_us / 2) / reduces for speedup in speedups)
        parts.append(f"{speedups[0]:g}-{speedups[1]:g}x over {link} (for this model on this card "
                     f"that means all-reduces of {number(slow_us)} to {number(fast_us)} us)")
    each_us = reduce_us(question, times, question.batch, gpus=2)
    predicted = single_us / (single_us / 2 + reduces * each_us)
    return (f"Two cards over one, as published: {', '.join(parts)}; predicted here "
            f"{predicted:.2f}x at {number(each_us)} us. One figure for a link cannot be right for "
            "every model.")


def reduce_us(question: Question, times: Times, tokens: int, gpus: int | None = None) -> float:
    """An all-reduce of these tokens; from the link's figures if `times` is for other GPUs."""
    gpus = gpus or max(2, question.gpus)
    times = times if times.gpus == gpus else Times(gpus, "", times.link)
    return times(serving.all_reduce_bytes(question.workload.model, tokens)).value


def error(wrong: float, right: float) -> str:
    """`10.0 times too much`."""
    return (f"{wrong / right:.1f} times too much" if wrong > right
            else f"{right / wrong:.1f} times too little")
