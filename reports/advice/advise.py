"""`advise`: how to split a model over GPUs, the all-reduce time at which the answer changes, and,
with `--versus`, the GPUs beside others such as one larger card."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.table import Table

from reports.advice import scaling, serving
from reports.advice.reduce_times import Span, read_times, span_text, warnings, wire_factor
from reports.advice.serving import GB, ONE, REPLICAS, TENSOR, Split, rate
from reports.advice.specs import BITS, GPUS, LINKS, MODELS, NETWORKS, link_between, model_of
from reports.imports.imported import Imported, read_any
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.schema import Result
from reports.store.untrusted import printable
from reports.tables.sentences import lay_out, number, plain_table, size_text

WORLDS = (1, 2, 4, 8)
MOST_GPUS = 64
BEFORE_TRUSTING_IT = (
    "Before trusting it, check the path of the GPUs (bench.doctor) and the chained all-reduces of "
    "the engine's own library."
)
RULE_OF_THUMB = {"NVLink or the like": "8", "PCIe, one socket": "4", "PCIe, across sockets": "2"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="NAME", help="such as llama-3.1-70b; see reports/advice/specs.toml")
    add("--config", metavar="FILE", type=Path, help="or the config.json of a Hugging Face model")
    add(
        "--weights",
        metavar="TYPE",
        default="q4",
        help="q4 (4.5 bits), q8 (8.5), fp8, fp16, bf16, or a size such as 42.5GB; %(default)s",
    )
    add("--gpu", metavar="NAME", help="such as r9700, rtx4090, h100-nvl")
    add(
        "--run",
        metavar="RUN",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="launches of bench.allreduce over N ranks of one machine; or one imported log",
    )
    add("--link", metavar="NAME", help="link without a run, such as pcie5x16 (the GPU's own)")
    for name, unit, least, most, default, text in (
        ("--gpus", "N", 1, MOST_GPUS, 2, "number of GPUs, of each node with --nodes"),
        ("--nodes", "N", 1, 64, 1, "number of nodes, above 1 by a model, see docs/scaling.md"),
        ("--context", "TOKENS", 0, 10**8, 4096, "cached tokens of each stream"),
        ("--prompt", "TOKENS", 1, 10**7, 2048, "length of a prompt"),
        ("--batch", "N", 1, 10**5, 1, "streams for latency"),
        ("--slots", "N", 1, 10**5, 8, "streams for throughput"),
    ):
        add(
            name,
            metavar=unit,
            type=partial(whole, least, most),
            default=default,
            help=f"{text} (%(default)s)",
        )
    add(
        "--network",
        metavar="NAME",
        help="between nodes: ib-hdr, ib-ndr, eth-100g ... (the usual one for the GPU's link)",
    )
    add(
        "--skew",
        metavar="X",
        type=float,
        default=1.0,
        help="load of the busiest rank of an expert split, over the mean (%(default)s)",
    )
    add("--versus", metavar="GPU[:N]", help="also compare with N (1) GPUs of this name")
    add(
        "--prices",
        metavar="PRICE",
        nargs=2,
        type=partial(whole, 1, 10**7),
        help="of all your GPUs and of those of --versus, in one currency",
    )


def whole(least: int, most: int, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(
            f"{printable(text)!r} is not a whole number from {least} to {most}"
        )
    return int(text)


def load_of(arguments: argparse.Namespace, runs: Sequence[Result | Imported]) -> Split:
    """The model, its GPUs and the times of their all-reduces. Raises ResultError for names and
    options that do not go together."""
    if (arguments.model is None) == (arguments.config is None) or arguments.gpu is None:
        raise ResultError("advise needs --gpu, and either --model or --config")
    model = MODELS.find(arguments.model) if arguments.model else model_of(arguments.config)
    gpu, weights = GPUS.find(arguments.gpu), arguments.weights
    nodes, gpus = arguments.nodes, arguments.nodes * arguments.gpus
    if nodes == 1 and arguments.network:
        raise ResultError("--network joins nodes: give their number as --nodes")
    if nodes > 1 and arguments.versus:
        raise ResultError("--versus compares GPUs of one machine: leave out --nodes")
    size = re.fullmatch(r"([0-9]{1,5}(?:\.[0-9]{1,3})?) ?GB", weights, re.IGNORECASE)
    weights_bytes = float(size[1]) * GB if size else model.parameters * BITS.find(weights) / 8
    if not 1 <= arguments.skew <= gpus:
        raise ResultError(f"--skew {arguments.skew:g} is not from 1 (even) to {gpus} (one GPU)")
    if not weights_bytes:
        raise ResultError("a model of 0 GB has no weights")
    link = LINKS.find(arguments.link) if arguments.link else link_between(gpu, arguments.gpus)
    times = read_times(runs, arguments.gpus, link)
    if nodes > 1 and times.hosts != 1:
        hosts = times.hosts or "an unknown number of"
        raise ResultError(f"{runs[0].path} is of {hosts} hosts: with --nodes give a run of one")
    if nodes > 1:
        network = NETWORKS.find(arguments.network or link.network)
        times = scaling.cluster_times(times, nodes, network)
    return Split(
        model,
        gpu,
        gpus,
        printable(weights),
        weights_bytes,
        times,
        arguments.context,
        arguments.prompt,
        arguments.batch,
        arguments.slots,
        arguments.skew,
    )


def advise(arguments: argparse.Namespace) -> int:
    """Prints the advice and returns 0. Raises ResultError for unknown names and unusable files."""
    runs = [read_any(path) for path in arguments.run]
    if len(runs) > 1 and any(isinstance(run, Imported) for run in runs):
        raise ResultError("an imported log is one launch of another program: name it alone")
    load = load_of(arguments, runs)
    splits = scaling.all_splits(load)
    rival = _rival_of(load, arguments.versus) if arguments.versus else None
    if arguments.prices and rival is None:
        raise ResultError("--prices needs --versus GPU[:N]")
    compared = _compare(load, rival, arguments.prices) if rival else None
    obstacles = [f"{name}: {split.obstacle}." for name, split in splits.items() if split.obstacle]
    if arguments.json:
        write_json(
            "advise",
            **_record(load, splits),
            recommendation=_recommendation(load, splits),
            versus=compared[2] if compared else None,
        )
        return 0
    tables = [*_tables(load, splits), *([compared[0]] if compared else [])]
    sentences = [
        *obstacles,
        "RECOMMENDATION",
        *_recommendation(load, splits),
        *(compared[1] if compared else []),
        "",
        BEFORE_TRUSTING_IT,
    ]
    headline = _headline(load, splits)
    sys.stdout.write(lay_out([headline], _question(load, runs), tables, sentences))
    return 0


def _headline(load: Split, splits: dict[str, Split]) -> str:
    """The split with the shortest decode step."""
    possible = serving.possible_splits(load, splits)
    answer = _best(possible, "step_us") if possible else "nothing fits."
    streams = f"{load.batch} stream{'s' * (load.batch > 1)}"
    place, times = f"{load.gpus} x {load.gpu.name}", load.times
    if isinstance(times, scaling.ClusterTimes):
        place = f"{times.nodes} nodes of {times.node.gpus} x {load.gpu.name}, MODELLED"
    return f"{load.model.name} on {place}, a token of {streams}: {answer}"


def _record(load: Split, splits: dict[str, Split]) -> dict[str, object]:
    """The load, its all-reduce and its splits for `--json`; a span is [value, low, high]."""
    size = load.model.all_reduce_bytes(load.batch)
    units = {
        "step_us": "step_us",
        "prompt_us": "prompt_us",
        "rate": "tokens_per_s",
        "prompt_rate": "prompt_tokens_per_s",
    }
    return {
        "model": load.model.name,
        "weights_bytes": load.weights_bytes,
        "gpu": load.gpu.name,
        "gpus": load.gpus,
        "context": load.context,
        "batch": load.batch,
        "slots": load.slots,
        "all_reduce": {
            "source": load.times.source,
            "is_assumed": not load.times.spans,
            "size_bytes": size,
            "us": load.times(size) if load.gpus > 1 else None,
            "calls": load.model.all_reduces,
            "hosts": load.times.hosts,
        },
        "splits": [
            {"name": name, "obstacle": split.obstacle}
            | (
                {}
                if split.obstacle
                else {unit: split.figures[figure] for figure, unit in units.items()}
            )
            for name, split in splits.items()
        ],
    }


def _question(load: Split, runs: list[Result | Imported]) -> list[str]:
    """The load with all defaults, the origin of its times, and the all-reduces of a step."""
    gpu, model, n, times = load.gpu, load.model, load.gpus, load.times
    mixture = f", {model.top_k} of {model.experts} experts" * (model.experts > 1)
    room_bytes = max(0.0, load.spare_bytes + load.memory_bytes["KV cache"])
    tokens = int(room_bytes // (model.kv_share(n) * model.kv_bytes_per_token))
    lines = [
        f"{model.name}: {number(model.parameters / GB)}e9 weights, {load.weights}: "
        f"{number(load.weights_bytes / GB)} GB; {model.layers} layers, {model.kv_heads} KV heads "
        f"of {model.head_dim}{mixture}",
        f"{n} x {gpu.name}: {number(gpu.memory_gb)} GB, {number(gpu.bandwidth_gb_s)} GB/s, "
        f"{number(load.tflops)} TFLOP/s each ({gpu.source}): peaks, so all times are lower bounds",
        f"context {load.context} tokens a stream, prompt {load.prompt}; streams: {load.batch} for "
        f"latency, {load.slots} for throughput",
        f"keys and values: {model.kv_bytes_per_token:,} B a token in fp16 ({model.kv_layers} "
        f"layers); at TP {n} the cache has room for {tokens:,} tokens",
    ]
    if n == 1:
        return lines
    size, calls = model.all_reduce_bytes(load.batch), model.all_reduces
    (each_us, origin), factor, gb_s = times.look_up(size), wire_factor(n), times.link.total_gb_s(n)
    us = number(factor * calls * size / gb_s / 1e3)
    by_bytes = f"{us} us by bytes alone at {number(gb_s)} GB/s; " if times.hosts == 1 else ""
    lines += [
        f"all-reduce: {times.source}",
        *warnings(getattr(times, "node", times), runs, gpu),
        f"A step at TP {n} has {calls} all-reduces (2 a layer) of {size:,} B: "
        f"{number(calls * size / 1e6)} MB, each GPU sending 2(n-1)/n = {factor:g} of it: {by_bytes}"
        f"{calls} x {span_text(each_us, ' us')}{origin} = {number(calls * each_us[0] / 1e3)} ms.",
    ]
    if model.experts > 1 and not model.experts % n:
        chunk = min(load.prompt, serving.CHUNK_TOKENS)
        sent, shared = (model.dispatch_bytes(n, chunk / n, once) / 1e6 for once in (False, True))
        lines.append(
            f"Split by experts a rank sends {number(sent)} MB of a chunk of {chunk} tokens to "
            f"other ranks in each layer, {number(shared)} if all experts of a rank share a copy, "
            f"times the skew of {load.skew:g}, and receives as many."
        )
    return lines


def _tables(load: Split, splits: dict[str, Split]) -> list[tuple[str, Table]]:
    worlds = [replace(load, gpus=n) for n in WORLDS]
    memory = plain_table({"": 37} | {str(n): 9 for n in WORLDS})
    streams = f", {max(load.batch, load.slots)} x {load.context} tokens"
    for part in load.memory_bytes:
        memory.add_row(
            part + streams * (part == "KV cache"),
            *(number(split.memory_bytes[part] / GB) for split in worlds),
        )
    limit = f"{number(load.usable_bytes / GB)} GB (90 % of {number(load.gpu.memory_gb)})"
    memory.add_row(
        f"fits {limit}",
        *(
            "no split"
            if load.model.heads % split.gpus
            else "fits"
            if split.spare_bytes >= 0
            else "NO"
            for split in worlds
        ),
    )
    memory.add_row("GB to spare (- short)", *(f"{split.spare_bytes / GB:.1f}" for split in worlds))
    speed = plain_table(
        {
            "": 15,
            "decode: ms\na token": 10,
            "tokens/s a\nstream": 20,
            f"tokens/s of\n{load.slots} streams": 12,
            "prompt:\nms": 9,
            "tokens/s\nof many": 9,
        }
    )
    for name, split in splits.items():
        if split.obstacle is None:
            step_us, prompt_us, tokens, prompt_tokens = split.figures.values()
            speed.add_row(
                name,
                number(step_us[0] / 1e3),
                span_text(rate(1, step_us)),
                number(tokens[0]),
                number(prompt_us[0] / 1e3),
                number(prompt_tokens[0]),
            )
    tables = [("GB a GPU, split by tensor over", memory), ("", speed)]
    is_table = load.gpus == max(WORLDS) and load.times.hosts == 1
    return [*tables, _link_table(load)] if is_table else tables


def _link_table(load: Split) -> tuple[str, Table]:
    """TP 1 to 8 over three links, which the GPUs need not have, beside the rule of thumb."""
    slot, own = load.gpu.slot, link_between(load.gpu, load.gpus).name
    links = ("nvlink4" if own == slot else own, slot, "sockets")
    table = plain_table({"": 31} | {str(n): 8 for n in WORLDS} | {"fastest": 7, "rule": 4})
    for (name, rule), link in zip(RULE_OF_THUMB.items(), links, strict=True):
        splits = {
            n: replace(
                load, times=read_times([], n, LINKS[link]), gpus=n, kind=TENSOR if n > 1 else ONE
            )
            for n in WORLDS
            if not load.model.heads % n
        }
        for figure, label in (("step_us", "decode"), ("prompt_us", "prompt")):
            ms = {n: split.figures[figure][0] / 1e3 for n, split in splits.items()}
            table.add_row(
                f"{name}, {label}",
                *(number(ms.get(n)) for n in WORLDS),
                str(min(ms, key=lambda n: ms[n])),
                rule,
            )
    return f"ms if joined by {', '.join(links)}, with typical published latencies", table


def _recommendation(load: Split, splits: dict[str, Split]) -> list[str]:
    possible = serving.possible_splits(load, splits)
    if not possible:
        single = scaling.all_splits(replace(load, batch=1, slots=1))
        if fitting := serving.possible_splits(load, single):
            most = max(serving.at_capacity(split).slots for split in fitting.values())
            return [
                f"{max(load.batch, load.slots)} streams do not fit on {load.gpus} x "
                f"{load.gpu.name}, {most} do: ask for --batch 1 --slots {most}, or take more "
                "GPUs, a larger card, fewer bits or less context."
            ]
        return [
            f"Nothing fits on {load.gpus} x {load.gpu.name}: take more GPUs, "
            "a larger card, fewer bits or less context."
        ]
    full = [serving.at_capacity(split) for split in possible.values()] if load.context else []
    streams = f"{load.batch} stream{'s' * (load.batch > 1)}"
    goals = [
        (f"Decode, latency of {streams}", possible, "step_us"),
        (f"Decode, throughput of {load.slots} streams", possible, "rate"),
        (
            "Decode, throughput of as many streams as fit",
            {
                f"{name} with {split.slots}": split
                for name, split in zip(possible, full, strict=bool(full))
            },
            "rate",
        ),
        (f"Prefill, latency of one prompt of {load.prompt}", possible, "prompt_us"),
        ("Prefill, throughput of many", possible, "prompt_rate"),
    ]
    return [
        *(f"{goal}: {_best(rivals, figure)}" for goal, rivals, figure in goals if rivals),
        *_break_even(load, possible),
    ]


def _best(splits: dict[str, Split], figure: str) -> str:
    spans, is_rate = {name: splits[name].figures[figure] for name in splits}, "rate" in figure
    power, scale, unit = (1, 1.0, "tokens/s") if is_rate else (-1, 1e-3, "ms")
    ordered = sorted(spans, key=lambda name: spans[name][0], reverse=is_rate)
    close = [
        name
        for name in ordered
        if min((spans[ordered[0]] / spans[name]) ** power) < serving.LEAST_RANKED_RATIO
    ]
    first = next((name for name in close if splits[name].kind == REPLICAS), ordered[0])
    answer = f"{first}, {number(spans[first][0] * scale)} {unit}"
    equals = " and ".join(name for name in close if name != first)
    answer += f" ({equals} as good, by this coarse arithmetic)" if equals else ""
    after = next((name for name in ordered if name not in close), None)
    if after is not None:
        gain = (spans[first] / spans[after]) ** power
        answer += f", {span_text(np.array([gain[0], min(gain), max(gain)]), 'x')} {after}"
    return f"{answer}."


def _break_even(load: Split, splits: dict[str, Split]) -> list[str]:
    """The all-reduce time at which TP and the best other split decode equally fast."""
    steps_us = {name: split.figures["step_us"][0] for name, split in splits.items()}
    tensor, size = f"TP {load.gpus}", load.model.all_reduce_bytes(load.batch)
    tensor_us, each_us = steps_us.pop(tensor, None), load.times(size)
    if tensor_us is None or not steps_us:
        return []
    other = min(steps_us, key=lambda name: steps_us[name])
    even_us = each_us[0] + (steps_us[other] - tensor_us) / load.model.all_reduces
    if even_us <= 0:
        return [f"No all-reduce is fast enough for {tensor} to win the latency of decode."]
    return [
        f"In the latency of decode {tensor} and {other} break even if an all-reduce of "
        f"{size_text(size)} takes {number(even_us)} us; here it takes "
        f"{span_text(each_us, ' us')}.",
        *["The known errors of these times reach both sides: measure before you decide."]
        * bool(not load.times.spans and each_us[1] < even_us < each_us[2]),
    ]


def _rival_of(load: Split, text: str) -> Split:
    """The same load on the GPUs that `GPU[:N]` names. Raises ResultError for an unknown GPU."""
    name, colon, count = text.partition(":")
    if colon and not (re.fullmatch("[0-9]{1,2}", count) and 1 <= int(count) <= MOST_GPUS):
        raise ResultError(f"--versus {printable(text)}: N is from 1 to {MOST_GPUS}")
    gpu, gpus = GPUS.find(name), int(count or 1)
    times = read_times([], gpus, link_between(gpu, gpus))
    return replace(load, gpu=gpu, gpus=gpus, times=times, skew=min(load.skew, gpus))


def _compare(
    load: Split, rival: Split, prices: Sequence[int] | None
) -> tuple[tuple[str, Table], list[str], dict[str, object]]:
    """The table of both, sentences about them, and a record for `--json`. A ratio above 1 speaks
    for the GPUs of `load`; its brackets hold the worst and the best combination of intervals."""
    pair = load, rival
    names = [f"{side.gpus} x {side.gpu.name}" for side in pair]
    table = plain_table({"": 22, names[0]: 17, names[1]: 17, "ratio": 18})
    facts = {
        "GB of memory": [side.gpus * side.gpu.memory_gb for side in pair],
        "W by their data sheets": [side.gpus * side.gpu.tdp_w for side in pair],
        **({"price": prices} if prices else {}),
    }
    for name, (ours, theirs) in facts.items():
        table.add_row(name, number(ours), number(theirs), f"{ours / theirs:.2f}x")
    source = rival.times.source if rival.gpus > 1 else None
    sentences = ["", f"VERSUS {names[1]}", *[f"Its all-reduce: {source}."] * bool(source)]
    goals, speeds = list[dict[str, object]](), [_speeds(side) for side in pair]
    for goal in speeds[0]:
        best = [
            max(of_side[goal].items(), key=lambda item: item[1][0], default=None)
            for of_side in speeds
        ]
        cells = [f"{span_text(item[1])}\n{item[0]}" if item else "does not fit" for item in best]
        sides = [item and {"split": item[0], "tokens_per_s": item[1]} for item in best]
        goals.append({"goal": goal, "ratio": None, "ours": sides[0], "theirs": sides[1]})
        if best[0] is None or best[1] is None:
            table.add_row(goal, *cells, "-")
            losers = [name for name, item in zip(names, best, strict=True) if item is None]
            sentences.append(f"{goal}: does not fit on {' and on '.join(losers)}.")
            continue
        ratio = best[0][1] / best[1][1][[0, 2, 1]]
        goals[-1]["ratio"] = ratio
        table.add_row(goal, *cells, span_text(ratio, "x"))
        sentences.append(f"{goal}: {_better(names, ratio)}.")
        if prices:
            ratio = ratio * prices[1] / prices[0]
            table.add_row("  for the same money", "", "", span_text(ratio, "x"))
            sentences.append(f"{goal}, for the same money: {_better(names, ratio)}.")
    record = {"gpu": rival.gpu.name, "gpus": rival.gpus, "prices": prices, "goals": goals}
    return (
        (f"{names[0]} beside {names[1]}", table),
        sentences,
        record | {"all_reduce": source},
    )


def _speeds(load: Split) -> dict[str, dict[str, Span]]:
    """For each goal the tokens/s of the splits that fit its streams, by the split's name."""
    alone = replace(load, slots=load.batch)
    few, many = (serving.possible_splits(side, serving.all_splits(side)) for side in (alone, load))
    full = {name: serving.at_capacity(split) for name, split in few.items() if load.context}
    goals = [
        (f"tokens/s of {load.batch} stream{'s' * (load.batch > 1)}", few, "rate"),
        (f"tokens/s of {load.slots} streams", many, "rate"),
        (
            "tokens/s of many",
            {f"{name}, {split.slots} streams": split for name, split in full.items()},
            "rate",
        ),
        ("prompt tokens/s", few, "prompt_rate"),
    ]
    return {
        goal: {name: split.figures[figure] for name, split in splits.items()}
        for goal, splits, figure in goals
        if load.context or goal != "tokens/s of many"  # without a cache any number of streams fits
    }


def _better(names: Sequence[str], ratio: Span) -> str:
    first, second = names if ratio[0] >= 1 else names[::-1]
    gain = ratio if ratio[0] >= 1 else 1 / ratio[[0, 2, 1]]
    if gain[1] < serving.LEAST_RANKED_RATIO:
        return f"no clear difference, {first} {span_text(gain, 'x')} {second}"
    return f"{first}, {span_text(gain, 'x')} {second}"
