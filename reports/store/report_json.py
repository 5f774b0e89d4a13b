"""`--json` of the report commands: one JSON object on standard output, described in
docs/results.md."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

SCHEMA = 1  # grows when the meaning of a field changes


def write_json(command: str, **fields: Any) -> None:
    """Prints the fields, led by the schema and the command."""
    content = {"schema": SCHEMA, "command": command} | fields
    print(json.dumps(plain(content), indent=1, allow_nan=False))


def plain(value: Any) -> Any:
    """`value` as JSON has it: unknown and infinite figures are null, paths are texts, and tables of
    pandas are lists of rows."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.to_builtins(value))
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if hasattr(value, "to_dict"):
        return plain(value.to_dict("records"))
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable):
        return [plain(item) for item in value]

    raise TypeError(f"{type(value).__name__} has no form in JSON")
