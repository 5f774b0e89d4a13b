"""The advice as text of at most 80 columns."""

from __future__ import annotations

import textwrap
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from math import inf

from reports.advice import serving, specs, splits
from reports.advice.reduce_times import Times, from_link, warnings
from reports.advice.serving import CHUNK_TOKENS, OFFLOAD, ONE, REPLICAS, TENSOR, Span
from reports.advice.splits import GB, Question, Split
from reports.imports.imported import Imported
from reports.store.schema import Result
from reports.tables.sentences import number, size_text

WIDTH = 80
MOST_STREAMS = 1 << 16
MARGIN = 1.1  # the arithmetic is too coarse to rank two splits that are closer
WORLDS = (1, 2, 4, 8)
RULE_OF_THUMB = {"NVLink or the like": 8, "PCIe, one socket": 4, "PCIe, across sockets": 2}


def render(question: Question, times: Times, results: Sequence[Result | Imported]) -> str:
    """The question, the memory, the splits, the recommendation and what to check."""
    choices = splits.all_splits(question, times)
    larger = splits.larger_card(question) if choices[-1].kind == OFFLOAD else None
    lines = [*head(question, times, results), "", *memory_table(question), "",
             *collectives(question, times), "",
             *split_table(question, [*choices, larger] if larger else choices), "",
             *(link_table(question) if question.gpus == max(WORLDS) else []),
             *recommendation(question, choices, times), "", checks(question)]
    wrapped = [line if line.startswith(" ") else
               textwrap.fill(line, WIDTH, break_on_hyphens=False) for line in lines]
    return "\n".join(wrapped) + "\n"


def head(question: Question, times: Times, results: Sequence[Result | Imported]) -> list[str]:
    """The question with all defaults, and the origin of the all-reduce times."""
    workload, gpu, model = question.workload, question.gpu, question.workload.model
    mixture = (f", {model.top_k} of {model.experts} experts (skew {workload.skew:g})"
               if model.experts > 1 else "")
    lines = [
        f"{model.name}: {number(model.parameters / GB)}e9 weights, {question.weights}: "
        f"{number(workload.weights_bytes / GB)} GB; {model.layers} layers, {model.kv_heads} KV "
        f"heads of {model.head_dim}{mixture}",
        f"{question.gpus} x {gpu.name}: {number(gpu.memory_gb)} GB, {number(gpu.bandwidth_gb_s)} "
        f"GB/s, {number(workload.tflops)} TFLOP/s each ({gpu.source}): peaks, so all times are "
        "lower bounds",
        f"context {workload.context} tokens a stream, prompt {question.prompt}; latency of "
        f"{_streams(question.batch)}, throughput of {question.slots}"]
    if question.gpus > 1:
        lines += [f"all-reduce: {times.source}", *warnings(times, results, gpu)]
    return lines


def _streams(count: int) -> str:
    return f"{count} stream{'s' * (count > 1)}"


def memory_table(question: Question) -> list[str]:
    """GB per GPU at TP 1 to 8, and the tokens that fit in the cache."""
    workload, model, n = question.workload, question.workload.model, question.gpus
    usable = serving.usable_bytes(workload.memory_bytes)
    parts = [splits.memory(question, TENSOR if world > 1 else ONE, world) for world in WORLDS]
    spare = [usable - sum(part.values()) for part in parts]
    verdicts = ["no split" if model.heads % world else "fits" if room >= 0 else "NO"
                for world, room in zip(WORLDS, spare, strict=True)]
    streams = max(question.batch, question.slots)
    rows: dict[str, Sequence[object]] = {
        "GB a GPU, split by tensor over": WORLDS,
        "weights": [number(part["weights"] / GB) for part in parts],
        f"KV cache, {streams} x {workload.context} tokens":
            [number(part["KV cache"] / GB) for part in parts],
        "activations": [number(part["activations"] / GB) for part in parts],
        f"fits {number(usable / GB)} GB (90 % of {number(question.gpu.memory_gb)})": verdicts,
        "GB to spare (- short)": [signed(room / GB) for room in spare]}
    here = splits.memory(question, TENSOR, n)
    room = serving.room_tokens(model, n, usable - here["weights"] - here["activations"])
    table = [f" {name:<37}" + "".join(f"{cell:>10}" for cell in row) for name, row in rows.items()]
    return [*table,
            f"The keys and values of a token take {serving.kv_bytes_per_token(model):,.0f} B in "
            f"fp16 ({model.cached_layers} layers); at TP {n} the cache has room for {room:,} "
            "tokens."]


def signed(value: float) -> str:
    """`number` of a value that may be negative."""
    return f"-{number(-value)}" if value < 0 else number(value)


def collectives(question: Question, times: Times) -> list[str]:
    """The number, the bytes and the time of the all-reduces of a step."""
    n, model = question.gpus, question.workload.model
    if n == 1:
        return ["One GPU: nothing to reduce."]
    size = int(serving.all_reduce_bytes(model, question.batch))
    calls, each, factor = serving.all_reduces(model), times(size), serving.wire_factor(n)
    gb_s = times.link.total_gb_s(n)
    lines = [
        f"A step at TP {n} has {calls} all-reduces (2 a layer) of {size:,.0f} B: "
        f"{number(calls * size / 1e6)} MB, each GPU sending 2(n-1)/n = {factor:g} of it: "
        f"{number(factor * calls * size / gb_s / 1e3)} us by bytes alone at {number(gb_s)} GB/s; "
        f"{calls} x {us_text(each)}{times.origin(size)} = {number(calls * each.value / 1e3)} ms."]
    if model.experts > 1 and not model.experts % n:
        chunk = min(question.prompt, CHUNK_TOKENS)
        sent, shared = (serving.dispatch_bytes(model, n, chunk / n, once) / 1e6
                        for once in (False, True))
        lines.append(
            f"Split by experts a chunk of {chunk} tokens sends {number(sent)} MB a rank to experts "
            f"elsewhere, {number(shared)} if all experts of a rank share a copy, times the skew of "
            f"{question.workload.skew:g}, in each layer, and receives as many; with replicated "
            "activations there is no all-to-all but an all-reduce of "
            f"{number(serving.all_reduce_bytes(model, chunk) / 1e6)} MB.")
    return lines


def us_text(span: Span) -> str:
    """`33.0 us [31.0 36.0]`."""
    return f"{number(span.value)} us{ends_text(span)}"


def ends_text(span: Span) -> str:
    """The interval; empty if it is unknown."""
    return f" [{number(span.low)} {number(span.high)}]" if span.low < span.high else ""


def split_table(question: Question, splits: Sequence[Split]) -> list[str]:
    """A row for each split: decode and prefill, latency and throughput."""
    streams = f"{question.slots} streams"
    lines = [f" {'':<15}{'decode: ms':>11}{'tokens/s a':>20}{'tokens/s of':>13}{'prompt:':>10}"
             f"{'tokens/s':>10}",
             f" {'':<15}{'a token':>11}{'stream':>20}{streams:>13}{'ms':>10}{'of many':>10}"]
    for split in splits:
        rate = split.step_us.rate(1)
        cells = (f"{number(split.step_us.value / 1e3):>11}"
                 f"{number(rate.value) + ends_text(rate):>20}{number(split.rate.value):>13}"
                 f"{number(split.prompt_us.value / 1e3):>10}{number(split.prompt_rate.value):>10}")
        lines.append(f" {split.name:<15}" + (f"  {split.obstacle}" if split.obstacle else cells))
    return lines


def recommendation(question: Question, splits: Sequence[Split], times: Times) -> list[str]:
    """The best split for each goal, its margin, and the all-reduce time that changes the answer."""
    possible = [split for split in splits if split.obstacle is None and split.kind != OFFLOAD
                and (split.kind != ONE or question.gpus == 1)]
    if not possible:
        offload = splits[-1]
        rate = ("" if offload.obstacle else
                f"; CPU offload gives {number(offload.step_us.rate(1).value)} tokens/s")
        return [f"RECOMMENDATION: nothing fits on {question.gpus} x {question.gpu.name}: take more "
                f"GPUs, a larger card, fewer bits or less context{rate}."]
    lines = ["RECOMMENDATION",
             f"Decode, latency of {_streams(question.batch)}: {best(possible, 'step_us')}"
             f"{break_even(question, possible, times)}",
             f"Decode, throughput of {question.slots} streams: {best(possible, 'rate')}"]
    if question.workload.context:
        full = [at_capacity(question, split.kind, times) for split in possible]
        lines.append(f"Decode, throughput of as many streams as fit: {best(full, 'rate')}")
    return [*lines,
            f"Prefill, latency of one prompt of {question.prompt}: {best(possible, 'prompt_us')}",
            f"Prefill, throughput of many: {best(possible, 'prompt_rate')}"]


def best(splits: Sequence[Split], figure: str) -> str:
    """The best split by a field of Split, a time or a rate, and its margin over the next."""
    is_rate = figure.endswith("rate")
    sign = 1 if is_rate else -1
    ordered = sorted(splits, key=lambda split: getattr(split, figure).value, reverse=is_rate)

    def gain(better: Split, other: Split) -> Span:
        pairs = zip(getattr(better, figure), getattr(other, figure), strict=True)
        ratios = [(a / b) ** sign for a, b in pairs]
        return Span(ratios[0], min(ratios), max(ratios))

    close = [split for split in ordered if gain(ordered[0], split).low < MARGIN]
    first = next((split for split in close if split.kind == REPLICAS), ordered[0])
    value = getattr(first, figure).value
    text = f"{first.name}, " + (f"{number(value)} tokens/s" if is_rate else
                                f"{number(value / 1e3)} ms")
    equals = " and ".join(split.name for split in close if split is not first)
    if equals:
        text += f" ({equals} as good, within the precision of this arithmetic)"
    if len(close) == len(ordered):
        return f"{text}."
    after = next(split for split in ordered if split not in close)
    margin = gain(first, after)
    return f"{text}, {margin.value:.2f}x{ends_text(margin)} {after.name}."


def break_even(question: Question, splits: Sequence[Split], times: Times) -> str:
    """The all-reduce time at which TP and the best other split take equally long."""
    tensor = next((split for split in splits if split.kind == TENSOR), None)
    others = [split for split in splits if split.kind != TENSOR]
    if tensor is None or not others:
        return ""
    other = min(others, key=lambda split: split.step_us.value)
    model = question.workload.model
    size = serving.all_reduce_bytes(model, question.batch)
    each = times(size)
    even_us = each.value + (other.step_us.value - tensor.step_us.value) / serving.all_reduces(model)
    if even_us <= 0:
        return f" No all-reduce is fast enough for {tensor.name} to win."
    distance = (f"{even_us / each.value:.1f} times below" if even_us > each.value
                else f"{each.value / even_us:.1f} times above")
    return (f" {tensor.name} and {other.name} break even if an all-reduce of "
            f"{size_text(int(size))} takes {number(even_us)} us; here it takes {us_text(each)}, "
            f"{distance} that.")


def at_capacity(question: Question, kind: str, times: Times) -> Split:
    """A split with as many streams as fit, at most MOST_STREAMS."""
    def with_streams(count: int) -> Question:
        return replace(question, batch=1, slots=count)

    def is_too_many(count: int) -> bool:
        return splits.obstacle(with_streams(count), kind, question.gpus) is not None

    streams = max(1, bisect_left(range(1, MOST_STREAMS + 1), True, key=is_too_many))
    split = splits.make_split(with_streams(streams), times, kind, question.gpus)
    return replace(split, name=f"{split.name} with {streams}")


def link_table(question: Question) -> list[str]:
    """TP 1 to 8 by the figures of three links, beside the rule of thumb."""
    own = splits.peer_link(question.gpu, max(WORLDS))
    links = dict(zip(RULE_OF_THUMB, (own or "nvlink4", question.gpu.slot, "sockets"), strict=True))
    lines = [f" {'by link figures alone, TP':<33}" + "".join(f"{world:>9}" for world in WORLDS)
             + f"{'best':>5}{'rule':>5}"]
    for name, link in links.items():
        by_world = [None if question.workload.model.heads % world else
                    splits.make_split(question, from_link(specs.link(link), world),
                                      TENSOR if world > 1 else ONE, world) for world in WORLDS]
        for figure, label in (("step_us", "decode"), ("prompt_us", "prompt")):
            times_us = [getattr(split, figure).value if split else inf for split in by_world]
            cells = "".join(f"{number(us / 1e3) if us < inf else '-':>9}" for us in times_us)
            lines.append(f" {f'{name}, {label}, ms':<33}{cells}"
                         f"{WORLDS[times_us.index(min(times_us))]:>5}{RULE_OF_THUMB[name]:>5}")
    note = f"Links: {', '.join(links.values())}; NCCL's latencies; the memory is above."
    if not own:
        note += f" {max(WORLDS)} {question.gpu.name} have no NVLink; its rows are for comparison."
    return [*lines, note, ""]


def checks(question: Question) -> str:
    """What to check before trusting the advice."""
    workload, n = question.workload, question.gpus
    used = sum(splits.memory(question, TENSOR, n).values())
    room = serving.usable_bytes(workload.memory_bytes) - used
    more = f", {serving.room_tokens(workload.model, n, room)} tokens more" if room > 0 else ""
    return (f"Before trusting it, check: the cache (TP {n} leaves {signed(room / GB)} GB a GPU"
            f"{more}, after 10 % headroom); the topology (bench.doctor: the path between the GPUs, "
            "lanes, peer access); the latency (chained all-reduces of the engine's own library, "
            "captured as the engine does).")
