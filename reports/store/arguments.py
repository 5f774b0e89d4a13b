"""Command lines: refusals in one sentence, and numbers, for `type` of argparse."""

import argparse
import re
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import NoReturn

from reports.store.untrusted import printable


class OneLineParser(argparse.ArgumentParser):
    """Refuses a command line in one sentence, without the usage."""

    def meant(self, message: str) -> str:
        """The message, or of unknown options a sentence on the first that may mean another."""
        known = self._option_string_actions
        words = message.partition("unrecognized arguments:")[2].split()
        for word in words[: words.index("--") if "--" in words else None]:
            option = word.partition("=")[0]
            longer = [name for name in known if name.startswith(option)]
            if near := longer or get_close_matches(option, known, 1, 0.76):
                return f"unknown option {option}: did you mean {near[0]}?"
        return message

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printable(self.meant(message))}\n")


def unknown(kind: str, text: str, names: Sequence[str]) -> str:
    """A sentence that suggests which of the names the text may mean."""
    near = get_close_matches(text.lower(), names, 1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
    return f"unknown {kind} {text!r}: {hint}"


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
