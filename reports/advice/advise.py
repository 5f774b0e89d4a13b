"""`advise`: how to split a model over GPUs, and the all-reduce time at which the answer changes."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from reports.advice import by_gpus, likely, serving, which_gpus
from reports.advice.group_times import assumed_groups, lacks_runs, measured_groups, wire_groups
from reports.advice.likely_winner import Likely, answers, conditions_of
from reports.advice.offload import HOST_GB_S, offload_text, offloaded
from reports.advice.reduce_times import ReduceTimes, undistinguished
from reports.advice.serving import Deployment
from reports.advice.specs import (
    ENGINES,
    GB,
    LINKS,
    CardLink,
    Gpu,
    engine_calls,
    engine_text,
    find,
    gpu_of,
    link_between,
    link_by_name,
    model_by_name,
    model_of,
    with_peer_access,
)
from reports.advice.split_experts import BALANCED
from reports.advice.split_table import (
    BEFORE_TRUSTING_IT,
    Advice,
    exchange_text,
    fields_of,
    groups_text,
    left_out_of,
    obstacles_of,
    tables_of,
)
from reports.advice.wire import Wire
from reports.tables.sentences import counted, lay_out, number, size_text
from wiretax.common.arguments import positive_number, whole_number
from wiretax.common.program import BENCH, answer
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError

MOST_GPUS = 64
CONTEXT = 4096  # cached tokens of a stream
CACHED = f"({CONTEXT}; a longer prompt's)"
MOST_PROPOSED = 64  # tokens of a drafter


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
        "--doctor",
        metavar="FILE",
        type=Path,
        help=f"which GPUs to split over, by the JSON of {BENCH}doctor --json",
    )
    add(
        "--peer-access",
        choices=("on", "off"),
        help="whether the driver joins the cards without host memory (as the data sheet says); a "
        "GeForce card's does once patched",
    )
    add(
        "--engine",
        metavar="NAME",
        default="vllm",
        help=f"for the likely figures: {', '.join(ENGINES)} (%(default)s); most replay decode from "
        "a graph, eager launches it kernel by kernel",
    )
    add(
        "--wire",
        metavar="US,US,GB/s[,CARDS]",
        type=wire,
        help="without a run, PREDICT from the time of a kernel of a graph, of a handshake (until a "
        "peer has seen a flag), and the narrowest link, which so many cards share (1)",
    )

    add(
        "--gpus",
        metavar="N[,N...]",
        type=gpu_numbers,
        default="2",
        help="number of GPUs (%(default)s), or several in one table, such as 1,2,4,8",
    )
    for name, unit, least, most, default, text in (
        ("--nodes", "N", 1, MOST_GPUS, 1, "nodes of as many GPUs each"),
        ("--context", "TOKENS", 0, 10**8, None, f"cached tokens of each stream {CACHED}"),
        ("--prompt", "TOKENS", 1, 10**7, 2048, "length of a prompt"),
        ("--batch", "N", 1, 10**5, 1, "streams for latency"),
        ("--slots", "N", 1, 10**5, 8, "streams for throughput"),
        ("--draft", "K", 0, MOST_PROPOSED, 0, "tokens that a drafter proposes a step"),
    ):
        add(
            name,
            metavar=unit,
            type=partial(whole_number, least, most=most),
            default=default,
            help=text if default is None else f"{text} (%(default)s)",
        )
    add(
        "--skew",
        metavar="SKEW",
        type=skew,
        default=BALANCED,
        help="how unevenly a router chooses experts: uniform, or zipf:S (%(default)s)",
    )
    for name, unit, most, given, text in (
        ("--tpot-ms", "ms", 10**6, None, "with --run: the all-reduces' share of this time a token"),
        ("--accept", "tokens", MOST_PROPOSED + 1, None, "with --draft: a stream's tokens a step"),
        ("--host-memory", "GB/s", 10**5, HOST_GB_S, "of the host, for what does not fit"),
    ):
        add(
            name,
            metavar=unit.upper() if unit != "GB/s" else unit,
            type=partial(positive_number, unit, most),
            default=given,
            help=f"{text} (%(default)s)" if given else text,
        )


def gpu_numbers(text: str) -> list[int]:
    """`1,2,4,8`"""
    numbers = [whole_number(1, word, most=MOST_GPUS) for word in text.split(",")]
    for n in numbers:
        if numbers.count(n) > 1:
            raise argparse.ArgumentTypeError(f"{n} is given {numbers.count(n)} times")
    return numbers


def skew(text: str) -> str:
    """`zipf:1.2`"""
    if not re.fullmatch(r"uniform|zipf:[0-9]{1,2}(\.[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(
            f"{printable(text)!r} is not a skew such as uniform or zipf:1.2"
        )
    return text


def wire(text: str) -> Wire:
    """`3,2.9,12,2`"""
    try:
        return msgspec.convert(text.split(","), Wire, strict=False)
    except msgspec.ValidationError as error:
        raise argparse.ArgumentTypeError(
            f"{printable(text)!r} is not a kernel's us, a handshake's us and GB/s such as "
            f"3,2.9,12 ({error})"
        ) from error


def load_of(arguments: argparse.Namespace, gpus: int) -> Deployment:
    """The model, so many GPUs, and the times of their all-reduces. Raises ResultError for unknown
    names, unusable files, and options that do not go together."""
    nodes, peer_access = arguments.nodes, arguments.peer_access
    if gpus % nodes:
        raise ResultError(f"{counted(gpus, 'GPU')} cannot be shared evenly by {nodes} nodes")
    a_node = gpus // nodes
    if not (peer_access or arguments.run or arguments.wire):
        peer_access = which_gpus.peer_access_of(arguments.doctor, a_node)
    gpu = with_peer_access(gpu_of(arguments.gpu), peer_access)
    model = model_of(arguments.config) if arguments.config else model_by_name(arguments.model)
    link, own_link = _link_of(arguments, gpu, a_node), link_between(gpu, a_node)

    if arguments.skew != BALANCED and model.experts == 1:
        raise ResultError(f"--skew is of a router, and {model.name} has no experts")
    proposed, accepted = arguments.draft, arguments.accept
    if bool(proposed) != bool(accepted):
        raise ResultError("--draft and --accept go together: what a drafter proposes, and the gain")
    if proposed and not 1 <= accepted <= proposed + 1:
        raise ResultError(
            f"--accept {accepted:g}: a step with --draft {proposed} gives a stream from 1 to "
            f"{proposed + 1} tokens, one of which is the model's own"
        )
    if arguments.wire and (arguments.run or arguments.link is not None):
        raise ResultError("advise takes one of --run, --link and --wire")
    if arguments.wire and nodes > 1:
        raise ResultError("--wire is of one node: for --nodes name a --run over them")
    if arguments.peer_access and (arguments.run or arguments.wire):
        raise ResultError("--peer-access chooses published figures: a run or a wire has its own")
    if arguments.tpot_ms and not (arguments.run and gpus > 1):
        raise ResultError("--tpot-ms needs --run, all-reduces that were measured, and two GPUs")

    load = Deployment(
        model,
        gpu,
        printable(arguments.weights),
        ReduceTimes(gpus, "none"),
        context=max(CONTEXT, arguments.prompt) if arguments.context is None else arguments.context,
        prompt=arguments.prompt,
        batch=arguments.batch,
        slots=arguments.slots,
        tensor=gpus,
        nodes=nodes,
        skew=arguments.skew,
        proposed=proposed,
        accepted=accepted or 1,
    )
    if arguments.wire:
        groups = wire_groups(arguments.wire, gpus, load.call_bytes)
        return replace(load, times=groups.all_reduces(gpus, 1), groups=groups)
    # Of several numbers of GPUs those without a run are assumed.
    others = {*arguments.gpus} - {gpus}
    if arguments.run and not lacks_runs(arguments.run, gpus, nodes, others):
        times, groups = measured_groups(arguments.run, gpus, gpu, nodes, link)
        return replace(load, times=times, groups=groups)

    named = link if arguments.link or link != own_link else None
    groups = assumed_groups(gpus, gpu, nodes, named)
    times = groups.all_reduces(gpus, nodes)
    if arguments.link and (sentence := undistinguished(a_node, gpu, link, own_link)):
        times.notes.append(sentence)
    return replace(load, times=times, groups=groups)


def _link_of(arguments: argparse.Namespace, gpu: Gpu, gpus: int) -> CardLink:
    """What joins the GPUs of a node: the link that is named, the one that a doctor found where
    nothing was measured, or the GPU's own."""
    if arguments.link is not None:
        return link_by_name(arguments.link)
    found = None if arguments.run else which_gpus.link_of(arguments.doctor, gpus, gpu)
    return found or link_between(gpu, gpus)


def advise(arguments: argparse.Namespace) -> int:
    """Prints the advice and returns 0. Raises ResultError for unknown names and unusable files."""
    if arguments.tpot_ms and len(arguments.gpus) > 1:
        raise ResultError("--tpot-ms is of one number of GPUs")
    advices = [_advice_on(load_of(arguments, gpus), arguments) for gpus in arguments.gpus]
    load, numbers = advices[0].load, [advice.load.gpus for advice in advices]
    facts = {"model": load.model.name, "weights_bytes": load.weights_bytes, "gpu": load.gpu.name}
    if len(advices) > 1:
        answer(
            arguments,
            by_gpus.text_of(advices, _of_model(load)),
            **facts,
            gpus=numbers,
            numbers=[fields_of(advice) for advice in advices],
        )
        return 0

    (advice,) = advices
    headline, *rest = advice.sentences
    served = [_share_of_token(load, arguments.tpot_ms)] if arguments.tpot_ms else []
    closing = [*obstacles_of(advice), *rest, *left_out_of(advice), *advice.which_gpus]
    if load.gpus > 1:
        closing += ["", BEFORE_TRUSTING_IT]
    said = lay_out(
        [f"{load.model.name} on {load.gpus} x {load.gpu.name}. {headline}"],
        [*_question(load, advice.splits), *served],
        tables_of(advice),
        closing,
    )
    answer(arguments, said, **facts, **fields_of(advice), measured=served)
    return 0


def _advice_on(load: Deployment, arguments: argparse.Namespace) -> Advice:
    """All splits of a load; where none fits, those with weights in host memory; the answer."""
    splits = serving.all_splits(load)
    possible = {name: split for name, split in splits.items() if split.obstacle is None}
    link = _link_of(arguments, load.gpu, load.gpus // load.nodes)
    slot = link if link.fabric.startswith("PCIe") else LINKS[load.gpu.slot]
    beyond = {} if possible else offloaded(load, arguments.host_memory, slot.gb_s)
    engine = find("engine", ENGINES, arguments.engine)
    conditions = conditions_of(load, engine, link)
    expected = {name: Likely(split, conditions) for name, split in possible.items()}
    sentences = [*_recommendation(load, possible, expected), *map(offload_text, beyond.items())]
    if beyond:
        name = min(beyond, key=lambda name: beyond[name].figures["token_us"].value)
        tokens_per_s = number(serving.rate(1, beyond[name].figures["token_us"]).value)
        sentences[0] += (
            f" Over host memory a stream decodes at most {tokens_per_s} tokens/s: {name}."
        )
    which = which_gpus.text_of(arguments.doctor, load) if arguments.doctor else []
    return Advice(load, splits, possible, beyond, sentences, expected, which)


def _of_model(load: Deployment) -> list[str]:
    """The model, the GPU and the load with all defaults."""
    gpu, model = load.gpu, load.model
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
        f"{likely.reached_text()}",
        f"load: {counted(load.batch, 'stream')} for latency, {load.slots} for "
        f"throughput, each with {load.context} tokens cached; prompts of {load.prompt}",
    ]
    if load.proposed:
        lines.append(
            f"drafter: a step computes {load.step_tokens} tokens of a stream, which gets "
            f"{load.accepted:g} of them; what the drafter itself takes is not included"
        )
    return lines


def _question(load: Deployment, splits: Mapping[str, Deployment]) -> list[str]:
    """The load, the origin of its times, and the messages of a step."""
    model, n, lines = load.model, load.gpus, _of_model(load)
    if n == 1:
        return lines

    size, calls = load.call_bytes, model.all_reduces
    each_us, origin = load.times.look_up(size)
    lines += [
        f"all-reduce: {load.times.source}",
        *load.times.notes,
        f"A step at TP {n} has {calls} all-reduces (2 a layer) of {size:,} B: "
        f"{calls} x {each_us.text(' us')}{origin} = {number(calls * each_us.value / 1e3)} ms. "
        f"{engine_text(model)}.",
        *groups_text(load),
        *exchange_text(splits),
    ]
    return lines


def _share_of_token(load: Deployment, tpot_ms: float) -> str:
    """What all-reduces, as an engine makes them, are of a measured token, and a microsecond of
    each."""
    calls = engine_calls(load.model)
    each_us = load.times(load.call_bytes)
    all_ms, one_ms = calls / load.accepted * each_us / 1e3, calls / load.accepted / 1e3
    text = (
        f"measured: {number(tpot_ms)} ms a token, of which {calls} x {each_us.text(' us')} "
        f"= {all_ms.text(' ms')} are {(100 * all_ms / tpot_ms).text(' %')}; a "
        f"microsecond less a call is {number(one_ms)} ms, {number(100 * one_ms / tpot_ms)} %, if "
        "no call overlaps with compute. Waiting for a late rank comes on top, whatever the link."
    )
    if all_ms.low > tpot_ms:
        text += " They do not fit into the token: these are not its all-reduces."
    return text


def _recommendation(
    load: Deployment, possible: Mapping[str, Deployment], expected: Mapping[str, Likely]
) -> list[str]:
    """The likely winner for each goal, and the all-reduce time at which TP and the best other split
    decode equally fast at the data sheet."""
    if not possible:
        return ["Nothing fits: take more GPUs, a larger card, fewer bits, streams or tokens."]

    sentences = answers(load, expected)
    tensor, size = f"TP {load.gpus}", load.call_bytes
    others = [name for name, split in possible.items() if split.tensor == 1]
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
