"""`predict`: what a second card of a kind would do, from runs of one. Every figure is PREDICTED."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reports.advice.reduce_times import ReduceTimes
from reports.advice.serving import Deployment, break_even_us
from reports.advice.spans import Span
from reports.advice.specs import GB, GPUS, ROUTES, Gpu, engine_text, gpu_of, model_by_name, sheet_of
from reports.advice.wire import (
    FORMULA_OVER_MEASURED,
    SIZES,
    Parts,
    Tested,
    checks_of,
    error_of,
    parts_of,
    runs_of_one_card,
)
from reports.tables.sentences import counted, lay_out, number, plain_table, size_text
from wiretax.common.program import BENCH, answer
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError

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
        help="the runs' own card, such as r9700, if the name in them matches no data sheet",
    )


@dataclass(frozen=True)
class Prediction:
    """Two cards joined in one `way`: of each size the algorithm with the least time that has a
    checked formula, and this time; all all-reduces of a token; and, without an `obstacle`, the
    rates of one chat by each split, and the all-reduce time at which these are equal."""

    way: str
    all_reduces: list[dict[str, Any]]
    token_ms: Span
    obstacle: str | None
    tensor_tokens_per_s: Span | None = None
    pipeline_tokens_per_s: Span | None = None
    break_even_us: float | None = None

    @property
    def spans(self) -> dict[int, Span]:
        """The times by size."""
        return {each["size_bytes"]: each["us"] for each in self.all_reduces}


def predictions(parts: Parts, load: Deployment, error: Span) -> list[Prediction]:
    """The prediction for each way to join two cards that the parts tell of, by formulas with this
    error."""
    model, made = load.model, list[Prediction]()
    token_bytes = model.all_reduce_bytes(1)
    is_host_first = not load.gpu.peer_access  # the driver joins its slots by host memory alone
    for way in sorted(TITLES, key=lambda way: is_host_first and way != HOST):
        if way == HOST and parts.is_shared_in_turns:
            continue
        all_reduces, spans = list[dict[str, Any]](), dict[int, Span]()
        for size in sorted({*SIZES, token_bytes}):
            name, us = parts.fastest(ROUTES.get(way), load.gpu, size)
            spans[size] = us * error
            all_reduces.append({"size_bytes": size, "algorithm": name, "us": spans[size]})
        tensor = replace(load, times=ReduceTimes(2, "PREDICTED", spans), tensor=2)
        pipeline = replace(tensor, tensor=1, stages=2)
        token_ms = model.all_reduces * spans[token_bytes] / 1e3
        prediction = Prediction(
            way, all_reduces, token_ms, obstacle=tensor.obstacle or pipeline.obstacle
        )
        if not prediction.obstacle:
            prediction = replace(
                prediction,
                tensor_tokens_per_s=tensor.figures["tokens_per_s"],
                pipeline_tokens_per_s=pipeline.figures["tokens_per_s"],
                break_even_us=break_even_us(tensor, pipeline),
            )
        made.append(prediction)

    return made


def predict(arguments: argparse.Namespace) -> int:
    """Prints the prediction and returns 0. Raises ResultError for runs that are not one card's, or
    lack a part, and for unknown names."""
    results, notes = runs_of_one_card(arguments.runs)
    parts = parts_of(results, notes)
    gpu = sheet_for(parts.card, arguments.gpu)
    model, times = model_by_name(arguments.model), ReduceTimes(2, "PREDICTED")
    load = Deployment(model, gpu, printable(arguments.weights), times, context=4096)
    checks = checks_of(parts, results)
    if parts.is_shared_in_turns:
        notes.append(
            "Host memory is left out: a flag waited for the scheduler. MPS lets ranks run at once."
        )
        checks = []

    made = predictions(parts, load, error_of(checks))
    answer(
        arguments,
        text_of(parts, load, made, checks, notes),
        card=parts.card,
        gpu=gpu.name,
        model=model.name,
        weights_bytes=load.weights_bytes,
        parts=parts,
        predicted=made,
        checks=checks,
        notes=notes,
    )
    return 0


def sheet_for(card: str, name: str | None) -> Gpu:
    """The data sheet of the runs' card, which tells it by its name, or which the user names. The
    parts of a wire are its card's, so another known card is refused, but not figures that the user
    gives of this one. Raises ResultError for that, for an unknown name, and for none."""
    own = sheet_of(card)
    if name is None:
        if own is None:
            raise ResultError(f"no data sheet fits {printable(card)!r}: name its own with --gpu")
        return own

    named = gpu_of(name)
    if own not in (None, named) and named in GPUS.values():
        raise ResultError(
            f"--gpu {printable(name)}: the runs are of {printable(card)}, and the wire of another "
            f"card has other parts: leave out --gpu, or take advise --gpu {named.name} --wire"
        )
    return named


def text_of(
    parts: Parts,
    load: Deployment,
    made: Sequence[Prediction],
    checks: Sequence[Tested],
    notes: Sequence[str],
) -> str:
    """The prediction for the first way in a sentence, and all ways in tables."""
    model, best = load.model, made[0]
    title = f"{'over' if best.way == HOST else 'at'} {TITLES[best.way]}"
    size = model.all_reduce_bytes(1)
    card = printable(parts.card)
    origin = "" if sheet_of(parts.card) == load.gpu else f", from parts of {card}"
    headline = (
        f"PREDICTED for two {load.gpu.name} {title}{origin}: an all-reduce of "
        f"{size_text(size)} takes {best.spans[size].text(' us')}"
    )
    if best.tensor_tokens_per_s and best.pipeline_tokens_per_s:
        headline += (
            f"; {model.name} decodes at most {best.tensor_tokens_per_s.text()} tokens/s of one "
            f"chat by tensor, {best.pipeline_tokens_per_s.text()} by pipeline"
        )

    measured = {
        "a load's round trip": parts.load,
        "a flag one way, host memory": parts.flag,
        "drain of stores before a flag": parts.drain,
        "a kernel in a graph": parts.kernel,
    }
    moved = {
        "stores": parts.store_byte,
        "loads": parts.load_byte,
        "both at once, each": parts.both_byte,
    }
    rows = [[name, us.text(), "us"] for name, us in measured.items()]
    rows += [[name, (1e-3 / us_a_byte).text(), "GB/s"] for name, us_a_byte in moved.items()]
    tables = [("Parts of the wire, measured on the one card", plain_table(["", "", ""], rows))]

    # The all-reduce of a token, a large one, and all of a token; then one chat.
    call, large = f"{size_text(size)}\nus", f"{size_text(LARGE)}\nus"
    headings = ["", call, large, f"{model.all_reduces} a token\nms"]
    rows = []
    for each in made:
        spans = [each.spans[size], each.spans[LARGE], each.token_ms]
        row = [TITLES[each.way], *(span.text() for span in spans)]
        if each.tensor_tokens_per_s and each.pipeline_tokens_per_s:
            row += [each.tensor_tokens_per_s.text(), each.pipeline_tokens_per_s.text()]
            row.append(number(each.break_even_us))
        rows.append(row)
    if not best.obstacle:
        headings += ["tokens/s\nby tensor", "tokens/s\nby pipeline", "equal at\nus a call"]
    title = "An all-reduce of two cards, and the rates of a chat at most, PREDICTED"
    tables.append((title, plain_table(headings, rows)))

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
    closing.append(f"With two cards here, {BENCH}survey measures what is PREDICTED here.")
    return lay_out([f"{headline}."], question, tables, closing)
