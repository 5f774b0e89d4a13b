"""A card by its figures, for those that no data sheet here knows: `32GB,640GB/s,191TFLOPS`."""

import re
from collections.abc import Collection
from typing import Any

from wiretax.common.untrusted import printable
from wiretax.record.result import ResultError

FORM = "32GB,640GB/s,191TFLOPS"
# What each figure is, its most, and its unit; the first three are needed.
UNITS = {
    "memory_gb": ("GB", 10_000),
    "bandwidth_gb_s": ("GB/s", 1_000_000),
    "fp16_tflops": ("TFLOPS", 1_000_000),
    "tdp_w": ("W", 100_000),
}
NEEDED = "memory_gb", "bandwidth_gb_s", "fp16_tflops"
LIBRARIES = "nccl", "rccl", "oneccl"
ASSUMED_SLOT = "pcie4x16"


def fields_of(text: str, links: Collection[str]) -> dict[str, Any] | None:
    """The fields of a data sheet from words with units in any order: memory, bandwidth and dense
    fp16 rate, and as far as they are given watts, the slot and the library. None for a text without
    figures with units. Raises ResultError, a sentence that shows the form."""
    words = [word.strip() for word in text.split(",")]
    named = {_field_of(word): word for word in words} if len(words) > 1 else {}
    if not {*named} & {*NEEDED} and not _field_of(text.strip()):
        return None

    shown = printable(text[:80])
    form = f"a card's figures are such as {FORM}: memory, bandwidth and dense fp16 rate"
    fields: dict[str, Any] = {}
    for word in words:
        field = _field_of(word)
        if field in fields:
            raise ResultError(f"{shown!r} has two figures in {UNITS[field][0]}; {form}")
        if field:
            unit, most = UNITS[field]
            value = float(word[: -len(unit)])
            if not 0 < value <= most:
                raise ResultError(
                    f"{shown!r}: {printable(word)} is not above 0 and at most {most:,} {unit}"
                )
            fields[field] = value
        elif word.lower() in links:
            fields["slot"] = word.lower()
        elif word.lower() in LIBRARIES:
            fields["library"] = word.lower()
        else:
            raise ResultError(f"{shown!r}: {printable(word)!r} is no figure with a unit; {form}")

    if missing := [UNITS[name][0] for name in NEEDED if name not in fields]:
        raise ResultError(f"{shown!r} lacks {' and '.join(missing)}; {form}")
    assumed = [
        f"its slot ASSUMED to be {ASSUMED_SLOT}" if "slot" not in fields else "",
        "its library NCCL" if "library" not in fields else "",
    ]
    said = ", ".join(filter(None, ["as given", *assumed]))
    return {"name": shown, "slot": ASSUMED_SLOT, "tdp_w": None, "source": said} | fields


def _field_of(word: str) -> str | None:
    """The field of a figure with its unit, in any case."""
    for field, (unit, _) in UNITS.items():
        if re.fullmatch(rf"[0-9]{{1,9}}(\.[0-9]{{1,6}})? ?{unit}", word, re.IGNORECASE):
            return field
    return None
