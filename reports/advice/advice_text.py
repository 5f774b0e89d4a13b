"""The advice as text of at most 80 columns."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from rich.table import Table

from reports.advice import serving, specs
from reports.advice.reduce_times import Span, read_times, warnings, wire_factor
from reports.advice.serving import GB, OFFLOAD, ONE, REPLICAS, TENSOR, Split, Workload, rate
from reports.imports.imported import Imported
from reports.store.schema import Result
from reports.tables.console import lay_out, plain_table
from reports.tables.sentences import number, size_text

MOST_STREAMS = 1 << 16
MARGIN = 1.1  # the arithmetic is too coarse to rank two splits that are closer
WORLDS = (1, 2, 4, 8)
RULE_OF_THUMB = {"NVLink or the like": 8, "PCIe, one socket": 4, "PCIe, across sockets": 2}


def render(load: Workload, runs: Sequence[Result | Imported]) -> str:
    """The question, the memory, the splits, the recommendation and what to check."""
    splits = serving.all_splits(load)
    shown = splits | (serving.larger_card(load) if OFFLOAD in splits else {})
    obstacles = [f"{name}: {split.obstacle}." for name, split in shown.items() if split.obstacle]
    tables = [("GB a GPU, split by tensor over", memory_table(load)),
              ("", split_table(load, shown))]
    if load.gpus == max(WORLDS):
        tables.append(link_table(load))
    return lay_out(None, [*head(load, runs), *collectives(load)], tables,
                   [*obstacles, *recommendation(load, splits), "", checks(load)])


def head(load: Workload, runs: Sequence[Result | Imported]) -> list[str]:
    """The question with all defaults, and the origin of the all-reduce times."""
    gpu, model = load.gpu, load.model
    mixture = (f", {model.top_k} of {model.experts} experts (skew {load.skew:g})"
               if model.experts > 1 else "")
    lines = [
        f"{model.name}: {number(model.parameters / GB)}e9 weights, {load.weights}: "
        f"{number(load.weights_bytes / GB)} GB; {model.layers} layers, {model.kv_heads} KV heads "
        f"of {model.head_dim}{mixture}",
        f"{load.gpus} x {gpu.name}: {number(gpu.memory_gb)} GB, {number(gpu.bandwidth_gb_s)} GB/s, "
        f"{number(load.tflops)} TFLOP/s each ({gpu.source}): peaks, so all times are lower bounds",
        f"context {load.context} tokens a stream, prompt {load.prompt}; streams: {load.batch} for "
        f"latency, {load.slots} for throughput"]
    if load.gpus > 1:
        lines += [f"all-reduce: {load.times.source}", *warnings(load.times, runs, gpu)]
    return lines


def collectives(load: Workload) -> list[str]:
    """The cache of a token, and the number, the bytes and the time of the all-reduces of a step."""
    n, model, times = load.gpus, load.model, load.times
    split = Split(load, TENSOR, n)
    room_bytes = split.spare_bytes + split.memory_bytes["KV cache"]
    lines = [f"The keys and values of a token take {model.kv_bytes_per_token:,} B in fp16 "
             f"({model.cached_layers} layers); at TP {n} the cache has room for "
             f"{split.tokens_in(room_bytes):,} tokens."]
    if n == 1:
        return [*lines, "One GPU: nothing to reduce."]
    size, calls = model.all_reduce_bytes(load.batch), model.all_reduces
    (each_us, origin), factor, gb_s = times.look_up(size), wire_factor(n), times.link.total_gb_s(n)
    lines.append(
        f"A step at TP {n} has {calls} all-reduces (2 a layer) of {size:,} B: "
        f"{number(calls * size / 1e6)} MB, each GPU sending 2(n-1)/n = {factor:g} of it: "
        f"{number(factor * calls * size / gb_s / 1e3)} us by bytes alone at {number(gb_s)} GB/s; "
        f"{calls} x {span_text(each_us, ' us')}{origin} = "
        f"{number(calls * each_us[0] / 1e3)} ms.")
    if model.experts > 1 and not model.experts % n:
        chunk = min(load.prompt, serving.CHUNK_TOKENS)
        sent, shared = (model.dispatch_bytes(n, chunk / n, once) / 1e6 for once in (False, True))
        lines.append(
            f"Split by experts a chunk of {chunk} tokens sends {number(sent)} MB a rank to experts "
            f"elsewhere, {number(shared)} if all experts of a rank share a copy, times the skew of "
            f"{load.skew:g}, in each layer, and receives as many; with replicated activations "
            "there is no all-to-all but an all-reduce of "
            f"{number(model.all_reduce_bytes(chunk) / 1e6)} MB.")
    return lines


def span_text(span: Span, unit: str = "") -> str:
    """`33.0 us [31.0 36.0]`; without the interval if it is unknown."""
    value, low, high = span
    return number(value) + unit + (f" [{number(low)} {number(high)}]" if low < high else "")


def memory_table(load: Workload) -> Table:
    """The memory of a GPU at TP 1 to 8."""
    table = plain_table({"": 37} | {str(world): 9 for world in WORLDS})
    splits = [Split(load, TENSOR if world > 1 else ONE, world) for world in WORLDS]
    streams = f", {max(load.batch, load.slots)} x {load.context} tokens"
    for part, detail in {"weights": "", "KV cache": streams, "activations": ""}.items():
        table.add_row(part + detail, *(number(split.memory_bytes[part] / GB) for split in splits))
    limit = f"{number(load.usable_bytes / GB)} GB (90 % of {number(load.gpu.memory_gb)})"
    table.add_row(f"fits {limit}", *(
        "no split" if load.model.heads % split.gpus else "fits" if split.spare_bytes >= 0 else "NO"
        for split in splits))
    table.add_row("GB to spare (- short)", *(signed(split.spare_bytes / GB) for split in splits))
    return table


def signed(value: float) -> str:
    """`number` of a value that may be negative."""
    return "-" * (value < 0) + number(abs(value))


def split_table(load: Workload, splits: Mapping[str, Split]) -> Table:
    """A row for each possible split: decode and prefill, latency and throughput."""
    table = plain_table({"": 15, "decode: ms\na token": 10, "tokens/s a\nstream": 20,
                         f"tokens/s of\n{load.slots} streams": 12, "prompt:\nms": 9,
                         "tokens/s\nof many": 9})
    for name, split in splits.items():
        if split.obstacle is None:
            table.add_row(name, number(split.step_us[0] / 1e3), span_text(rate(1, split.step_us)),
                          number(split.rate[0]), number(split.prompt_us[0] / 1e3),
                          number(split.prompt_rate[0]))
    return table


def link_table(load: Workload) -> tuple[str, Table]:
    """TP 1 to 8 by the figures of three links, beside the rule of thumb, and the title."""
    most, worlds = max(WORLDS), [str(world) for world in WORLDS]
    own = specs.link_between(load.gpu, most).name
    links = ("nvlink4" if own == load.gpu.slot else own, load.gpu.slot, "sockets")
    title = f"ms by the figures of {', '.join(links)} and NCCL's latencies"
    if own == load.gpu.slot:
        title += f"; {most} {load.gpu.name} have no NVLink"
    table = plain_table({"": 31} | dict.fromkeys(worlds, 8) | {"fastest": 7, "rule": 4})
    for (name, rule), link in zip(RULE_OF_THUMB.items(), links, strict=True):
        splits = [Split(replace(load, times=read_times([], world, specs.link(link))),
                        TENSOR if world > 1 else ONE, world)
                  for world in WORLDS if not load.model.heads % world]
        for figure, label in (("step_us", "decode"), ("prompt_us", "prompt")):
            ms = {split.gpus: getattr(split, figure)[0] / 1e3 for split in splits}
            table.add_row(f"{name}, {label}", *(number(ms.get(world)) for world in WORLDS),
                          str(min(ms, key=lambda world: ms[world])), str(rule))
    return title, table


def recommendation(load: Workload, splits: Mapping[str, Split]) -> list[str]:
    """The best split for each goal, its margin, and the all-reduce time that changes the answer."""
    possible = {name: split for name, split in splits.items()
                if split.obstacle is None and split.kind != OFFLOAD
                and (split.kind != ONE or load.gpus == 1)}
    if not possible:
        offload = splits.get(OFFLOAD)
        speed = ("" if offload is None or offload.obstacle else
                 f"; CPU offload gives {number(rate(1, offload.step_us)[0])} tokens/s")
        return [f"RECOMMENDATION: nothing fits on {load.gpus} x {load.gpu.name}: take more GPUs, "
                f"a larger card, fewer bits or less context{speed}."]
    full = dict(at_capacity(*item) for item in possible.items()) if load.context else {}
    streams = f"{load.batch} stream{'s' * (load.batch > 1)}"
    goals = [(f"Decode, latency of {streams}", possible, "step_us"),
             (f"Decode, throughput of {load.slots} streams", possible, "rate"),
             ("Decode, throughput of as many streams as fit", full, "rate"),
             (f"Prefill, latency of one prompt of {load.prompt}", possible, "prompt_us"),
             ("Prefill, throughput of many", possible, "prompt_rate")]
    return ["RECOMMENDATION", *(f"{goal}: {best(rivals, figure)}" for goal, rivals, figure in goals
                                if rivals), *break_even(load, possible)]


def best(splits: Mapping[str, Split], figure: str) -> str:
    """The best split by a figure of Split, a time or a rate, and its margin over the next."""
    spans = {name: getattr(split, figure) for name, split in splits.items()}
    is_rate = figure.endswith("rate")
    ordered = sorted(spans, key=lambda name: spans[name][0], reverse=is_rate)

    def gain(better: str, other: str) -> Span:
        ratio = (spans[better] / spans[other]) ** (1 if is_rate else -1)
        return np.array([ratio[0], min(ratio), max(ratio)])

    close = [name for name in ordered if gain(ordered[0], name)[1] < MARGIN]
    first = next((name for name in close if splits[name].kind == REPLICAS), ordered[0])
    scale, unit = (1, "tokens/s") if is_rate else (1e-3, "ms")
    answer = f"{first}, {number(spans[first][0] * scale)} {unit}"
    if len(close) > 1:
        equals = " and ".join(name for name in close if name != first)
        answer += f" ({equals} as good, within the precision of this arithmetic)"
    after = next((name for name in ordered if name not in close), None)
    return answer + (f", {span_text(gain(first, after), 'x')} {after}." if after else ".")


def break_even(load: Workload, splits: Mapping[str, Split]) -> list[str]:
    """The all-reduce time at which TP and the best other split decode equally fast."""
    steps_us = {name: split.step_us[0] for name, split in splits.items()}
    tensor = f"TP {load.gpus}"
    tensor_us = steps_us.pop(tensor, None)
    if tensor_us is None or not steps_us:
        return []
    other = min(steps_us, key=lambda name: steps_us[name])
    size = load.model.all_reduce_bytes(load.batch)
    each_us = load.times(size)
    even_us = each_us[0] + (steps_us[other] - tensor_us) / load.model.all_reduces
    if even_us <= 0:
        return [f"No all-reduce is fast enough for {tensor} to win the latency of decode."]
    factor = even_us / each_us[0]
    distance = f"{factor:.1f} times below" if factor > 1 else f"{1 / factor:.1f} times above"
    return [f"In the latency of decode {tensor} and {other} break even if an all-reduce of "
            f"{size_text(size)} takes {number(even_us)} us; here it takes "
            f"{span_text(each_us, ' us')}, {distance} that."]


def at_capacity(name: str, split: Split) -> tuple[str, Split]:
    """A split with as many streams as fit, at most MOST_STREAMS."""
    def with_streams(count: int) -> Split:
        return replace(split, workload=replace(split.workload, batch=1, slots=count))

    streams = max(1, bisect_left(range(1, MOST_STREAMS + 1), True,
                                 key=lambda count: with_streams(count).obstacle is not None))
    return f"{name} with {streams}", with_streams(streams)


def checks(load: Workload) -> str:
    """What to check before trusting the advice."""
    split = Split(load, TENSOR, load.gpus)
    more = (f", {split.tokens_in(split.spare_bytes)} tokens more" if split.spare_bytes > 0 else "")
    return (f"Before trusting it, check: the cache (TP {load.gpus} leaves "
            f"{signed(split.spare_bytes / GB)} GB a GPU{more}, after 10 % headroom); the topology "
            "(bench.doctor: the path between the GPUs, lanes, peer access); the latency (chained "
            "all-reduces of the engine's own library, captured as the engine does).")
