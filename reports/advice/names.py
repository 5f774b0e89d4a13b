"""Names of cards, models and types of weights as owners, shops and drivers write them."""

import re
from collections.abc import Iterable

MOST_LETTERS = 80  # of a name that is read
# Words behind a number that make another card: an RTX 3060 Ti is no RTX 3060.
METHODS = "awq", "gptq", "autoround", "hqq"  # of any number of bits
CHANGED_SHAPES = r"\b(reap|pruned)\b"  # of a model's name: experts or layers are gone
OTHER_CARDS = "ti", "super", "xt", "xtx", "gre", "d", "laptop", "mobile", "max", "sff"


def card_named(text: str, keys: Iterable[str]) -> str | None:
    """The longest key whose words (between hyphens) all stand in the text; None if there is none,
    or if it names several cards. `rtx5060ti-8gb` stands in `NVIDIA GeForce RTX 5060 Ti 8GB`, and an
    R9700XT is no R9700."""
    text = text[:MOST_LETTERS].lower()
    parts = [part for part in re.split(r"\s\+\s|\s\band\b\s", text) if part.strip()]
    if len(parts) > 1:
        found = {card_named(part, keys) for part in parts}
        return found.pop() if len(found) == 1 else None

    def fits(key: str) -> bool:
        words = key.split("-")
        others = "|".join(other for other in OTHER_CARDS if other not in words)
        behind = rf"(?![a-z0-9])(?![^a-z0-9]*(?:{others})(?![a-z0-9]))"
        return all(re.search(_spaced(word) + behind, text) for word in words)

    return max(filter(fits, keys), key=len, default=None)


def _spaced(word: str) -> str:
    """A pattern of the word with anything but letters and digits inside; of a series of consumer
    cards (`rtx5090`, `rx7900xtx`) the number suffices."""
    series = re.fullmatch(r"(rtx|gtx|rx)(\d{4}.*)", word)
    letters = r"[^a-z0-9]*".join(series[2] if series else word)
    prefix = rf"(?:{series[1]}[^a-z0-9]*)?" if series else ""
    return rf"(?<![a-z0-9]){prefix}{letters}"


def model_named(text: str, keys: Iterable[str]) -> str | None:
    """The longest key whose words stand in the text one after another: `gemma-4-31b` in
    `google/gemma4-31B-it`, `qwen3.8-27b` in `Qwen3.8-27B-Heretic`."""
    text = text[:MOST_LETTERS].lower()
    if re.search(CHANGED_SHAPES, text):
        return None

    def fits(key: str) -> bool:
        apart = re.sub(r"(?<=[a-z])(?=\d)", "-", key)  # qwen3.8 is also written qwen 3.8
        pattern = r"[^a-z0-9]*".join(map(re.escape, apart.split("-")))
        return bool(re.search(rf"(?<![a-z0-9.]){pattern}(?!\.?[a-z0-9])", text))

    return max(filter(fits, keys), key=len, default=None)


def type_named(text: str, keys: Iterable[str]) -> str | None:
    """The longest type of weights that stands in the text, of several the first, after `to` the
    last; None if there is none, or if two of them are joined by a plus; a method such as AWQ counts
    only where no bits are said: `UD-Q4_K_XL`, `repo default
    (W4A16 AutoRound)`, `NVFP4 to MXFP4`."""
    text = re.sub(r"[^a-z0-9+]+", "_", text[:MOST_LETTERS].lower())
    text = text.rpartition("_to_")[2]
    found = sorted(
        (match.start(), -len(key), key)
        for key in keys
        for match in re.finditer(rf"(?<![a-z0-9]){re.escape(key)}(?![a-z0-9])", text)
    )
    found = [match for match in found if match[2] not in METHODS] or found
    if not found or ("_+_" in text and len({key for *_, key in found}) > 1):
        return None
    return found[0][2]
