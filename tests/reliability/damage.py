"""Damages a file for the fuzzer: its bytes, its words, or the values in its JSON, as Hypothesis
draws them."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

NUMBERS = [0, -1, 1000, 10**9, 2**53 + 1, 2**63 - 1, 2**64, -(2**63), 0.5, 1e308, 1e-300, 5e-324]
WORDS = re.findall(
    r"\S+",
    r"""x nan inf =1+1 <b> $\frac{ ../../etc/passwd library auto ring isolated chained ok wrong
    unsupported complete float32 compute fused decode link tune all_reduce reduce_scatter sendrecv
    one_way 2026-11-20T06-15-00Z""",
)
WORDS += ["", "\x1b[2J", "\u202e", "\0", "9" * 400, "x" * 100_000]
# Text that `dumped` inserts in place of a JSON value: unusual or invalid JSON.
RAW = ["NaN", "-Infinity", "1e400", '"\\ud800"', '{"a":1,"a":2}', '"\\u0000"', "01", "-"]
RAW += ["[" * 5000 + "]" * 5000, '{"a":' * 900 + "1" + "}" * 900, "9" * 5000]
REMOVED = object()
values: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([*NUMBERS, *WORDS, None, True, [], {}, [0], [[]], {"": None}, [0] * 5000]),
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    st.sampled_from(RAW).map(lambda raw: f"@raw {raw}"),
    st.just(REMOVED),
)
# What can lie in a file's place, in the words of `put_form`.
FORMS = ["pipe", "folder", "link /dev/zero", "link .", "link /dev/null", "sparse 300000000", ""]


def dumped(value):
    """JSON text, with each string `@raw TEXT` replaced by TEXT without quotes."""
    text = json.dumps(value, separators=(",", ":"))
    text = re.sub(r'"@raw ((?:[^"\\]|\\.)*)"', lambda match: json.loads(f'"{match[1]}"'), text)
    return text.encode("utf-8", "replace")


def paths_of(value, path=()):
    """The path to each value in a record at any depth; of a list, to its first two items."""
    if path:
        yield path
    items: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value[:2])
    for key, item in items:
        yield from paths_of(item, (*path, key))


def put(record, path, value):
    """Replaces or removes the value at the end of the path, if the record has it."""
    with suppress(KeyError, IndexError, TypeError):
        for key in path[:-1]:
            record = record[key]
        if value is not REMOVED:
            record[path[-1]] = value
        elif not isinstance(record, str):
            del record[path[-1]]


def change_json(draw, line):
    """Removes, replaces or repeats one value of the line, at any depth."""
    try:
        document = json.loads(line)
    except ValueError:
        return line
    if not (paths := list(paths_of(document))):
        return line
    path, value = draw(st.sampled_from(paths)), draw(values)
    if value is not REMOVED and isinstance(path[-1], str) and not draw(st.integers(0, 4)):
        name = json.dumps(path[-1]).encode() + b":"  # a name that occurs twice
        return dumped(document).replace(name, name + dumped(value) + b"," + name, 1)
    put(document, path, value)
    return dumped(document)


def change_lines(draw, content):
    """Changes, removes, repeats or swaps one line of JSON lines, or of one JSON text."""
    lines = content.split(b"\n")
    places = st.integers(0, len(lines) - 1)
    # Heads, plans and ends hold the most information, so half of the changes are near either end.
    ends = [0, 0, max(0, len(lines) - 2), min(len(lines) - 1, 1)]
    at, other = draw(places | st.sampled_from(ends)), draw(places)
    choice = draw(st.integers(0, 9))
    if choice > 2:
        lines[at] = change_json(draw, lines[at])
    else:  # removed, repeated, or another in its place
        lines[at : at + 1] = [[], [lines[other], lines[at]], [lines[other]]][choice]
    return b"\n".join(lines)


def change_text(draw, content):
    """Replaces, removes or repeats one word or number of a text."""
    words = list(re.finditer(rb"[^\s,=\[\]{}\"]+|[,=\[\]{}\"\n]", content))
    if not words:
        return content
    word = draw(st.sampled_from(words))
    others = [*map(str, NUMBERS), *WORDS, "1.5.5", "١٢", "1_000", "{}", "[[", "%s"]
    new = draw(st.sampled_from(others) | st.text(max_size=6)).encode("utf-8", "replace")
    new = draw(st.sampled_from([new, b"", 2 * (word[0] + b"\n"), 20_000 * (word[0] + b"\n")]))
    return content[: word.start()] + new + content[word.end() :]


def change_bytes(draw, content):
    """Cuts, inserts, repeats or flips bytes."""
    at = draw(st.integers(0, max(0, len(content) - 1)))
    flipped = bytes([255 ^ byte for byte in content[at : at + 1]])
    more = st.sampled_from([b"", content[at : at + 200] * 500, flipped]) | st.binary(max_size=20)
    until = at + draw(st.sampled_from([0, 1, 200, len(content)]))
    return content[:at] + draw(more) + content[until:]


def changed(draw, content):
    """The content with one damage; JSON gets mostly damage to its lines and values."""
    ways = [change_lines] * 6 if content[:1] in (b"{", b"[") else [change_text] * 2
    return draw(st.sampled_from([*ways, change_bytes]))(draw, content)


def put_form(path, form):
    """Puts something at the path that is no file of its kind: a pipe, a folder, a link, a large
    file without content, or nothing."""
    path.unlink()
    word, _, rest = form.partition(" ")
    if word == "pipe":
        os.mkfifo(path)
    elif word == "folder":
        path.mkdir()
    elif word == "link":
        path.symlink_to(rest)
    elif word == "sparse":
        with path.open("wb") as file:
            file.truncate(int(rest))
