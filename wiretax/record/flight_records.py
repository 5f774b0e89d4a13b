"""Reads flight records: what each rank did last, on a page that outlives it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wiretax.common import untrusted
from wiretax.record.result import NOT_JSON

PAGE_BYTES, COUNTERS_OFFSET = 4096, 2048  # of a rank's page
# Where in an iteration a rank is, by the number of its Phase in kernels/devices/device.py: a phase
# there needs its words here (tests/record/test_flight_records.py).
PHASES = (
    "idle",
    "writing the send buffer",
    "barrier",
    "the collective",
    "reading the result",
    "check",
)


class Flight(msgspec.Struct):
    ranks: dict[int, dict[str, Any]] = {}  # the last record of each
    ended: dict[str, Any] = {}  # the first rank that ended


def read_flight(folder: Path) -> Flight:
    """The flight records in `folder`, a page of each rank: JSON, zeros, and at COUNTERS_OFFSET the
    64-bit counters that it names. Leaves out torn pages, and all without a readable folder."""
    flight, paths = Flight(), list[Path]()
    with suppress(OSError):  # a run that ends removes its folder
        paths = [] if folder.is_symlink() else sorted(folder.iterdir())

    for path in paths:
        try:
            content = untrusted.read_bytes(path, follow=False, most_bytes=PAGE_BYTES)
            page = untrusted.printable_in(
                msgspec.json.decode(content.split(b"\0", 1)[0], type=dict)
            )
        except (OSError, *NOT_JSON):
            continue
        names = page.pop("counters", None)
        if isinstance(names, list) and len(content) >= COUNTERS_OFFSET + 8 * len(names):
            counters = np.frombuffer(content, "<u8", len(names), COUNTERS_OFFSET).tolist()
            page["counters"] = dict(zip(map(str, names), counters, strict=True))
        if path.name == "ended":
            flight.ended = page
        elif page and path.name.startswith("rank-") and path.name[5:].isdecimal():
            flight.ranks[int(path.name[5:])] = page

    return flight


def sentence_on(record: dict[str, Any], why: str) -> str:
    """Which rank ended a run, why, and where it was, by its flight record. A damaged one raises
    KeyError, IndexError or TypeError."""
    counters, block = record["counters"], record["block"]
    phase = counters["phase"]
    place = [
        record["text"],
        "" if block is None else f"block {block}",
        f"step {record['step']}",
        PHASES[phase] if phase else "",
        f"epoch {counters['epoch']}",
        f"call {counters['calls']} of a chain" if phase and counters["calls"] else "",
    ]
    return f"{record['name']} {why}: {', '.join(filter(None, place))}"
