"""How docs/answer.md prints published pairs, and on how many of them a range rests."""

import re
from collections.abc import Collection, Sequence
from statistics import quantiles

from answer_pairs import (
    Pair,
    Phase,
    Row,
    arrangement,
    drafts,
    gains,
    machine_votes,
    machines,
    step_of,
)
from answer_text import change, first_rows, rate_text, sources, times_text

from reports.references.pairs import PairRow
from reports.references.published import draft_tokens
from reports.tables.sentences import counted, number, size_text

HALVED = 5  # machines from which the half between says more than the ends
SHOWN = 5  # pairs of a table before a click


def range_text(found: Collection[Pair], against: str, phase: Phase = "decode") -> str:
    """`1.07 to 2.01 x one card (12 pairs; half of 9 machines 1.28 to 1.71)`: the ends are of pairs,
    the half between is of machines."""
    ends = " ".join([times_text(gains(found, phase)), against]).strip()
    figures = [(pair.other, gain) for pair in found if (gain := pair.gain(phase))]
    middle = machine_votes(figures)
    if len(middle) < HALVED:
        return f"{ends} ({rests_on(found)})"
    low, _, high = quantiles(middle, n=4, method="inclusive")
    pairs = counted(len(figures), "pair")
    return f"{ends} ({pairs}; half of {len(middle)} machines {low:.2f} to {high:.2f})"


def rests_on(found: Collection[Pair]) -> str:
    """`12 pairs on 9 machines`."""
    if len(found) == 1:
        return "1 pair"
    return f"{len(found)} pairs on {counted(len(machines(found)), 'machine')}"


def cards_text(row: Row) -> str:
    """`2x R9700, PCIe 4 x8, no peer access`, or `R9700 + RX 9070 XT`."""
    parts = [row.gpu if "+" in row.gpu else f"{row.gpus}x {row.gpu}"]
    parts += [row.fabric] if row.fabric != "unknown" else []
    parts += {"on": ["peer access"], "off": ["no peer access"]}.get(row.peer_access, [])
    return ", ".join(parts)


def engine_text(pair: Pair) -> str:
    """`vLLM, graph, DFlash2 k=7, 80 KiB a call`: the size of a call where a drafter ran."""
    parts = [re.split(", | \\(", pair.other.engine)[0]]
    parts += [pair.replay] if pair.replay != "unknown" else []
    if drafts(pair.other):
        k = draft_tokens(pair.other.drafter)
        parts += [pair.other.drafter]
        if k and pair.model:
            parts += [f"{size_text(pair.model.all_reduce_bytes(k + 1))} a call"]
    return ", ".join(parts)


def load_text(row: Row) -> str:
    """`, 8 streams`; nothing for one."""
    return "" if row.streams == 1 else f", {row.streams or 'few'} streams"


def source_text(pair: Pair) -> str:
    is_hearsay = "hearsay" in (pair.one.grade, pair.other.grade)
    return sources([pair.other]) + (", hearsay" if is_hearsay else "")


def served_text(rows: Sequence[Row]) -> str:
    """`21.4 and 15.1 tokens/s (owner)`."""
    rates = [rate_text(row.decode_tok_s) for row in rows if row.decode_tok_s]
    return f"{' and '.join(rates)} tokens/s ({sources(rows)})"


def arranged(pair: Pair) -> str:
    """`one card to 2 by tensor`, `4 by tensor to 2 copies, each on 2 cards`."""

    def words(row: Row) -> str:
        copies = row.split.replicas if isinstance(row, PairRow) else 1
        each = row.gpus // copies
        return {
            "one card": "one card",
            "layer": f"{row.gpus} by layer",
            "tensor": f"{row.gpus} by tensor",
            "copies": f"{copies} copies" + (f", each on {each} cards" if each > 1 else ""),
            "other": f"{row.gpus}, experts apart",
        }[arrangement(row)]

    return f"{words(pair.one)} to {words(pair.other)}"


def decode_text(pair: Pair) -> str:
    """`46.7 to 79.6, 1.70 x`; of rows without tokens/s the ms of a token."""
    one, other = pair.one, pair.other
    if one.decode_tok_s and other.decode_tok_s:
        return change(one.decode_tok_s, other.decode_tok_s)
    before, after = step_of(one), step_of(other)
    if not before or not after:
        return ""
    return f"{number(before / 1e3)} to {number(after / 1e3)} ms a token, {before / after:.2f} x"


def pair_table(found: Sequence[Pair]) -> str:
    """The first pairs, and the others behind a click. Arrangements stand in the heading if they are
    alike."""
    kinds = {arranged(pair) for pair in found}
    alike = len(kinds) == 1
    rows = [
        [
            cards_text(pair.other) if alike else f"{arranged(pair)}: {cards_text(pair.other)}",
            decode_text(pair),
            change(pair.one.prefill_tok_s, pair.other.prefill_tok_s),
            f"{pair.other.model} {pair.other.weights}, {engine_text(pair)}{load_text(pair.other)}",
            source_text(pair),
        ]
        for pair in found
    ]
    cards = f"cards, {kinds.pop()}" if alike else "cards"
    heading = f"{cards} | decode, tokens/s | prefill, tokens/s | model, engine | source"
    return first_rows(heading, rows, SHOWN, "pairs")
