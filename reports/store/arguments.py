"""Numbers on command lines, for `type` of argparse."""

import argparse
import re
from contextlib import suppress

from reports.store.untrusted import printable


def whole_number(least: int, text: str, most: int = 1 << 31) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(
            f"{printable(text)!r} is not a whole number from {least} to {most}"
        )

    return int(text)


def positive_number(unit: str, most: int, text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= most:
            return float(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a number of {unit} above 0, and at most {most}"
    )


def percent(text: str) -> float:
    """A percentage as a share."""
    return positive_number("percent", 100, text) / 100
