"""Reads a trace of torch.profiler event by event: it may be larger than the memory."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from reports.breakdown.call_messages import Count
from wiretax.common.untrusted import open_file
from wiretax.record.result import ResultError

GZIP = b"\x1f\x8b"
EVENTS = '"traceEvents"'
BEGIN = re.compile(r"\s*:\s*\[\s*(\]?)")
SEPARATOR = re.compile(r"\s*([,\]])\s*")
PIECE_LETTERS = 1 << 20
# Of one event, which has a few thousand, and of the facts; those of many groups have 100,000.
MOST_LETTERS = 1 << 24


class Group(msgspec.Struct):
    pg_name: str = ""
    ranks: list[Count] | str = ""


class World(msgspec.Struct):
    rank: Count | None = None
    world_size: Count | None = None
    pg_config: list[Group] = []


class Card(msgspec.Struct):
    id: int = -1
    name: str = ""


class Facts(msgspec.Struct, rename="camel"):
    """What stands beside the events, as far as it is used."""

    distributed_info: World = msgspec.field(default_factory=World)
    device_properties: list[Card] = []


def read_events(path: Path, add: Callable[[Any], None]) -> Facts:
    """Gives each event to `add`. Raises ResultError for a file that cannot be read, is no trace, or
    was cut off, and for an event of which `add` raises ValueError."""
    if path.is_dir():
        raise ResultError(f"{path} is a folder: name its traces, such as {path}/*rank*.json.gz")
    n_events, where = 0, ""
    try:
        with open_file(path) as raw:
            is_packed = raw.read(len(GZIP)) == GZIP
            raw.seek(0)
            unpacked = gzip.GzipFile(fileobj=raw) if is_packed else raw
            file = io.TextIOWrapper(unpacked, "utf-8", errors="replace")
            before, _, text = file.read(MOST_LETTERS).partition(EVENTS)
            begin = BEGIN.match(text)
            if not begin:
                raise ValueError(
                    "it is no trace of torch.profiler, which has traceEvents; served figures: --two"
                )
            place, is_last = begin.end(), bool(begin[1])
            while not is_last:
                where = f"event {n_events + 1:,}: "
                event, end = value_at(text, place)
                separator = SEPARATOR.match(text, end)
                if separator:
                    add(event)
                    n_events += 1
                    place, is_last = separator.end(), separator[1] == "]"
                    continue
                more = file.read(PIECE_LETTERS)
                if not more or len(text) - place > MOST_LETTERS:
                    raise ValueError("it is no JSON, or was cut off")
                text, place = (text[place:] + more).lstrip(), 0
            where = ""
            after = text[place:] + file.read(MOST_LETTERS)
            return msgspec.json.decode(f"{before}{EVENTS}: []{after}", type=Facts)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResultError(f"{path} cannot be read: {where}{why}") from None


def refuse(constant: str) -> NoReturn:
    """JSON has no NaN and no Infinity, which Python reads."""
    raise ValueError(f"{constant} is no number")


decode = json.JSONDecoder(parse_constant=refuse).raw_decode


def value_at(text: str, place: int) -> tuple[Any, int]:
    """The value and its end, which is that of the text if the value goes on behind it."""
    try:
        return decode(text, place)
    except json.JSONDecodeError:
        return None, len(text)
