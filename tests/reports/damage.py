"""Damages a file for the fuzzer: its bytes, its words, or the values in its JSON, as Hypothesis draws them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

NUMBERS = [
    0,
    -1,
    1,
    2,
    10**9,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    -(10**9),
    -(2**63),
    0.5,
    -0.0,
    1e308,
    -1e308,
    5e-324,
    1e15,
    1e-300,
]
WORDS = [
    "",
    "x",
    "\x1b[2J",
    "\u202e",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "nan",
    "inf",
    "1e9",
    "=1+1",
    "rank-1",
    "library",
    "auto",
    "ring",
    "isolated",
    "chained",
    "all_reduce",
    "ok",
    "wrong",
    "unsupported",
    "float32",
    "<b>",
    "$\\frac{",
    "9" * 400,
    "x" * 100_000,
    "\n",
    "\0",
    "2026-11-20T06-15-00Z",
    "compute",
    "fused",
    "decode",
    "link",
    "tune",
    "reduce_scatter",
    "sendrecv",
    "complete",
    "one_way",
]
# Text that `dumped` inserts in place of a JSON value: unusual or invalid JSON.
RAW = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    '"\\ud800"',
    "[" * 5000 + "]" * 5000,
    '{"a":' * 900 + "1" + "}" * 900,
    '{"a":1,"a":2}',
    "9" * 5000,
    '"\\u0000"',
    "01",
    "0x10",
    "-",
]
values = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(WORDS),
    st.sampled_from([None, True, False]),
    st.sampled_from([[], {}, [[]], [None], {"": 0}]),
    st.lists(st.sampled_from([*NUMBERS, *WORDS[:6], None]), max_size=4),
    st.builds(lambda n: [0] * n, st.just(5000)),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(RAW).map(lambda raw: f"@raw {raw}"),
)


def dumped(value: Any) -> bytes:
    """JSON text, with each string `@raw TEXT` replaced by TEXT without quotes."""
    text = json.dumps(value, separators=(",", ":"))
    text = re.sub(r'"@raw ((?:[^"\\]|\\.)*)"', lambda match: str(json.loads(f'"{match[1]}"')), text)
    return text.encode("utf-8", "replace")


def change_json(draw: st.DrawFn, line: bytes) -> bytes:
    """Removes, replaces or repeats one value of the line, at any depth."""
    try:
        document = json.loads(line)
    except ValueError:
        return line
    inner: Any = document
    while True:
        keys = (
            list(inner)
            if isinstance(inner, dict)
            else list(range(len(inner)))
            if isinstance(inner, list)
            else []
        )
        if not keys:
            return dumped(draw(values))
        key = draw(st.sampled_from(keys))
        if isinstance(inner[key], (dict, list)) and inner[key] and draw(st.integers(0, 5)):
            inner = inner[key]
            continue
        choice = draw(st.integers(0, 9))
        if choice == 0:
            del inner[key]
        elif choice == 1:
            inner[key] = inner[draw(st.sampled_from(keys))]
        elif choice == 2 and isinstance(inner, list):
            inner.extend(inner[:20])
        elif choice == 3 and isinstance(inner, dict):
            once = dumped(document)
            name = json.dumps(key).encode() + b":"
            return once.replace(name, name + dumped(draw(values)) + b"," + name, 1)
        else:
            inner[key] = draw(values)
        return dumped(document)


def change_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """Changes, removes, repeats or swaps one line of JSON lines, or of one JSON text."""
    lines = content.split(b"\n")
    count = len(lines)
    # Heads, plans and ends hold the most information, so half of the changes are near either end.
    at = draw(
        st.one_of(
            st.integers(0, count - 1), st.sampled_from([0, 0, max(0, count - 2), min(count - 1, 1)])
        )
    )
    choice = draw(st.integers(0, 9))
    if choice == 0:
        del lines[at]
    elif choice == 1:
        lines.insert(at, lines[draw(st.integers(0, count - 1))])
    elif choice == 2:
        other = draw(st.integers(0, count - 1))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = change_json(draw, lines[at])
    return b"\n".join(lines)


def change_text(draw: st.DrawFn, content: bytes) -> bytes:
    """Replaces, removes or repeats one word or number of a text."""
    words = list(re.finditer(rb"[^\s,=\[\]{}\"]+|[,=\[\]{}\"\n]", content))
    if not words:
        return content
    word = words[draw(st.integers(0, len(words) - 1))]
    new = draw(
        st.one_of(
            st.sampled_from([*map(str, NUMBERS), *WORDS, "1.5.5", "١٢", "1_000", "{}", "[[", "%s"]),
            st.text(max_size=6),
        )
    ).encode("utf-8", "replace")
    if draw(st.booleans()):
        new = (word[0] + draw(st.sampled_from([b"", b" ", b"\n"]))) * draw(
            st.sampled_from([0, 2, 50, 20_000])
        )
    return content[: word.start()] + new + content[word.end() :]


def change_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Flips, cuts, inserts or repeats bytes."""
    at = draw(st.integers(0, max(0, len(content) - 1)))
    choice = draw(st.integers(0, 4))
    if choice == 0:
        return content[:at]
    if choice == 1:
        return content[:at] + content[at + draw(st.integers(1, 200)) :]
    if choice == 2:
        return content[:at] + draw(st.binary(min_size=1, max_size=20)) + content[at:]
    if choice == 3:
        return (
            content[:at]
            + content[at : at + 200] * draw(st.sampled_from([2, 3, 500]))
            + content[at:]
        )
    flipped = bytearray(content)
    for place in (
        draw(st.lists(st.integers(0, max(0, len(content) - 1)), min_size=1, max_size=8))
        if content
        else ()
    ):
        flipped[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(flipped)


def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with one damage; JSON gets mostly damage to its lines and values."""
    ways = [change_lines] * 6 if content[:1] == b"{" else [change_text] * 2
    return draw(st.sampled_from([*ways, change_bytes]))(draw, content)


REMOVED = object()
FIELD_VALUES = [
    REMOVED,
    None,
    True,
    0,
    -1,
    1000,
    10**18,
    1e308,
    1e-300,
    "",
    "nan",
    "9" * 400,
    [],
    {},
    [0],
    [[]],
    {"": None},
    "@raw NaN",
    "@raw " + "9" * 5000,
]


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each value in a record at any depth; of a list, to its first two items."""
    if path:
        yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:2])
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield from paths_of(item, (*path, key))


def put(record: Any, path: tuple[Any, ...], value: Any) -> None:
    """Replaces or removes the value at the end of the path, if the record has it."""
    with suppress(KeyError, IndexError, TypeError):
        for key in path[:-1]:
            record = record[key]
        if value is not REMOVED:
            record[path[-1]] = value
        elif not isinstance(record, str):
            del record[path[-1]]


def change_field(order: random.Random, content: bytes) -> bytes:
    """Replaces or removes one field in the lines of one kind, in one of them or in all. A field of a case changes in
    the head too, because `read` compares the two."""
    lines = [json.loads(line) for line in content.splitlines()]
    kind = order.choice(sorted({line["kind"] for line in lines}))
    records: list[tuple[Any, ...]] = [(line,) for line in lines if line["kind"] == kind]
    if kind == "case" and lines[0].get("cases"):
        records = [
            (*planned, *of_case)
            for planned, of_case in zip(zip(lines[0]["cases"]), records, strict=True)
        ]
    chosen, value = order.choice(records), order.choice(FIELD_VALUES)
    field = order.choice(sorted(chosen[-1].keys() - {"kind"}))
    path = order.choice([path for path in paths_of(chosen[-1]) if path[0] == field])
    for record in records if order.random() < 0.6 else [chosen]:
        for part in record:
            put(part, path, value)
    return b"".join(dumped(line) + b"\n" for line in lines)
