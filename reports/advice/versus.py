"""`advise --versus`: GPUs beside others, such as one larger card, for one stream and for many."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table

from reports.advice import serving
from reports.advice.reduce_times import Span, read_times, span_text
from reports.advice.serving import Split
from reports.advice.specs import GPUS, link_between
from reports.store.foreign import printable
from reports.store.result import ResultError
from reports.tables.sentences import number, plain_table

MOST_GPUS = 64


def price(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,2})?", text) or float(text) < 1:
        raise argparse.ArgumentTypeError(f"{printable(text)!r} is no price, such as 5200")
    return float(text)


def rival_of(load: Split, text: str) -> Split:
    """The same load on the GPUs that `GPU[:N]` names. Raises ResultError for an unknown GPU."""
    name, colon, count = text.partition(":")
    if colon and not (re.fullmatch("[0-9]{1,2}", count) and 1 <= int(count) <= MOST_GPUS):
        raise ResultError(f"--versus {printable(text)}: N is from 1 to {MOST_GPUS}")
    gpu, gpus = GPUS.find(name), int(count or 1)
    times = read_times([], gpus, link_between(gpu, gpus))
    return replace(load, gpu=gpu, gpus=gpus, times=times, skew=min(load.skew, gpus))


def compare(
    load: Split,
    rival: Split,
    prices: Sequence[float] | None,
) -> tuple[tuple[str, Table], list[str], dict[str, object]]:
    """The table of both, sentences about them, and a record for `--json`. A ratio above 1 speaks
    for the GPUs of `load`; its brackets hold the worst and the best combination of intervals."""
    pair = load, rival
    names = [f"{side.gpus} x {side.gpu.name}" for side in pair]
    table = plain_table({"": 22, names[0]: 17, names[1]: 17, "ratio": 18})
    facts = {
        "GB of memory": [side.gpus * side.gpu.memory_gb for side in pair],
        "W by their data sheets": [side.gpus * side.gpu.tdp_w for side in pair],
        "price": prices or [],
    }
    for name, values in facts.items():
        if values:
            table.add_row(name, *map(number, values), f"{values[0] / values[1]:.2f}x")
    sentences = [
        "",
        f"VERSUS {names[1]}",
        *[f"Its all-reduce: {rival.times.source}."] * (rival.gpus > 1),
    ]
    goals: list[dict[str, object]] = []
    for goal, choices in _goals(pair).items():
        best = [
            max(speeds.items(), key=lambda item: item[1][0], default=None) for speeds in choices
        ]
        cells = [
            "does not fit" if item is None else f"{span_text(item[1])}\n{item[0]}" for item in best
        ]
        goals.append(
            {"goal": goal, "ratio": None}
            | {
                side: item and {"split": item[0], "tokens_per_s": item[1]}
                for side, item in zip(("ours", "theirs"), best, strict=True)
            }
        )
        if best[0] is None or best[1] is None:
            table.add_row(goal, *cells, "-")
            losers = [name for name, item in zip(names, best, strict=True) if item is None]
            sentences.append(f"{goal}: does not fit on {' and on '.join(losers)}.")
            continue
        ratio = best[0][1] / best[1][1][[0, 2, 1]]
        goals[-1]["ratio"] = ratio
        table.add_row(goal, *cells, span_text(ratio, "x"))
        sentences.append(f"{goal}: {_verdict(names, ratio)}.")
        if prices:
            ratio = ratio * prices[1] / prices[0]
            table.add_row("  for the same money", "", "", span_text(ratio, "x"))
            sentences.append(f"{goal}, for the same money: {_verdict(names, ratio)}.")
    record = {
        "gpu": rival.gpu.name,
        "gpus": rival.gpus,
        "prices": prices,
        "goals": goals,
        "all_reduce": rival.times.source if rival.gpus > 1 else None,
    }
    return (f"{names[0]} beside {names[1]}", table), sentences, record


def _goals(pair: tuple[Split, Split]) -> dict[str, list[dict[str, Span]]]:
    """For each goal and each side the tokens/s of its splits that fit these streams."""
    few = [_possible(replace(side, slots=side.batch)) for side in pair]
    many = [_possible(side) for side in pair]
    load = pair[0]
    goals = {
        f"tokens/s of {load.batch} stream{'s' * (load.batch > 1)}": [
            {name: split.figures["rate"] for name, split in side.items()} for side in few
        ],
        f"tokens/s of {load.slots} streams": [
            {name: split.figures["rate"] for name, split in side.items()} for side in many
        ],
        "tokens/s of many": [
            {
                f"{name}, {split.slots} streams": split.figures["rate"]
                for name, split in (
                    (name, serving.at_capacity(split)) for name, split in side.items()
                )
            }
            for side in few
        ],
        "prompt tokens/s": [
            {name: split.figures["prompt_rate"] for name, split in side.items()} for side in few
        ],
    }
    if not load.context:  # without a cache any number of streams fits
        del goals["tokens/s of many"]
    return goals


def _possible(load: Split) -> dict[str, Split]:
    return serving.possible_splits(load, serving.all_splits(load))


def _verdict(names: Sequence[str], ratio: Span) -> str:
    first, second = names if ratio[0] >= 1 else names[::-1]
    gain = ratio if ratio[0] >= 1 else 1 / ratio[[0, 2, 1]]
    if gain[1] < serving.MARGIN:
        return f"no clear difference, {first} {span_text(gain, 'x')} {second}"
    return f"{first}, {span_text(gain, 'x')} {second}"
