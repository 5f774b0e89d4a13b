"""Records as lines of JSON. A record keeps the fields that this program does not know in `extra`,
and writes them back."""

import json
from typing import Any, TypeVar

import msgspec


class Record(msgspec.Struct, kw_only=True):
    """The base of all records. `extra` holds unknown fields."""

    extra: dict[str, Any] = {}

    def check(self) -> None:
        """Raises msgspec.ValidationError for a value that reports cannot work with."""


AnyRecord = TypeVar("AnyRecord", bound=Record)


def to_dict(record: Record) -> dict[str, Any]:
    """The record as in JSON: first `kind`, if the record has one, last the unknown fields."""
    tag = record.__struct_config__.tag
    fields = {name: _plain(getattr(record, name))
              for name in record.__struct_fields__ if name != "extra"}
    return ({"kind": tag} if tag else {}) | fields | record.extra


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return to_dict(value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def to_line(record: Record) -> bytes:
    """One line of a file. Raises ValueError for a number that is not finite, which JSON lacks."""
    text = json.dumps(to_dict(record), allow_nan=False, separators=(",", ":"),
                      default=lambda number: number.item())  # a number of numpy
    return text.encode() + b"\n"


def from_dict(raw: dict[str, Any], kind: type[AnyRecord]) -> AnyRecord:
    """The record in `raw`. Raises msgspec.ValidationError if a field is missing or has the wrong
    type, or if `check` does."""
    fields = {name: value for name, value in raw.items() if name != "extra"}
    record = msgspec.convert(fields, kind)
    record.check()
    _store_extra(record, raw)
    return record


def _store_extra(record: Record, raw: dict[str, Any]) -> None:
    """Fills in `extra` of a record and of the records inside."""
    own = set(record.__struct_fields__) - {"extra"} | {"kind"}
    record.extra = {name: value for name, value in raw.items() if name not in own}
    for name in own & raw.keys():
        value, raw_value = getattr(record, name, None), raw[name]
        if not isinstance(value, list):
            value, raw_value = [value], [raw_value]
        for child, raw_child in zip(value, raw_value, strict=True):
            if isinstance(child, Record):
                _store_extra(child, raw_child)
