"""`advise`: how to split a model over GPUs, and the all-reduce time at which the answer changes."""

import argparse
from functools import partial
from pathlib import Path

import msgspec

from reports.advice import serving
from reports.advice.reduce_times import assumed_times, measured_times, read_launches
from reports.advice.serving import Deployment, rate
from reports.advice.spans import Span
from reports.advice.specs import (
    GB,
    engine_calls,
    engine_text,
    gpu_of,
    link_between,
    link_by_name,
    model_by_name,
    model_of,
)
from reports.advice.wire import Wire
from reports.tables.sentences import counted, lay_out, number, plain_table, size_text
from wiretax.common.arguments import positive_number, whole_number
from wiretax.common.program import BENCH, answer
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError

MOST_GPUS = 64
BEFORE_TRUSTING_IT = (
    f"Before trusting it, check the path of the GPUs ({BENCH}doctor) and the chained all-reduces "
    "of the engine's own library."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group(required=True).add_argument
    model("--model", metavar="NAME", help="such as llama-3.1-70b; see collectives/models.toml")
    model("--config", metavar="FILE", type=Path, help="or the config.json of a Hugging Face model")
    add(
        "--weights",
        metavar="TYPE",
        default="q4",
        help="q4 (4.5 bits), q8, q4_k_m, nvfp4, fp8, bf16 and others, 6.0bpw, or a size such as "
        "42.5GB (%(default)s)",
    )
    add(
        "--gpu",
        metavar="NAME",
        required=True,
        help="such as r9700, rtx4090, h100-nvl, or a card's figures: 32GB,640GB/s,191TFLOPS",
    )
    add(
        "--run",
        metavar="RUN",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="launches of an all-reduce over N ranks of one machine",
    )
    add(
        "--link",
        metavar="NAME",
        help="link to assume without a run, such as pcie5x16 (the GPU's own)",
    )
    add(
        "--tpot-ms",
        metavar="MS",
        type=partial(positive_number, "ms", 10**6),
        help="with --run: the share of all-reduces in this measured time of a token",
    )
    add(
        "--wire",
        metavar="US,US,GB/s[,CARDS]",
        type=wire,
        help="without a run, PREDICT from a kernel of a graph, a handshake, and the narrowest "
        "link, which so many cards share (1)",
    )

    for name, unit, least, most, default, text in (
        ("--gpus", "N", 1, MOST_GPUS, 2, "number of GPUs"),
        ("--context", "TOKENS", 0, 10**8, 4096, "cached tokens of each stream"),
        ("--prompt", "TOKENS", 1, 10**7, 2048, "length of a prompt"),
        ("--batch", "N", 1, 10**5, 1, "streams for latency"),
        ("--slots", "N", 1, 10**5, 8, "streams for throughput"),
    ):
        add(
            name,
            metavar=unit,
            type=partial(whole_number, least, most=most),
            default=default,
            help=f"{text} (%(default)s)",
        )


def wire(text: str) -> Wire:
    """`3,2.9,12,2`"""
    try:
        return msgspec.convert(text.split(","), Wire, strict=False)
    except msgspec.ValidationError as error:
        raise argparse.ArgumentTypeError(
            f"{printable(text)!r} is not a kernel's us, a handshake's us and GB/s such as "
            f"3,2.9,12 ({error})"
        ) from error


def load_of(arguments: argparse.Namespace) -> Deployment:
    """The model, its GPUs and the times of their all-reduces. Raises ResultError for names and
    options that do not go together."""
    gpu = gpu_of(arguments.gpu)
    model = model_of(arguments.config) if arguments.config else model_by_name(arguments.model)

    link = own_link = link_between(gpu, arguments.gpus)
    if arguments.link:
        link = link_by_name(arguments.link)

    if arguments.wire and (arguments.run or arguments.link):
        raise ResultError("advise takes one of --run, --link and --wire")
    if arguments.tpot_ms and not (arguments.run and arguments.gpus > 1):
        raise ResultError("--tpot-ms needs --run, all-reduces that were measured, and two GPUs")

    if arguments.wire:
        times = arguments.wire.times(arguments.gpus, model.all_reduce_bytes(arguments.batch))
    elif arguments.run:
        launches = read_launches(arguments.run, arguments.gpus)
        if launches.wrong:
            raise ResultError(f"{', '.join(launches.wrong)} failed or has wrong results")
        times = measured_times(launches, arguments.gpus, gpu, link)
    else:
        times = assumed_times(arguments.gpus, gpu, link)
        own_times = assumed_times(arguments.gpus, gpu, own_link)
        if link != own_link and times.source == own_times.source:
            raise ResultError(
                f"--link {link.name} changes nothing: what is published of {gpu.library.upper()} "
                f"does not tell it from {own_link.name}; measure it, and name the --run"
            )

    return Deployment(
        model,
        gpu,
        printable(arguments.weights),
        times,
        arguments.context,
        arguments.prompt,
        arguments.batch,
        arguments.slots,
        tensor=arguments.gpus,
    )


def advise(arguments: argparse.Namespace) -> int:
    """Prints the advice and returns 0. Raises ResultError for unknown names and unusable files."""
    load = load_of(arguments)
    model, splits = load.model, serving.all_splits(load)
    possible = {name: split for name, split in splits.items() if split.obstacle is None}
    headline, *rest = advice = _recommendation(load, possible)
    served = [_share_of_token(load, arguments.tpot_ms)] if arguments.tpot_ms else []
    headings = [
        "",
        "GB a\nGPU",
        "decode: ms\na token",
        "at most\ntokens/s a\nstream",
        f"at most\ntokens/s of\n{load.slots} streams",
        "prompt:\nms",
        "tokens/s\nof many",
    ]
    rows = []
    for name, split in possible.items():
        figures = split.figures
        rows.append(
            [
                name,
                number(split.memory_bytes(load.batch) / GB),
                number(figures["step_us"].value / 1e3),
                rate(1, figures["step_us"]).text(),
                "-" if split.lack(load.slots) else number(figures["tokens_per_s"].value),
                number(figures["prompt_us"].value / 1e3),
                number(figures["prompt_tokens_per_s"].value),
            ]
        )

    obstacles = [
        f"{name}: {problem}."
        for name, split in splits.items()
        if (problem := split.obstacle or split.lack(load.slots))
    ]
    closing = [*obstacles, *rest]
    if load.gpus > 1:
        closing += ["", BEFORE_TRUSTING_IT]
    said = lay_out(
        [f"{model.name} on {load.gpus} x {load.gpu.name}. {headline}"],
        [*_question(load), *served],
        [("", plain_table(headings, rows))] if rows else [],
        closing,
    )
    size = model.all_reduce_bytes(load.batch)
    all_reduce = {
        "source": load.times.source,
        "is_assumed": not arguments.run,
        "size_bytes": size,
        "us": load.times(size) if load.gpus > 1 else None,
        "calls": model.all_reduces,
        "engine_calls": engine_calls(model),
        "hosts": load.times.hosts,
        "notes": load.times.notes,
    }
    records = [
        {"name": name, "obstacle": split.obstacle, "lack": split.lack(load.slots)}
        | ({} if split.obstacle else split.figures)
        for name, split in splits.items()
    ]
    answer(
        arguments,
        said,
        model=model.name,
        weights_bytes=load.weights_bytes,
        gpu=load.gpu.name,
        gpus=load.gpus,
        context=load.context,
        batch=load.batch,
        slots=load.slots,
        all_reduce=all_reduce,
        splits=records,
        measured=served,
        recommendation=advice,
    )
    return 0


def _question(load: Deployment) -> list[str]:
    """The load with all defaults, the origin of its times, and the all-reduces of a step."""
    gpu, model, n = load.gpu, load.model, load.gpus
    mixture = f", {model.top_k} of {model.experts} experts" if model.experts > 1 else ""
    window = ""
    if model.window_bytes_per_token:
        window = f", up to {model.sliding_window} also {model.window_bytes_per_token:,} B"
    assumed = f"; ASSUMED: {' and '.join(model.assumed)}, {model.source}" if model.assumed else ""
    lines = [
        f"model: {number(model.parameters / GB)}e9 weights, {load.weights}: "
        f"{number(load.weights_bytes / GB)} GB; {model.layers} layers, {model.kv_heads} KV heads "
        f"of {model.head}{mixture}; "
        f"{model.kv_bytes_per_token:,} B of cache a token{window} (fp16){assumed}",
        f"GPU: {number(gpu.memory_gb)} GB (90 % may be used), {number(gpu.bandwidth_gb_s)} GB/s, "
        f"{number(load.tflops)} TFLOP/s ({gpu.source}): peaks, so all times are lower bounds; "
        f"{serving.REACHED}",
        f"load: {counted(load.batch, 'stream')} for latency, {load.slots} for "
        f"throughput, each with {load.context} tokens cached; prompts of {load.prompt}",
    ]

    if n == 1:
        return lines

    size, calls = model.all_reduce_bytes(load.batch), model.all_reduces
    each_us, origin = load.times.look_up(size)
    return [
        *lines,
        f"all-reduce: {load.times.source}",
        *load.times.notes,
        f"A step at TP {n} has {calls} all-reduces (2 a layer) of {size:,} B: "
        f"{calls} x {each_us.text(' us')}{origin} = {number(calls * each_us.value / 1e3)} ms. "
        f"{engine_text(model)}.",
    ]


def _share_of_token(load: Deployment, tpot_ms: float) -> str:
    """What all-reduces, as an engine makes them, are of a measured token, and a microsecond of
    each."""
    calls = engine_calls(load.model)
    each_us = load.times(load.model.all_reduce_bytes(load.batch))
    all_ms, one_ms = calls * each_us / 1e3, calls / 1e3
    text = (
        f"measured: {number(tpot_ms)} ms a token, of which {calls} x {each_us.text(' us')} "
        f"= {all_ms.text(' ms')} are {(100 * all_ms / tpot_ms).text(' %')}; a "
        f"microsecond less a call is {number(one_ms)} ms, {number(100 * one_ms / tpot_ms)} %, if "
        "no call overlaps with compute. Waiting for a late rank comes on top, whatever the link."
    )
    if all_ms.low > tpot_ms:
        text += " They do not fit into the token: these are not its all-reduces."
    return text


def _recommendation(load: Deployment, possible: dict[str, Deployment]) -> list[str]:
    """The best of the splits that fit for each goal, and the all-reduce time at which TP and the
    best other split decode equally fast."""
    if not possible:
        return ["Nothing fits: take more GPUs, a larger card, fewer bits, streams or tokens."]

    goals = {
        f"Decode, latency of {counted(load.batch, 'stream')}": "step_us",
        f"Decode, throughput of {counted(load.slots, 'stream')}": "tokens_per_s",
        f"Prefill, latency of one prompt of {load.prompt}": "prompt_us",
        "Prefill, throughput of many": "prompt_tokens_per_s",
    }
    many = {name: split for name, split in possible.items() if not split.lack(load.slots)}
    sentences = [
        f"{goal}: {_best(many if figure == 'tokens_per_s' else possible, figure)}"
        for goal, figure in goals.items()
    ]
    tensor, size = f"TP {load.gpus}", load.model.all_reduce_bytes(load.batch)
    others = [name for name in possible if name != tensor]
    if tensor not in possible or not others:
        return sentences

    other = min(others, key=lambda name: possible[name].figures["step_us"].value)
    even_us = serving.break_even_us(possible[tensor], possible[other])
    if even_us <= 0:
        sentence = f"No all-reduce is fast enough for {tensor} to win the latency of decode."
    else:
        sentence = (
            f"In the latency of decode {tensor} and {other} break even if an all-reduce of "
            f"{size_text(size)} takes {number(even_us)} us; here it takes "
            f"{load.times(size).text(' us')}."
        )

    return [*sentences, sentence]


def _best(splits: dict[str, Deployment], figure: str) -> str:
    """The best split, those that do not clearly differ from it, and its gain over the next one."""
    if not splits:
        return "nothing fits."
    speeds = {name: split.figures[figure] for name, split in splits.items()}
    is_rate = figure.endswith("per_s")
    if not is_rate:
        speeds = {name: 1 / us for name, us in speeds.items()}
    ordered = sorted(speeds, key=lambda name: -speeds[name].value)
    fastest = speeds[ordered[0]]
    close = [
        name for name in ordered if _gain(fastest, speeds[name]).low < serving.LEAST_RANKED_RATIO
    ]
    # Replicas come first, since they need no link.
    replicas = [name for name in close if splits[name].replicas > 1]
    first = replicas[0] if replicas else ordered[0]
    if is_rate:
        bound = f"at most {number(speeds[first].value)} tokens/s"
    else:
        bound = f"at least {number(1e-3 / speeds[first].value)} ms"
    answer = f"{first}, {bound}"
    equals = " and ".join(name for name in close if name != first)
    if equals:
        answer += f" (no clear difference from {equals}: perhaps less than 10 %)"
    after = next((name for name in ordered if name not in close), None)

    if after is not None:
        answer += f", {_gain(speeds[first], speeds[after]).text('x')} {after}"

    return f"{answer}."


def _gain(fast: Span, slow: Span) -> Span:
    """How many times as fast the first is. Both have the same all-reduces: where those are at one
    end, they are for both, so that the ratio has no end of one beside the other end of the other.
    """
    value = fast.value / slow.value
    at_ends = fast.low / slow.low, fast.high / slow.high
    return Span(value, min(value, *at_ends), max(value, *at_ends))
