"""A record of bench.bits as a table: rows of equal bits together, and in one line what changes the
bits of no row."""

import textwrap
from collections.abc import Sequence
from typing import Any

from reports.tables.bits_shares import changes, changing_in, share_text, steady_in
from reports.tables.layer_bits_table import (
    LAYERS_HEAD,
    causes_of_layers,
    layers_headline,
    orders_of_layers,
    texts_of_layers,
)
from reports.tables.sentences import (
    lay_out,
    number,
    plain_table,
    size_text,
    some,
    that_fit,
    wrapped,
)
from wiretax.common.grouped import grouped
from wiretax.record.bits_record import Bits, RowBits

MOST_LINES = 24  # of a terminal with 25, whose last one names the file
MOST_ROWS = 10
LAYER_LINES, LAYER_ROWS = 40, 12  # layers, types and forms multiply, and each has its causes
MOST_LETTERS = 48  # of the orders of a row
HEAD = (
    "cells: the share of elements with other bits, as the mean over sizes, and the largest "
    "difference; error: mean of sums without cancellation, in ULP; right: sums rounded correctly, "
    "with cancellation; sum: its order"
)


def groups_of(rows: Sequence[RowBits]) -> list[list[RowBits]]:
    """Rows together that have the same sizes and the same bits at each, which the same things
    change."""
    names = changing_in(rows)

    def key(row: RowBits) -> tuple[Any, ...]:
        digests = tuple((size.size_bytes, size.digest) for size in row.sizes)
        compared = tuple(name in row.differences for name in names)
        return row.datatype, digests, changes(row), compared

    return [*grouped(rows, key).values()]


def orders_text(row: RowBits) -> str:
    """`0+1+2+3`; of several orders the first ones, and whether they depend on the place."""
    orders = row.orders
    if len(orders) < 2:
        return orders[0] if orders else "too short to tell"

    is_by_place = any(len(size.parts) > 1 for size in row.sizes)
    by_place = " by place" if is_by_place else ""
    listed = textwrap.shorten("; ".join(orders), MOST_LETTERS, placeholder=" ...")
    return f"{len(orders)} orders{by_place}: {listed}"


def moved_in(rows: Sequence[RowBits]) -> list[RowBits]:
    """The rows whose bits change, other than by the order of the ranks."""
    return [row for row in rows if {*changes(row)} - {"order"}]


def headline(record: Bits) -> str:
    """What was compared, and which rows change their bits other than by the order of the ranks, or
    failed."""
    rows, said = record.measured, list[str]()
    if rows:
        sizes = [size.size_bytes for row in rows for size in row.sizes]
        datatypes = ", ".join(dict.fromkeys(row.datatype for row in rows))
        moved = [*dict.fromkeys(row.name for row in moved_in(rows))]
        found = f"the bits of {some(moved)} change" if moved else "no bits change"
        said.append(
            f"{record.collective} of {datatypes}, {record.ranks} ranks, "
            f"{size_text(min(sizes))} to {size_text(max(sizes))}: {found}"
        )
    if record.measured_layers:
        said.append(layers_headline(record.measured_layers))
    if failed := [row.name for row in record.failed]:
        said.append(f"{some(failed)} failed")
    return f"bits: {'; '.join(said)}"


def texts_of(groups: Sequence[Sequence[RowBits]]) -> list[dict[str, str]]:
    """The texts of each of `groups_of` by their headings: what changes bits, and, of sums, the
    error and the order."""
    rows = [row for row, *_ in groups]
    names, types, every = changing_in(rows), {row.datatype for row in rows}, []
    for row, *others in groups:
        texts = {"algorithm": row.name + (f" and {len(others)} more" if others else "")}
        if len(types) > 1:
            texts["type"] = row.datatype
        texts |= {name: share_text(name, row.differences.get(name, [])) for name in names}
        if any(each.errors for each in rows):
            positive, signed = row.errors.get("positive"), row.errors.get("signed")
            texts["error"] = number(positive.mean_ulp) if positive else "-"
            texts["right"] = f"{signed.right:.0%}" if signed else "-"
            texts["sum"] = orders_text(row)
        every.append(texts)

    return every


def sentences_of(groups: Sequence[Sequence[RowBits]]) -> list[str]:
    """The sizes at which rows add in another order, and the names of the further rows."""
    said = list[str]()
    for first, *others in groups:
        if sizes := [f"{each.size_bytes:,} B" for each in first.thresholds]:
            said.append(f"! {first.name} adds in another order from {some(sizes, 6)} on")
        if others:
            said.append(f"the same bits as {first.name}: {', '.join(row.name for row in others)}")

    return [*dict.fromkeys(said)]


def said_of(record: Bits) -> list[str]:
    """The sentences on the rows and the layers."""
    layers = record.measured_layers
    said = sentences_of(groups_of(record.measured))
    return [*said, *causes_of_layers(layers), *orders_of_layers(layers)]


def table_of(record: Bits) -> list[dict[str, str]]:
    """The rows and the layers in one table."""
    rows = [*texts_of(groups_of(record.measured)), *texts_of_layers(record.measured_layers)]
    headings = dict.fromkeys(heading for row in rows for heading in row)
    return [{heading: row.get(heading, "-") for heading in headings} for row in rows]


def text(record: Bits) -> str:
    """The record in at most MOST_LINES lines, of layers in LAYER_LINES, and why rows failed; ends
    with a newline."""
    head, tables, more = list[str](), [], list[str]()
    parts = (
        (HEAD, record.measured, texts_of(groups_of(record.measured))),
        (LAYERS_HEAD, record.measured_layers, texts_of_layers(record.measured_layers)),
    )
    most_lines, most_rows = MOST_LINES, MOST_ROWS
    if record.measured_layers:
        most_lines, most_rows = LAYER_LINES, LAYER_ROWS
    for part_head, rows, texts in parts:
        if rows:
            head += [part_head, f"same in every row: {', '.join(steady_in(rows)) or '-'}"]
            tables.append(("", plain_table(texts[0], texts[:most_rows])))
        if len(texts) > most_rows:
            more.append(f"{len(texts) - most_rows} more rows")

    lines = lay_out([headline(record)], head, tables, []).splitlines()
    shown = that_fit([*more, *said_of(record), *record.notes], most_lines - len(lines))
    return "\n".join([*lines[:most_lines], *wrapped([*record.reasons, *shown]), ""])
