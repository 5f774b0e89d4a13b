"""`advise`: which way to split a model over GPUs, for one chat and for many, for decode and for prefill, and at which
time of an all-reduce the answer would be another. Arithmetic of `serving.py` over figures of `specs.toml`, with
all-reduces as a run measured them.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from reports.advice import explain, serving, specs
from reports.advice.reduce_times import Times, assumed, doubts, measured, printed
from reports.advice.serving import EXPERTS, OFFLOAD, ONE, PIPELINE, REPLICAS, TENSOR, Serving, Span
from reports.advice.specs import Gpu
from reports.imports.imported import Imported, read_imported
from reports.store.foreign import printable
from reports.store.result import ResultError, is_imported, read
from reports.store.schema import Result
from reports.tables.sentences import number, size_text

WIDTH = 80
GB = 1e9
MOST_STREAMS = 1 << 16
MARGIN = 1.1  # two splits closer than that are as good as each other, by arithmetic that leaves this much out
WORLDS = (1, 2, 4, 8)
RULE_OF_THUMB = {"NVLink or the like": 8, "PCIe, one socket": 4, "PCIe, across sockets": 2}


@dataclass(frozen=True)
class Question:
    """What is asked: `batch` streams decode together where latency is meant, `slots` where throughput is."""

    serving: Serving
    gpu: Gpu
    gpus: int
    weights: str
    prompt: int
    batch: int
    slots: int


@dataclass(frozen=True)
class Split:
    """One way to serve: a step of `batch` streams and a prompt in microseconds, tokens a second of `slots` streams and
    of many prompts. `why_not` says why it cannot be, None where it fits."""

    name: str
    kind: str
    why_not: str | None
    step_us: Span
    rate: Span
    prompt_us: Span
    prompt_rate: Span


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `advise` takes."""
    add = parser.add_argument
    add("--model", metavar="NAME", help="such as llama-3.1-70b, mixtral-8x7b; those of reports/advice/specs.toml")
    add("--config", metavar="FILE", type=Path, help="or the config.json of a Hugging Face model on disk")
    add("--weights", metavar="TYPE", default="q4", help="q4 (4.5 bits), q8 (8.5), fp8, fp16, bf16, or a file's size "
        "such as 42.5GB; %(default)s")
    add("--gpu", metavar="NAME", help="such as r9700, rtx4090, h100-nvl")
    add("--gpus", metavar="N", type=whole(64), default=2, help="how many (%(default)s)")
    add("--run", metavar="RUN", type=Path, nargs="+", action="extend", default=[], help="runs of bench.allreduce over "
        "that many ranks, each a launch of one machine; or one imported log")
    add("--link", metavar="NAME", help="what to assume where there is no run (the GPU's own); such as pcie5x16")
    add("--context", metavar="TOKENS", type=whole(10**8, 0), default=4096, help="in each stream's cache (%(default)s)")
    add("--prompt", metavar="TOKENS", type=whole(10**7), default=2048, help="to be read in (%(default)s)")
    add("--batch", metavar="N", type=whole(10**5), default=1, help="streams where latency is meant (%(default)s)")
    add("--slots", metavar="N", type=whole(10**5), default=8, help="streams where throughput is meant (%(default)s)")
    add("--skew", metavar="X", type=skew, default=1.0, help="what the busiest rank of an expert split gets, over the "
        "mean (%(default)s)")
    add("--explain", action="store_true", help="show where well-known formulas err, and by how much")
    add("--validate", metavar="RUN", type=Path, help="hold a run of bench.decode against what is predicted from --run: "
        "runs of bench.allreduce and bench.link on the same machine")


def whole(most: int, least: int = 1) -> Callable[[str], int]:
    """Reads a whole number between these."""
    def read_it(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{printable(text)!r} is not a whole number from {least} to {most}")
        return int(text)

    return read_it


def skew(text: str) -> float:
    """Reads a skew."""
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text) or float(text) < 1:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is not a skew: busiest over mean, 1 or more")
    return float(text)


def advise(arguments: argparse.Namespace) -> int:
    """Prints the advice; the exit status, 0. Raises ResultError for what is not known or cannot be read."""
    logs = [read_imported(path) for path in arguments.run if is_imported(path)]
    results = [read(path) for path in arguments.run if not logs]
    if len(logs) > 1 or len(logs) < len(arguments.run) * bool(logs):
        raise ResultError("an imported log is one launch of another program: name it alone")
    if arguments.validate:
        from reports.advice import validate

        sys.stdout.write(validate.render(read(arguments.validate), results))
        return 0
    asked = question(arguments)
    link = specs.link(arguments.link or peer_of(asked.gpu, asked.gpus) or asked.gpu.slot)
    times = (printed(logs[0], asked.gpus, link) if logs else measured(results, asked.gpus, link) if results
             else assumed(link, asked.gpus))
    text = render(asked, times, [*logs, *results])
    if arguments.explain:
        text += explain.render(asked, times)
    sys.stdout.write(text)
    return 0


def question(arguments: argparse.Namespace) -> Question:
    """The question that the command line asks. Raises ResultError."""
    if (arguments.model is None) == (arguments.config is None) or arguments.gpu is None:
        raise ResultError("advise needs --gpu, and either --model or --config")
    model = specs.model(arguments.model) if arguments.model else specs.model_of(arguments.config)
    gpu, size = specs.gpu(arguments.gpu), re.fullmatch(r"([0-9]{1,5}(?:\.[0-9]{1,3})?) ?GB", arguments.weights, re.I)
    weights_bytes = float(size[1]) * GB if size else serving.weights_bytes(model, specs.bits(arguments.weights))
    if arguments.skew > arguments.gpus:
        raise ResultError(f"a skew of {arguments.skew:g} over {arguments.gpus} GPUs: the busiest gets at most all, "
                          f"{arguments.gpus} times the mean")
    if not weights_bytes:
        raise ResultError("a model of 0 GB has no weights")
    what = Serving(model, weights_bytes, gpu.bandwidth_gb_s, context=arguments.context, skew=arguments.skew)
    return Question(on(gpu, what, arguments.weights.lower() == "fp8"), gpu, arguments.gpus,
                    printable(arguments.weights), arguments.prompt, arguments.batch, arguments.slots)


def on(gpu: Gpu, what: Serving, in_fp8: bool) -> Serving:
    """The same on such a GPU, multiplied in fp8 where it can."""
    return replace(what, bandwidth_gb_s=gpu.bandwidth_gb_s, tflops=(in_fp8 and gpu.fp8_tflops) or gpu.fp16_tflops,
                   memory_bytes=gpu.memory_gb * GB, slot_gb_s=specs.link(gpu.slot).gb_s)


def peer_of(gpu: Gpu, gpus: int) -> str | None:
    """The link of its own by which so many of a GPU reach each other, None where they have only their slots."""
    return gpu.peer if gpu.peer and gpus <= specs.link(gpu.peer).most_gpus else None


def splits(asked: Question, times: Times) -> list[Split]:
    """Every way to serve the model on these GPUs."""
    one = ONE if why_not(asked, ONE, 1) is None else OFFLOAD
    mixture = [EXPERTS] * (asked.serving.model.experts > 1)
    kinds = [TENSOR, PIPELINE, REPLICAS, *mixture, one] if asked.gpus > 1 else [one]
    return [split(asked, times, kind, asked.gpus) for kind in kinds]


def split(asked: Question, times: Times, kind: str, n: int) -> Split:
    """One way to serve it, and whether it can be."""
    what = asked.serving
    name = {TENSOR: f"TP {n}", PIPELINE: f"PP {n}", REPLICAS: f"{n} replicas", EXPERTS: f"EP {n}"}.get(kind, kind)
    step, prompt_us = serving.STEP_US[kind], serving.PROMPT_US[kind]
    return Split(name, kind, why_not(asked, kind, n), step(what, n, asked.batch, times),
                 step(what, n, asked.slots, times).rate(asked.slots), prompt_us(what, n, asked.prompt, times),
                 serving.prompts_rate(what, kind, n, asked.prompt, times))


def why_not(asked: Question, kind: str, n: int) -> str | None:
    """Why a split cannot be, None where it can."""
    what, model = asked.serving, asked.serving.model
    if kind == TENSOR and model.heads % n:
        return f"{model.heads} heads do not go into {n}"
    if kind == PIPELINE and model.layers < n:
        return f"{model.layers} layers make no {n} stages"
    if kind == EXPERTS and model.experts % n:
        return f"{model.experts} experts do not go into {n}"
    held = memory(asked, kind, n)
    needed = sum(held.values()) - (held["weights"] if kind == OFFLOAD else 0)
    short = needed - serving.usable_bytes(what.memory_bytes)
    return f"does not fit, {number(short / GB)} GB short" if short > 0 else None


def memory(asked: Question, kind: str, n: int) -> dict[str, float]:
    """What a GPU holds, for the most streams and the longest chunk that are asked for."""
    return serving.memory_bytes(asked.serving, kind, n, max(asked.batch, asked.slots),
                                min(asked.prompt, serving.CHUNK_TOKENS))


def larger_card(asked: Question) -> Split | None:
    """The smallest GPU that alone holds what the one that is asked about does not, None where there is none."""
    for gpu in sorted(specs.gpus(), key=lambda gpu: (gpu.memory_gb, -gpu.bandwidth_gb_s)):
        if gpu.memory_gb > asked.gpu.memory_gb:
            there = on(gpu, asked.serving, asked.serving.tflops == asked.gpu.fp8_tflops)
            one = split(replace(asked, serving=there, gpu=gpu, gpus=1), assumed(specs.link(gpu.slot), 1), ONE, 1)
            if one.why_not is None:
                return replace(one, name=f"1 x {gpu.name}")
    return None


def render(asked: Question, times: Times, results: Sequence[Result | Imported]) -> str:
    """The advice, at most 80 columns; ends with what to check before trusting it."""
    found = splits(asked, times)
    larger = larger_card(asked) if found[-1].kind == OFFLOAD else None
    rows = [*found, larger] if larger else found
    lines = [*head(asked, times, results), "", *fits(asked), "", *collectives(asked, times), "", *table(asked, rows),
             "", *(links(asked) if asked.gpus == max(WORLDS) else []), *recommendation(asked, found, times), "",
             *checks(asked)]
    return "\n".join(part for line in lines for part in (textwrap.wrap(line, WIDTH) if line[:1] != " " else [line])
                     or [""]) + "\n"


def head(asked: Question, times: Times, results: Sequence[Result | Imported]) -> list[str]:
    """What was asked, with all defaults."""
    what, gpu, model = asked.serving, asked.gpu, asked.serving.model
    mixture = f", {model.top_k} of {model.experts} experts (skew {what.skew:g})" if model.experts > 1 else ""
    return [f"{model.name}: {number(model.parameters / GB)}e9 weights, {asked.weights}: "
            f"{number(what.weights_bytes / GB)} GB; {model.layers} layers, {model.kv_heads} KV heads of "
            f"{model.head_dim}{mixture}",
            f"{asked.gpus} x {gpu.name}: {number(gpu.memory_gb)} GB, {number(gpu.bandwidth_gb_s)} GB/s, "
            f"{number(what.tflops)} TFLOP/s each ({gpu.source}): peaks, so all times are floors",
            f"context {asked.serving.context} tokens a stream, prompt {asked.prompt}; latency of {asked.batch} "
            f"stream{'s' * (asked.batch > 1)}, throughput of {asked.slots}",
            *[f"all-reduce: {times.words}", *doubts(times, results, gpu)] * (asked.gpus > 1)]


def fits(asked: Question) -> list[str]:
    """GB of each GPU at TP 1 to 8, and how much cache there is room for."""
    what, model = asked.serving, asked.serving.model
    usable = serving.usable_bytes(what.memory_bytes)
    by_world = {n: memory(asked, TENSOR if n > 1 else ONE, n) for n in WORLDS}
    streams = max(asked.batch, asked.slots)
    spare = [usable - sum(held.values()) for held in by_world.values()]
    rows: dict[str, Sequence[object]] = {"GB a GPU, split by tensor over": WORLDS}
    for part in ("weights", "KV cache", "activations"):
        name = f"KV cache, {streams} x {what.context} tokens" if part == "KV cache" else part
        rows[name] = [number(held[part] / GB) for held in by_world.values()]
    rows[f"fits {number(usable / GB)} GB (90 % of {number(asked.gpu.memory_gb)})"] = [
        "no split" if model.heads % n else "fits" if room >= 0 else "NO" for n, room in zip(WORLDS, spare, strict=True)]
    rows["GB to spare (- short)"] = [signed(room / GB) for room in spare]
    token, n = serving.kv_bytes_per_token(model), asked.gpus
    held = memory(asked, TENSOR, n)
    room = serving.room_tokens(model, n, usable - sum(held.values()) + held["KV cache"])
    return [*(f" {name:<37}" + "".join(f"{cell:>10}" for cell in row) for name, row in rows.items()),
            f"A token's keys and values are {token:,.0f} B in fp16 ({model.kv_layers or model.layers} layers); "
            f"beside the rest there is room for {room:,} tokens at TP {n}."]


def signed(value: float) -> str:
    """A number with its sign where it is below 0."""
    return f"-{number(-value)}" if value < 0 else number(value)


def collectives(asked: Question, times: Times) -> list[str]:
    """How many all-reduces a step has, their bytes and what they take."""
    n, model = asked.gpus, asked.serving.model
    if n == 1:
        return ["One GPU: nothing to reduce."]
    size, calls = int(serving.all_reduce_bytes(model, asked.batch)), serving.all_reduces(model)
    each, factor, gb_s = times(size), serving.wire_factor(n), times.link.gb_s * (n - 1 if times.link.mesh else 1)
    moved, how = calls * size, times.how(size)
    chunk, routed = min(asked.prompt, serving.CHUNK_TOKENS), list[str]()
    if model.experts > 1 and not model.experts % n:
        leaving, shared = (serving.dispatch_bytes(model, n, chunk / n, once) / 1e6 for once in (False, True))
        routed = [f"Split by experts a chunk of {chunk} tokens sends {number(leaving)} MB a rank to experts elsewhere, "
                  f"{number(shared)} where one copy serves all of a rank's, times the skew of {asked.serving.skew:g}, "
                  "in each layer, and as many back; with replicated activations there is no all-to-all but an "
                  f"all-reduce of {number(serving.all_reduce_bytes(model, chunk) / 1e6)} MB."]
    return [f"A step at TP {n} has {calls} all-reduces (2 a layer) of {size:,.0f} B: {number(moved / 1e6)} MB, each "
            f"GPU sending 2(n-1)/n = {factor:g} of it: {number(factor * moved / gb_s / 1e3)} us by bytes alone at "
            f"{number(gb_s)} GB/s; {calls} x {us_text(each)}{how} = {number(calls * each.value / 1e3)} ms.",
            *routed]


def us_text(span: Span) -> str:
    """`33 us [31 36]`."""
    return f"{number(span.value)} us{ends(span)}"


def ends(span: Span) -> str:
    """An interval, or nothing where none is known."""
    return f" [{number(span.low)} {number(span.high)}]" if span.low < span.high else ""


def table(asked: Question, rows: Sequence[Split]) -> list[str]:
    """Every split for decode and prefill, latency and throughput apart."""
    lines = [f" {'':<15}{'decode: ms':>11}{'tokens/s a':>20}{'tokens/s of':>13}{'prompt:':>10}{'tokens/s':>10}",
             f" {'':<15}{'a token':>11}{'stream':>20}{f'{asked.slots} streams':>13}{'ms':>10}{'of many':>10}"]
    for row in rows:
        stream, prompt = row.step_us.rate(1), row.prompt_us.value / 1e3
        cells = (f"{number(row.step_us.value / 1e3):>11}{number(stream.value) + ends(stream):>20}"
                 f"{number(row.rate.value):>13}{number(prompt):>10}{number(row.prompt_rate.value):>10}")
        lines.append(f" {row.name:<15}" + (f"  {row.why_not}" if row.why_not else cells))
    return lines


def recommendation(asked: Question, found: Sequence[Split], times: Times) -> list[str]:
    """What to take for each of the four, by how much, and where that flips."""
    can = [row for row in found if row.why_not is None and row.kind != OFFLOAD
           and (row.kind != ONE or asked.gpus == 1)]
    if not can:
        offload = next(row for row in found if row.kind == OFFLOAD)
        rate = "" if offload.why_not else f"; CPU offload gives {number(offload.step_us.rate(1).value)} tokens/s"
        return [f"RECOMMENDATION: nothing fits on {asked.gpus} x {asked.gpu.name}: take more GPUs, a larger card, "
                f"fewer bits or less context{rate}."]
    plural, cached = "s" * (asked.batch > 1), asked.serving.context > 0
    return ["RECOMMENDATION",
            f"Decode, latency of {asked.batch} stream{plural}: {best(can, 'step_us')}{flips(asked, can, times)}",
            f"Decode, throughput of {asked.slots} streams: {best(can, 'rate')}",
            *[f"Decode, throughput of as many streams as fit: {saturated(asked, can, times)}"] * cached,
            f"Prefill, latency of one prompt of {asked.prompt}: {best(can, 'prompt_us')}",
            f"Prefill, throughput of many: {best(can, 'prompt_rate')}"]


def best(can: Sequence[Split], figure: str) -> str:
    """Which split is best by this figure, and by how much; rates are better where they are higher."""
    sign = 1 if figure.endswith("rate") else -1
    ordered = sorted(can, key=lambda row: getattr(row, figure).value ** sign, reverse=True)

    def over(first: Split, row: Split) -> Span:
        ends_of_both = zip(getattr(first, figure), getattr(row, figure), strict=True)
        ratios = [(one / other) ** sign for one, other in ends_of_both]
        return Span(ratios[0], min(ratios), max(ratios))

    close = [row for row in ordered if over(ordered[0], row).low < MARGIN]
    first = next((row for row in close if row.kind == REPLICAS), ordered[0])
    value = getattr(first, figure).value
    said = f"{first.name}, {number(value)} tokens/s" if sign > 0 else f"{first.name}, {number(value / 1e3)} ms"
    if also := " and ".join(row.name for row in close if row is not first):
        said += f" ({also} as good, within what this leaves out)"
    if len(close) == len(ordered):
        return f"{said}."
    after = next(row for row in ordered if row not in close)
    return f"{said}, {over(first, after).value:.2f}x{ends(over(first, after))} {after.name}."


def flips(asked: Question, can: Sequence[Split], times: Times) -> str:
    """At which all-reduce time a split by tensor and the best of the others change places."""
    tensor = next((row for row in can if row.kind == TENSOR), None)
    others = [row for row in can if row.kind != TENSOR]
    if tensor is None or not others:
        return ""
    other, calls = min(others, key=lambda row: row.step_us.value), serving.all_reduces(asked.serving.model)
    size = serving.all_reduce_bytes(asked.serving.model, asked.batch)
    here = times(size)
    flip = serving.flip_us(other.step_us.value, tensor.step_us.value - calls * here.value, calls)
    if flip <= 0:
        return f" No all-reduce is fast enough for {tensor.name} to win."
    far = f"{flip / here.value:.1f} times below" if flip > here.value else f"{here.value / flip:.1f} times above"
    return (f" It flips between {tensor.name} and {other.name} where an all-reduce of {size_text(int(size))} takes "
            f"{number(flip)} us; here it takes {us_text(here)}, {far} that.")


def saturated(asked: Question, can: Sequence[Split], times: Times) -> str:
    """The same for as many streams as fit, up to MOST_STREAMS."""
    full = []
    for row in can:
        low, high = 1, MOST_STREAMS
        while low < high:
            middle = (low + high + 1) // 2
            fit = why_not(replace(asked, batch=1, slots=middle), row.kind, asked.gpus) is None
            low, high = (middle, high) if fit else (low, middle - 1)
        then = split(replace(asked, batch=1, slots=low), times, row.kind, asked.gpus)
        full.append(replace(then, name=f"{row.name} with {low}"))
    return best(full, "rate")


def links(asked: Question) -> list[str]:
    """TP 1 to 8 by links' figures alone, beside the rule of thumb."""
    own = peer_of(asked.gpu, max(WORLDS))
    only_shown = "" if own else f" {max(WORLDS)} {asked.gpu.name} have no NVLink; its rows are there to compare with."
    by_link = dict(zip(RULE_OF_THUMB, (own or "nvlink4", asked.gpu.slot, "sockets"), strict=True))
    lines = [f" {'by link figures alone, TP':<33}" + "".join(f"{n:>9}" for n in WORLDS) + f"{'best':>5}{'rule':>5}"]
    for name, link in by_link.items():
        for what in ("decode", "prompt"):
            ms = list[float]()
            for n in WORLDS:
                if asked.serving.model.heads % n:
                    ms.append(inf)
                    continue
                done = split(asked, assumed(specs.link(link), n), TENSOR if n > 1 else ONE, n)
                ms.append((done.step_us if what == "decode" else done.prompt_us).value / 1e3)
            cells = "".join(f"{number(value) if value < inf else '-':>9}" for value in ms)
            lines.append(f" {f'{name}, {what}, ms':<33}{cells}"
                         f"{WORLDS[ms.index(min(ms))]:>5}{RULE_OF_THUMB[name]:>5}")
    return [*lines, f"Links: {', '.join(by_link.values())}; latencies are of NCCL's model; what fits is above."
                    f"{only_shown}", ""]


def checks(asked: Question) -> list[str]:
    """What to look at before trusting the advice."""
    what, n = asked.serving, asked.gpus
    room = serving.usable_bytes(what.memory_bytes) - sum(memory(asked, TENSOR, n).values())
    more = f", {serving.room_tokens(what.model, n, room)} tokens more"
    return [f"Before trusting it, check: the cache (TP {n} leaves {signed(room / GB)} GB a GPU{more * (room > 0)}, "
            "beside 10 % headroom); the topology (bench.doctor: the path between the GPUs, lanes, peer access); the "
            "latency (chained all-reduces of the engine's own library, captured as the engine does)."]
