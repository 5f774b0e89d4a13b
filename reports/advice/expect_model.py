"""`expect --model`: what others have published of engines that serve a model on some cards, from
`serving.csv` and `pairs.csv`."""

import argparse
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from operator import attrgetter
from statistics import median
from typing import Any

from reports.kit.page import Banner, Page, Section, to_html
from reports.references.pairs import Split, pairs
from reports.references.published import meant_cards, serving, votes, words_of
from reports.tables.beside_published import counts
from reports.tables.sentences import lay_out, number, plain_table, some
from wiretax.common.arguments import unknown
from wiretax.common.grouped import grouped
from wiretax.common.program import answer
from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError
from wiretax.record.writing import write_named

# What is noted of a source, in words.
NOTED = {
    "machine": "machine",
    "fabric": "link",
    "engine": "engine",
    "version": "version",
    "date": "date",
    "power_w": "power in W",
    "grade": "grade",
    "note": "note",
}
DRAFTERS = {"": "drafter not said", "none": "no drafter"}
# What few sources print, with the heading of its column.
RARE = {
    "total_tok_s": "in and out\ntok/s",
    "tpot_ms": "a token\nms",
    "ttft_ms": "first token\nms",
}


@dataclass(frozen=True)
class Served:
    """A row of either table. `decode_tok_s` is the sum of all `streams`; `total_tok_s` counts the
    tokens of prompts too. `drafter` is empty if nobody says whether there was one."""

    machine: str
    gpu: str
    gpus: int | None
    fabric: str
    peer_access: str
    model: str
    weights: str
    engine: str
    version: str
    split: str
    replay: str
    drafter: str
    streams: int | str | None
    decode_tok_s: float | None
    prefill_tok_s: float | None
    grade: str
    date: str
    source: str
    note: str
    power_w: str = ""
    total_tok_s: float | None = None
    tpot_ms: float | None = None
    ttft_ms: float | None = None


@cache
def served() -> list[Served]:
    """The rows of both tables."""
    shared = [field.name for field in fields(Served) if field.default is MISSING]
    of_engines = [*shared, "power_w", *RARE]
    rows = [{name: getattr(row, name) for name in of_engines} for row in serving()]
    rows += [{name: getattr(row, name) for name in shared} for row in pairs()]
    for row in rows:
        row["split"] = split_text(row["split"])
        row["drafter"] = row["drafter"].replace("unknown", "")
    return [Served(**row) for row in rows]


def split_text(split: str | Split) -> str:
    """`tp2`, `layer`, `2x tp4 pp2`."""
    if isinstance(split, str):
        return split
    words: list[str] = [split.kind] if split.kind in ("single", "layer", "row", "graph") else []
    parts = {"tp": split.tensor, "pp": split.stages, "dp": split.data, "ep": split.experts}
    if not words:
        words = [f"{name}{n}" for name, n in parts.items() if n > 1] or [split.variant or "-"]
    many = [f"{split.replicas}x"] if split.replicas > 1 else []
    return " ".join([*many, *words])


def expect_model(arguments: argparse.Namespace) -> int:
    """Prints the rows of a model and returns 0. Raises ResultError for an unknown model or card, or
    if nobody published them together."""
    for word in ("run", "hosts", "size", "plot"):
        if getattr(arguments, word):
            other = "a RUN" if word == "run" else f"--{word}"
            raise ResultError(f"--model goes with --gpu, --gpus and --html, not with {other}")

    rows, notices = rows_of_model(arguments.model), list[str]()
    others = rows
    if arguments.gpu:
        known = words_of(row.gpu for row in served())
        cards, notices = meant_cards(arguments.gpu, known)
        if not cards:
            names = sorted(name.lower() for name in known)
            raise ResultError(unknown("GPU", printable(arguments.gpu[:80]), names))
        rows = [row for row in rows if row.gpu in cards]
    if arguments.gpus:
        rows = [row for row in rows if row.gpus == arguments.gpus]
    names = models_of(others)
    if not rows:
        places = list(dict.fromkeys(map(cards_of, others)))
        raise ResultError(
            f"nobody has published {some(names)} on these cards: it is on {some(places, 8)}"
        )

    rows = sorted(rows, key=lambda row: (row.gpus or 0, row.gpu, str(row.streams).zfill(5)))
    sentences = [*said_of(rows)]
    listed = sources(rows, NOTED)
    table = [cells_of(row, listed, names[0]) for row in rows]
    for name, heading in RARE.items():
        if any(getattr(row, name) for row in rows):
            for cells, row in zip(table, rows, strict=True):
                cells[heading] = number(getattr(row, name))
    title = f"{some(names)}, published tokens per second ({counts(rows)})"
    if arguments.html:
        banner = banner_of(rows, names[0], notices)
        sections = [
            Section("By cards", sentences),
            Section("Figures", rows=table),
            Section("Sources", [*listed.values()]),
        ]
        write_named(arguments.html, to_html(Page(title, banner, sections)).encode())
    tables = [("", plain_table(table[0], table))]
    text = lay_out([*notices, title], sentences, tables, listed.values())
    answer(arguments, text, models=names, rows=rows, sentences=[*notices, *sentences])
    return 0


def banner_of(rows: Sequence[Served], model: str, notices: Sequence[str]) -> Banner:
    """The decode of one stream on the cards of most machines, or else the number of rows."""
    single = [row for row in rows if row.streams == 1 and row.decode_tok_s]
    if not single:
        return Banner(counts(rows), f"{model}, without a decode of one stream", notices)
    groups = grouped(single, lambda row: (cards_of(row), drafter_of(row)))
    most = max(groups, key=lambda group: len({row.machine for row in groups[group]}))
    word = range_text([row.decode_tok_s or 0 for row in groups[most]])
    clause = f"decode of one stream of {model} on {', '.join(most)}, {counts(groups[most])}"
    return Banner(word, clause, notices)


def words_of_model(name: str) -> set[str]:
    """`qwen`, `3.8` and `27b`: names of one model differ in spaces, dashes and capitals."""
    return {*re.findall(r"\d+(?:\.\d+)?b?|[a-z]+", name[:80].lower())}


def rows_of_model(name: str) -> list[Served]:
    """The rows of all models whose name has all of the words. Raises ResultError without any."""
    wanted = words_of_model(name)
    rows = [row for row in served() if wanted and wanted <= words_of_model(row.model)]
    if not rows:
        names = sorted({row.model.lower() for row in served()})
        raise ResultError(unknown("model", printable(name[:80]), names))
    return rows


def models_of(rows: Sequence[Served]) -> list[str]:
    """The names of the models, the one of most rows first, one for names that differ in case."""
    spelled = {row.model.lower(): row.model for row in rows}
    return [spelled[name] for name, _ in Counter(row.model.lower() for row in rows).most_common()]


def cards_of(row: Served) -> str:
    """`2x R9700`; unlike cards, such as `R9700 + RX 9070 XT`, are all of a machine's."""
    return row.gpu if "+" in row.gpu else f"{row.gpus or 'several'}x {row.gpu}"


def drafter_of(row: Served) -> str:
    return DRAFTERS.get(row.drafter, "a drafter")


def said_of(rows: Sequence[Served]) -> Iterator[str]:
    """Of each number of cards the decode of one stream, with and without a drafter, and the
    prefill. A machine counts once in a median."""
    for cards, own in grouped(rows, cards_of).items():
        single = [row for row in own if row.streams == 1 and row.decode_tok_s]
        for drafter, alike in grouped(single, drafter_of).items():
            yield f"{cards}: decode of one stream, {drafter}, {span_of(alike, 'decode_tok_s')}."
        if prefills := [row for row in own if row.prefill_tok_s]:
            yield f"{cards}: prefill {span_of(prefills, 'prefill_tok_s')}."


def span_of(rows: Sequence[Served], name: str) -> str:
    """`54.8 to 160 tok/s, median 81.5 (5 machines, 9 rows)`."""
    value = attrgetter(name)
    voters = votes(rows, value)
    middle = f", median {number(median(voters.values()))}" if len(voters) > 1 else ""
    return f"{range_text([*map(value, rows)])}{middle} ({counts(rows)})"


def range_text(values: Sequence[float]) -> str:
    """`54.8 to 160 tok/s`."""
    ends = dict.fromkeys(map(number, (min(values), max(values))))
    return f"{' to '.join(ends)} tok/s"


def sources(rows: Sequence[Any], noted: Mapping[str, str]) -> dict[str, str]:
    """What to know of each source, behind its number: of these fields, by their words."""
    texts = dict[str, str]()
    for source, own in grouped(rows, attrgetter("source")).items():
        facts = dict.fromkeys((name, getattr(row, name)) for name in noted for row in own)
        words = [f"{noted[name]} {value}" for name, value in facts if value not in ("", "unknown")]
        texts[source] = f"[{len(texts) + 1}] {source}: {'; '.join(words)}"
    return texts


def cells_of(row: Served, listed: Mapping[str, str], usual: str) -> dict[str, str]:
    """A row of the table; its model is named unless it is the `usual` one."""
    model = [row.model] if row.model.lower() != usual.lower() else []
    return {
        "source,\nplace": f"{listed[row.source].split()[0]} {cards_of(row)}",
        "weights,\nmodel": ", ".join([*model, row.weights]),
        "split": row.split + (f" {row.replay}" if row.replay != "unknown" else ""),
        "peers": row.peer_access.replace("unknown", "-"),
        "drafter": row.drafter or "-",
        "at\nonce": "-" if row.streams is None else str(row.streams),
        "decode\ntok/s": number(row.decode_tok_s),
        "prefill\ntok/s": number(row.prefill_tok_s),
    }
