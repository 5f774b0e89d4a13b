"""A record of bench.bits as a table: rows of equal bits together, and in one line what changes the
bits of no row."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

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
from wiretax.record.bits_record import INVARIANCES, Bits, Difference, RowBits

MOST_LINES = 24  # of a terminal with 25, whose last one names the file
MOST_ROWS = 10
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


def changes(row: RowBits) -> tuple[str, ...]:
    """What changes the bits of a row, by the names of INVARIANCES."""
    return tuple(
        name for name, sizes in row.differences.items() if any(each.differ for each in sizes)
    )


def steady_in(rows: Sequence[RowBits]) -> list[str]:
    """What was compared and changes the bits of no row, and in how many rows, if not in all."""
    times = Counter(name for row in rows for name in row.differences)
    return [
        name + (f" (compared in {times[name]} of {len(rows)})" if times[name] < len(rows) else "")
        for name in INVARIANCES
        if times[name] and name not in changing_in(rows)
    ]


def changing_in(rows: Sequence[RowBits]) -> list[str]:
    """What changes the bits of some row."""
    return [name for name in INVARIANCES if any(name in changes(row) for row in rows)]


def share_of(sizes: Sequence[Difference]) -> float:
    """The mean over the sizes of the share of elements that differ."""
    return fmean(each.differ / each.elements for each in sizes)


def share_text(name: str, sizes: Sequence[Difference]) -> str:
    """`same`, `2 of 17 sizes` and below it `31 % 8 ULP`, of launches the first alone, or `-` for
    what was not compared. Each size counts the same: the share may depend on it."""
    if not sizes:
        return "-"
    differ = [each for each in sizes if each.differ]
    if not differ:
        return "same"
    at = f"{len(differ)} of {len(sizes)} sizes"
    if name == "launch":
        return at

    percent = 100 * share_of(sizes)
    most = max(each.ulp for each in sizes)
    ulp = str(most) if most < 10_000 else f"{most:.0e}".replace("e+0", "e")
    return f"{at}\n{'<1' if percent < 0.5 else f'{percent:.0f}'} % {ulp} ULP"


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
    rows = record.measured
    sizes = [size.size_bytes for row in rows for size in row.sizes]
    datatypes = ", ".join(dict.fromkeys(row.datatype for row in rows))
    moved = [row.name for row in moved_in(rows)]
    failed = [row.name for row in record.failed]
    found = f"the bits of {some([*dict.fromkeys(moved)])} change" if moved else "no bits change"
    if failed:
        found += f"; {some(failed)} failed"
    return (
        f"bits: {record.collective} of {datatypes}, {record.ranks} ranks, "
        f"{size_text(min(sizes))} to {size_text(max(sizes))}: {found}"
    )


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


def text(record: Bits) -> str:
    """The record in at most MOST_LINES lines, and why rows failed; ends with a newline."""
    groups = groups_of(record.measured)
    rows = texts_of(groups)
    head = [HEAD, f"same in every row: {', '.join(steady_in(record.measured))}"]
    tables = [("", plain_table(rows[0], rows[:MOST_ROWS]))]
    more = [f"{len(rows) - MOST_ROWS} more rows"] if len(rows) > MOST_ROWS else []
    lines = lay_out([headline(record)], head, tables, []).splitlines()
    said = [*more, *sentences_of(groups), *record.notes]
    shown = that_fit(said, MOST_LINES - len(lines))
    return "\n".join([*lines[:MOST_LINES], *wrapped([*record.reasons, *shown]), ""])
