"""Names of cards, models and types of weights as owners, shops and drivers write them."""

import re
from collections.abc import Collection, Iterable, Mapping

MOST_LETTERS = 80  # of a name that is read
# Words behind a number that make another card: an RTX 3060 Ti is no RTX 3060.
OTHER_CARDS = "ti", "super", "xt", "xtx", "gre", "d", "ada"
# Words that do so wherever they stand, as in `RTX 2070 with Max-Q Design`.
OTHER_FORMS = "laptop", "mobile", "max", "sff"
METHODS = "awq", "gptq", "autoround", "hqq"  # of any number of bits
CHANGED_SHAPES = r"\b(reap|pruned)\b"  # of a model's name: experts or layers are gone
# Words that make another model: Phi-4-mini has a fourth of the parameters of Phi-4.
OTHER_MODELS = "mini", "nano", "flash", "lite", "multimodal"
# The most by which a size in a name differs from the published one: drivers leave out what they
# reserve of the memory (22.5 GB of an A10's 24), and a 70B has 70.6e9 parameters.
MEMORY_WITHIN, PARAMETERS_WITHIN = 0.15, 0.05


def card_named(text: str, memory_gb: Mapping[str, float]) -> str | None:
    """The longest key whose words (between hyphens) all stand in the text; None if there is none,
    if it has another memory than the text says, or if the text names several cards.
    `rtx5060ti-8gb` stands in `NVIDIA GeForce RTX 5060 Ti 8GB`, an R9700XT is no R9700, and an RTX
    PRO 6000 48GB no RTX PRO 6000. `memory_gb` is that of each key."""
    text = text[:MOST_LETTERS].lower()
    parts = [part for part in re.split(r"\s\+\s|\s\band\b\s", text) if part.strip()]
    if len(parts) > 1:
        found = {card_named(part, memory_gb) for part in parts}
        return found.pop() if len(found) == 1 else None

    def fits(key: str) -> bool:
        words = key.split("-")
        forms = (form for form in OTHER_FORMS if form not in words)
        if any(re.search(rf"(?<![a-z0-9]){form}(?![a-z0-9])", text) for form in forms):
            return False
        others = "|".join(other for other in OTHER_CARDS if other not in words)
        behind = rf"(?![a-z0-9])(?![^a-z0-9]*(?:{others})(?![a-z0-9]))"
        if not all(re.search(_spaced(word) + behind, text) for word in words):
            return False
        sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?) ?g(?:i?b)?(?![a-z0-9/])", text)
        return all(
            f"{size}gb" in words or _near(size, memory_gb[key], MEMORY_WITHIN) for size in sizes
        )

    return max(filter(fits, memory_gb), key=len, default=None)


def _near(size: str, published: float, within: float) -> bool:
    return abs(float(size) - published) <= within * published


def _spaced(word: str) -> str:
    """A pattern of the word with anything but letters and digits inside; of a series of consumer
    cards (`rtx5090`, `rx7900xtx`) the number suffices."""
    series = re.fullmatch(r"(rtx|gtx|rx)(\d{4}.*)", word)
    letters = r"[^a-z0-9]*".join(series[2] if series else word)
    prefix = rf"(?:{series[1]}[^a-z0-9]*)?" if series else ""
    return rf"(?<![a-z0-9]){prefix}{letters}"


def model_named(text: str, billions: Mapping[str, Collection[float]]) -> str | None:
    """The longest key whose words stand in the text one after another: `gemma-4-31b` in
    `google/gemma4-31B-it`, `qwen3.8-27b` in `Qwen3.8-27B-Heretic`. None if there is none of the
    size that the text says: Mistral-Large-3-675B is no Mistral Large of 123e9 parameters.
    `billions` are the parameters of each key in 1e9, in all and of a token."""
    text = text[:MOST_LETTERS].lower()
    if re.search(CHANGED_SHAPES, text):
        return None

    def fits(key: str) -> bool:
        words = key.split("-")
        apart = re.sub(r"(?<=[a-z])(?=\d)", "-", key)  # qwen3.8 is also written qwen 3.8
        pattern = r"[^a-z0-9]*".join(map(re.escape, apart.split("-")))
        if not re.search(rf"(?<![a-z0-9.]){pattern}(?!\.?[a-z0-9])", text):
            return False
        others = "|".join(other for other in OTHER_MODELS if other not in words)
        if re.search(rf"(?<![a-z0-9])(?:{others})(?![a-z0-9])", text):
            return False
        # Not the 7B of an 8x7B, nor the 3B of an A3B.
        sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z0-9])", text)
        return all(
            f"{size}b" in words or any(_near(size, own, PARAMETERS_WITHIN) for own in billions[key])
            for size in sizes
        )

    return max(filter(fits, billions), key=len, default=None)


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
