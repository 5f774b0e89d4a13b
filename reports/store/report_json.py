"""`--json` of the report commands: one JSON object on standard output, described in
docs/results.md."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from reports.store.untrusted import printable

SCHEMA = 1  # grows when the meaning of a field changes


def write_json(command: str, **fields: Any) -> None:
    """Prints the fields, led by the schema and the command."""
    content = {"schema": SCHEMA, "command": command} | fields
    print(json.dumps(plain(content), indent=1))


def plain(value: Any) -> Any:
    """`value` as JSON has it: unknown and infinite figures are null, as msgspec writes them, paths
    are texts, and tables of pandas are lists of rows."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_builtin))


def _builtin(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict("records")
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return value.tolist()
    if isinstance(value, Path):
        return printable(str(value))
    if isinstance(value, Iterable):
        return list(value)

    raise TypeError(f"{type(value).__name__} has no form in JSON")
