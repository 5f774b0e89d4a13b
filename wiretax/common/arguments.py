"""Command lines: refusals in one sentence, and numbers, for `type` of argparse."""

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NoReturn

from wiretax.common.untrusted import printable


class OneLineParser(argparse.ArgumentParser):
    """Refuses a command line in one sentence, without the usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The options. The first unknown one that may mean another is refused before argparse finds
        another mistake, such as that the other is missing."""
        args = sys.argv[1:] if args is None else args
        known = self._option_string_actions
        for word in takewhile("--".__ne__, args):
            option = word.partition("=")[0]
            if option.startswith("--") and option not in known:
                longer = [name for name in known if name.startswith(option)]
                is_short = longer and self.allow_abbrev  # argparse knows which one it means
                near = longer or get_close_matches(option, known, 1, 0.76)
                if near and not is_short:
                    self.error(f"unknown option {option}: did you mean {near[0]}?")
        return super().parse_known_args(args, namespace)

    def print_help(self, file: Any = None) -> None:
        """Raises OSError; argparse would hide it, and take standard error for a closed output."""
        print(self.format_help(), end="", file=file or sys.stdout, flush=True)

    def error(self, message: str) -> NoReturn:
        """Of a missing argument the name alone tells nobody what to type: its example does."""
        example = (self.epilog or "").partition(";")[0]  # behind it some explain their status
        example = f"; {example}" if example and "required" in message else ""
        self.exit(2, f"{self.prog}: {printable(message)}{example}\n")


MOST_LISTED, NEAREST = 50, 5  # names in a sentence: all of so many, or else so many


def unknown(kind: str, text: str, names: Sequence[str]) -> str:
    """A sentence that suggests which of the names the text may mean, or that there is none."""
    # Of one_shot these are one_shot_push, one_shot_pull ...
    longer = [name for name in names if text and name.startswith(text.lower())]
    near = get_close_matches(text.lower(), longer, NEAREST, cutoff=0)
    near = near or get_close_matches(text.lower(), names, 1)
    either = " or ".join(filter(None, (", ".join(near[:-1]), *near[-1:])))
    hint = f"did you mean {either}?" if near else f"choose from {', '.join(names)}"
    if not near and len(names) > MOST_LISTED:
        nearest = get_close_matches(text.lower(), names, NEAREST, cutoff=0)
        hint = f"of {len(names)} known names the nearest are {', '.join(nearest)}"
    return f"unknown {kind} {text!r}: {hint}" if text else f"missing {kind}: {hint}"


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


def percentile(text: str) -> float:
    """A percentile from the median on, such as 99, as a share."""
    with suppress(ValueError):
        if 50 <= float(text) < 100:
            return round(float(text) / 100, 12)  # 99.9 is 0.999
    raise argparse.ArgumentTypeError(f"{text!r} is not a percentile from 50 to below 100")
