"""`predict`: what a second card of a kind would do, from runs of one. Every figure is PREDICTED."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from reports.advice.reduce_times import ReduceTimes, Span, span_text
from reports.advice.serving import Deployment, break_even_us, rate
from reports.advice.specs import (
    GB,
    GPUS,
    MODELS,
    ROUTES,
    Gpu,
    find,
    link_between,
    sheet_of,
    weights_of,
)
from reports.advice.wire import ALGORITHMS, Check, Parts, checks_of, parts_of, runs_of_one_card
from reports.store.program import BENCH
from reports.store.report_json import write_json
from reports.store.result import ResultError
from reports.store.untrusted import printable
from reports.tables.sentences import counted, lay_out, number, plain_table, size_text

LARGE = 32 << 20
SIZES = [1 << power for power in range(10, 28)]
SHOWN = [16 << 10, 64 << 10, 256 << 10, 1 << 20, LARGE]
HOST = "host_memory"
TITLES = {name: route.title for name, route in ROUTES.items()} | {HOST: "host memory"}
NEXT = f"With two cards here, {BENCH}survey measures what stands here as PREDICTED."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", metavar="RUN", type=Path, nargs="+", help="run, folder or quoted glob, of one GPU")
    add("--model", metavar="NAME", default="llama-3.1-70b", help="as in advise; %(default)s")
    add("--weights", metavar="TYPE", default="q4", help="as in advise; %(default)s")
    add(
        "--gpu",
        metavar="NAME",
        help="the data sheet, such as r9700, if the card's name does not tell",
    )


@dataclass(frozen=True)
class Prediction:
    """Two cards joined in one way: the fastest algorithm and the time by size, and the splits of a
    model over them, by tensor and by pipeline."""

    fastest: Mapping[int, tuple[str, Span]]
    tensor: Deployment
    pipeline: Deployment

    @property
    def obstacle(self) -> str | None:
        return self.tensor.obstacle or self.pipeline.obstacle


def algorithm_spans(parts: Parts, gpu: Gpu, way: str, size_bytes: int) -> dict[str, Span]:
    """The time of each algorithm that takes this size between two cards joined in this way."""
    spans = {
        name: parts.through_host(name, size_bytes)
        if way == HOST
        else parts.between_cards(ROUTES[way], gpu, name, size_bytes)
        for name in ALGORITHMS
    }
    return {name: span for name, span in spans.items() if span is not None}


def fastest_of(spans: Mapping[str, Span]) -> tuple[str, Span]:
    """The algorithm with the least typical time, and the least of all times in each column: where
    a route is at its worst, bench.tune takes another one."""
    name = min(spans, key=lambda name: spans[name][0])
    return name, np.min(list(spans.values()), axis=0)


def predictions(parts: Parts, load: Deployment) -> dict[str, Prediction]:
    """The prediction for each way to join two cards that the parts tell of."""
    made, sizes = dict[str, Prediction](), sorted({*SIZES, load.model.all_reduce_bytes(1)})
    for way in TITLES:
        if way == HOST and parts.is_shared_in_turns:
            continue
        fastest = {size: fastest_of(algorithm_spans(parts, load.gpu, way, size)) for size in sizes}
        spans = {size: span for size, (_, span) in fastest.items()}
        times = ReduceTimes(2, "PREDICTED", load.times.link, spans)
        tensor = replace(load, times=times, tensor=2)
        made[way] = Prediction(fastest, tensor, replace(tensor, tensor=1, stages=2))

    return made


def load_of(arguments: argparse.Namespace, parts: Parts) -> Deployment:
    """One chat on one card of this kind. Raises ResultError for unknown names."""
    gpu = sheet_of(parts.card)
    if arguments.gpu:
        gpu = find("GPU", GPUS, arguments.gpu)
    if gpu is None:
        raise ResultError(f"no data sheet fits {printable(parts.card)!r}: name one with --gpu")

    model, weights = find("model", MODELS, arguments.model), arguments.weights
    times = ReduceTimes(2, "PREDICTED", link_between(gpu, 2))
    return Deployment(
        model, gpu, printable(weights), weights_of(model, weights), times, context=4096
    )


def predict(arguments: argparse.Namespace) -> int:
    """Prints the prediction and returns 0. Raises ResultError for runs that are not one card's, or
    lack a part."""
    results, notes = runs_of_one_card(map(str, arguments.runs))
    parts = parts_of(results, notes)
    load, checks = load_of(arguments, parts), checks_of(parts, results)
    if parts.is_shared_in_turns:
        notes.append(
            "Host memory is left out: a flag waited for the scheduler. MPS lets ranks run at once."
        )
        checks = []
    made = predictions(parts, load)
    if arguments.json:
        _write_json(load, parts, made, checks, notes)
        return 0

    tables = [
        ("Parts of the wire, measured on the one card", _parts_table(parts)),
        ("An all-reduce of two cards, us, PREDICTED", _times_table(load, made)),
    ]
    if not made["root_complex"].obstacle:
        tables.append((f"One chat of {load.model.name}, PREDICTED", _chat_table(made)))

    title = f"The typical time of each algorithm at {TITLES['root_complex']}, us, PREDICTED"
    tables.append((title, _algorithms_table(parts, load.gpu)))
    if checks:
        tables.append(("The formulas on the one card: from a graph, us a call", _checks(checks)))

    obstacle = made["root_complex"].obstacle
    question = [
        f"one card: {printable(parts.card)}, {counted(parts.launches, 'launch')} of {BENCH}link",
        f"model: {load.weights}, {number(load.weights_bytes / GB)} GB; "
        f"{load.model.all_reduces} all-reduces a token; data sheet: {load.gpu.source}",
        "brackets: best to worst, by the intervals of the parts and by published figures",
    ]
    closing = [f"{load.model.name} on two: {obstacle}."] if obstacle else []
    closing += [*notes, _fastest(load, made), *_doubts(load), NEXT]
    sys.stdout.write(lay_out([_headline(load, made)], question, tables, closing))
    return 0


def _headline(load: Deployment, made: Mapping[str, Prediction]) -> str:
    best = made["root_complex"]
    size = load.model.all_reduce_bytes(1)
    sentence = (
        f"PREDICTED for two {load.gpu.name} at {TITLES['root_complex']}: an all-reduce of "
        f"{size_text(size)} takes {span_text(best.tensor.times(size), ' us')}"
    )
    if best.obstacle:
        return f"{sentence}."

    tensor, pipeline = (rate(1, split.decode_us(1)) for split in (best.tensor, best.pipeline))
    return (
        f"{sentence}; {load.model.name} decodes {span_text(tensor)} tokens/s of one chat by "
        f"tensor, {span_text(pipeline)} by pipeline."
    )


def _parts_table(parts: Parts) -> Table:
    """Each part with its range over ranks and launches."""
    spans = {
        "a load's round trip": (parts.load, "us"),
        "a flag one way, host memory": (parts.flag, "us"),
        "drain of stores before a flag": (parts.drain, "us"),
        "a kernel in a graph": (parts.kernel, "us"),
        "stores": (1e-3 / parts.store_byte[[0, 2, 1]], "GB/s"),
        "loads": (1e-3 / parts.load_byte[[0, 2, 1]], "GB/s"),
        "both at once, each": (1e-3 / parts.both_byte[[0, 2, 1]], "GB/s"),
    }
    rows = [[name, span_text(span), unit] for name, (span, unit) in spans.items()]
    return plain_table(["", "", ""], rows)


def _times_table(load: Deployment, made: Mapping[str, Prediction]) -> Table:
    """The all-reduce of a token, a large one, and all of a token."""
    size, calls = load.model.all_reduce_bytes(1), load.model.all_reduces
    headings = ["", size_text(size), size_text(LARGE), f"{calls} a token, ms"]
    rows = []
    for way, prediction in made.items():
        times = prediction.tensor.times
        cells = times(size), times(LARGE), calls * times(size) / 1e3
        rows.append([TITLES[way], *map(span_text, cells)])

    return plain_table(headings, rows)


def _chat_table(made: Mapping[str, Prediction]) -> Table:
    """Tokens a second, and where tensor and pipeline are equally fast."""
    headings = ["", "tokens/s\nby tensor", "tokens/s\nby pipeline", "equal at\nus a call"]
    rows = [
        [
            TITLES[way],
            *(span_text(rate(1, split.decode_us(1))) for split in (each.tensor, each.pipeline)),
            number(break_even_us(each.tensor, each.pipeline)),
        ]
        for way, each in made.items()
    ]
    return plain_table(headings, rows)


def _algorithms_table(parts: Parts, gpu: Gpu) -> Table:
    rows = []
    for name in ALGORITHMS:
        spans = [algorithm_spans(parts, gpu, "root_complex", size).get(name) for size in SHOWN]
        rows.append([name, *("-" if span is None else number(span[0]) for span in spans)])

    return plain_table(["algorithm", *map(size_text, SHOWN)], rows)


def _checks(checks: list[Check]) -> Table:
    """Measured all-reduces beside the model's, each with its error."""
    rows = [
        [
            check.algorithm,
            size_text(check.size_bytes),
            number(check.measured_us),
            number(check.model_us),
            f"{100 * (check.model_us / check.measured_us - 1):+.0f} %",
        ]
        for check in checks
    ]
    return plain_table(["algorithm", "size", "measured", "formulas", "error"], rows)


def _fastest(load: Deployment, made: Mapping[str, Prediction]) -> str:
    """Which algorithms the times stand for; `auto` takes packets only from a table."""
    texts = []
    for size in (load.model.all_reduce_bytes(1), LARGE):
        ways = dict[str, list[str]]()
        for way, each in made.items():
            ways.setdefault(each.fastest[size][0], []).append(TITLES[way])
        by = (f"{name} ({', '.join(titles)})" for name, titles in ways.items())
        texts.append(f"{size_text(size)} by {', '.join(by)}")

    return f"What {BENCH}tune could find: {'; '.join(texts)}."


def _doubts(load: Deployment) -> list[str]:
    """What the prediction leaves out."""
    sentences = ["None of this was measured between two cards: docs/advise.md has the formulas."]
    if load.gpu.peer:
        sentences.append(f"Joined by {load.gpu.peer} they need no PCIe, and this does not apply.")
    return sentences


def _write_json(
    load: Deployment,
    parts: Parts,
    made: Mapping[str, Prediction],
    checks: list[Check],
    notes: list[str],
) -> None:
    """For `--json`; a span is [value, low, high]."""
    size = load.model.all_reduce_bytes(1)
    ways = [
        {
            "way": way,
            "all_reduces": [
                {"size_bytes": size, "algorithm": name, "us": span}
                for size, (name, span) in each.fastest.items()
            ],
            "token_ms": load.model.all_reduces * each.tensor.times(size) / 1e3,
            "obstacle": each.obstacle,
            "tensor_tokens_per_s": None if each.obstacle else rate(1, each.tensor.decode_us(1)),
            "pipeline_tokens_per_s": None if each.obstacle else rate(1, each.pipeline.decode_us(1)),
            "break_even_us": None if each.obstacle else break_even_us(each.tensor, each.pipeline),
        }
        for way, each in made.items()
    ]
    write_json(
        "predict",
        card=parts.card,
        gpu=load.gpu.name,
        model=load.model.name,
        weights_bytes=load.weights_bytes,
        parts=vars(parts),
        predicted=ways,
        checks=[check._asdict() for check in checks],
        notes=notes,
    )
