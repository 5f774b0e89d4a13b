"""`predict`: what a second card of a kind would do, from runs of one. Every figure is PREDICTED."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reports.advice.reduce_times import ENDS_SWAPPED, ReduceTimes, Span, span_text
from reports.advice.serving import Deployment, break_even_us, rate
from reports.advice.specs import GB, MODELS, ROUTES, engine_text, find, gpu_of, sheet_of
from reports.advice.wire import (
    CHECKED,
    FORMULA_OVER_MEASURED,
    SIZES,
    Parts,
    Tested,
    checks_of,
    error_of,
    parts_of,
    runs_of_one_card,
)
from reports.store.program import BENCH, answer
from reports.store.result import ResultError
from reports.store.untrusted import printable
from reports.tables.sentences import counted, lay_out, number, plain_table, size_text

LARGE = 32 << 20
HOST = "host_memory"
TITLES = {name: route.title for name, route in ROUTES.items()} | {HOST: "host memory"}


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
    """Two cards joined in one way: the fastest algorithm with a checked formula and the time by
    size, all all-reduces of a token, and, without an `obstacle`, the rates of one chat by each
    split, and the all-reduce time at which these are equal."""

    fastest: Mapping[int, tuple[str, Span]]
    token_ms: Span
    obstacle: str | None
    tensor_tokens_per_s: Any = None
    pipeline_tokens_per_s: Any = None
    break_even_us: Any = None


def predictions(parts: Parts, load: Deployment, error: Span) -> dict[str, Prediction]:
    """The prediction for each way to join two cards that the parts tell of, by formulas with this
    error."""
    model, made = load.model, dict[str, Prediction]()
    token_bytes = model.all_reduce_bytes(1)
    sizes = sorted({*SIZES, token_bytes})
    ways = list(TITLES)
    if not load.gpu.peer_access:  # the driver joins its slots by host memory alone: it comes first
        ways.sort(key=lambda way: way != HOST)
    for way in ways:
        if way == HOST and parts.is_shared_in_turns:
            continue
        fastest = dict[int, tuple[str, Span]]()
        for size in sizes:
            name, span = parts.fastest(CHECKED, ROUTES.get(way), load.gpu, size)
            fastest[size] = name, span * error
        spans = {size: span for size, (_, span) in fastest.items()}
        times = ReduceTimes(2, "PREDICTED", spans)
        tensor = replace(load, times=times, tensor=2)
        pipeline = replace(tensor, tensor=1, stages=2)
        token_ms = model.all_reduces * spans[token_bytes] / 1e3
        obstacle, figures = tensor.obstacle or pipeline.obstacle, []
        if not obstacle:
            rates = [rate(1, split.decode_us(1)) for split in (tensor, pipeline)]
            figures = [*rates, break_even_us(tensor, pipeline)]
        made[way] = Prediction(fastest, token_ms, obstacle, *figures)

    return made


def load_of(arguments: argparse.Namespace, parts: Parts) -> Deployment:
    """One chat on one card of this kind. Raises ResultError for unknown names."""
    gpu = gpu_of(arguments.gpu) if arguments.gpu else sheet_of(parts.card)
    if gpu is None:
        raise ResultError(f"no data sheet fits {printable(parts.card)!r}: name one with --gpu")

    model, times = find("model", MODELS, arguments.model), ReduceTimes(2, "PREDICTED")
    return Deployment(model, gpu, printable(arguments.weights), times, context=4096)


def predict(arguments: argparse.Namespace) -> int:
    """Prints the prediction and returns 0. Raises ResultError for runs that are not one card's, or
    lack a part."""
    results, notes = runs_of_one_card(arguments.runs)
    parts = parts_of(results, notes)
    load, checks = load_of(arguments, parts), checks_of(parts, results)
    if parts.is_shared_in_turns:
        notes.append(
            "Host memory is left out: a flag waited for the scheduler. MPS lets ranks run at once."
        )
        checks = []

    made, model = predictions(parts, load, error_of(checks)), load.model
    ways = [
        {
            "way": way,
            "all_reduces": [
                {"size_bytes": size, "algorithm": name, "us": span}
                for size, (name, span) in each.fastest.items()
            ],
            **{name: value for name, value in vars(each).items() if name != "fastest"},
        }
        for way, each in made.items()
    ]
    answer(
        arguments,
        text_of(parts, load, made, checks, notes),
        card=parts.card,
        gpu=load.gpu.name,
        model=model.name,
        weights_bytes=load.weights_bytes,
        parts=vars(parts),
        predicted=ways,
        checks=[check._asdict() for check in checks],
        notes=notes,
    )
    return 0


def text_of(
    parts: Parts,
    load: Deployment,
    made: Mapping[str, Prediction],
    checks: Sequence[Tested],
    notes: Sequence[str],
) -> str:
    """The prediction for the first way in a sentence, and all ways in tables."""
    (first, best), *_ = made.items()
    model, title = load.model, f"{'over' if first == HOST else 'at'} {TITLES[first]}"
    size = model.all_reduce_bytes(1)
    card = printable(parts.card)
    origin = "" if sheet_of(parts.card) == load.gpu else f", from parts of {card}"
    headline = (
        f"PREDICTED for two {load.gpu.name} {title}{origin}: an all-reduce of "
        f"{size_text(size)} takes {span_text(best.fastest[size][1], ' us')}"
    )
    if not best.obstacle:
        headline += (
            f"; {model.name} decodes at most {span_text(best.tensor_tokens_per_s)} tokens/s of one "
            f"chat by tensor, {span_text(best.pipeline_tokens_per_s)} by pipeline"
        )

    measured = {
        "a load's round trip": (parts.load, "us"),
        "a flag one way, host memory": (parts.flag, "us"),
        "drain of stores before a flag": (parts.drain, "us"),
        "a kernel in a graph": (parts.kernel, "us"),
        "stores": (1e-3 / parts.store_byte[ENDS_SWAPPED], "GB/s"),
        "loads": (1e-3 / parts.load_byte[ENDS_SWAPPED], "GB/s"),
        "both at once, each": (1e-3 / parts.both_byte[ENDS_SWAPPED], "GB/s"),
    }
    rows = [[name, span_text(span), unit] for name, (span, unit) in measured.items()]
    tables = [("Parts of the wire, measured on the one card", plain_table(["", "", ""], rows))]

    # The all-reduce of a token, a large one, and all of a token.
    headings = ["", size_text(size), size_text(LARGE), f"{model.all_reduces} a token, ms"]
    rows = []
    for way, each in made.items():
        spans = each.fastest[size][1], each.fastest[LARGE][1], each.token_ms
        rows.append([TITLES[way], *map(span_text, spans)])
    tables.append(("An all-reduce of two cards, us, PREDICTED", plain_table(headings, rows)))

    if not best.obstacle:
        headings = ["", "tokens/s\nby tensor", "tokens/s\nby pipeline", "equal at\nus a call"]
        rows = []
        for way, each in made.items():
            rates = map(span_text, (each.tensor_tokens_per_s, each.pipeline_tokens_per_s))
            rows.append([TITLES[way], *rates, number(each.break_even_us)])
        table = plain_table(headings, rows)
        tables.append((f"One chat of {model.name}, at most, PREDICTED", table))

    if checks:
        rows = [
            [
                each.algorithm,
                size_text(each.size_bytes),
                number(each.measured_us),
                number(each.model_us),
                f"{100 * (each.model_us / each.measured_us - 1):+.0f} %",
            ]
            for each in checks
        ]
        table = plain_table(["algorithm", "size", "measured", "formulas", "error"], rows)
        tables.append(("The formulas on the one card: from a graph, us a call", table))

    question = [
        f"one card: {card}, {counted(parts.launches, 'launch')} of {BENCH}link",
        f"model: {load.weights}, {number(load.weights_bytes / GB)} GB; "
        f"{model.all_reduces} all-reduces a token, {engine_text(model)}; "
        f"data sheet: {load.gpu.source}",
        "brackets: best to worst, by the intervals of the parts, by published figures, and by the "
        f"formulas' own error, {FORMULA_OVER_MEASURED[0] - 1:+.0%} to "
        f"{FORMULA_OVER_MEASURED[1] - 1:+.0%} or as below",
    ]
    closing = [f"{model.name} on two: {best.obstacle}."] if best.obstacle else []
    closing += [
        *notes,
        "None of this was measured between two cards: docs/advise.md has the formulas.",
    ]
    if load.gpu.peer:
        closing.append(f"Joined by {load.gpu.peer} they need no PCIe, and this does not apply.")
    closing.append(f"With two cards here, {BENCH}survey measures what stands here as PREDICTED.")
    return lay_out([f"{headline}."], question, tables, closing)
