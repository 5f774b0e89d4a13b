"""The rows of data/claims.toml, what their commands ask the advisor, and what is published, for the
figures of each text in claims_two_cards.py, claims_rigs.py and claims_guide.py."""

import argparse
import json
import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from statistics import median
from typing import Annotated, Any, Literal

import msgspec
from answer_cases import prefills, split_by_replay
from answer_pairs import Pair, between, gains
from answer_text import times_text
from drawing import HERE

from reports.__main__ import main
from reports.advice import advise
from reports.advice.even_calls import by_layer
from reports.advice.serving import Deployment, break_even_us
from reports.advice.spans import Span, gain_of
from reports.advice.specs import GB
from reports.references.pairs import PairRow, pairs
from reports.references.published import PublishedCall, PublishedServing, calls, near_size, select
from reports.tables.sentences import counted, number
from tests.references_page import span
from wiretax.common.grouped import grouped

Verdict = Literal["holds", "holds if", "wrong", "unknown"]
Found = tuple[dict[str, str], Verdict | None]
Line = Annotated[str, msgspec.Meta(min_length=1)]
WITHIN = 0.05  # a figure of theirs is ours if it is so close


class Repeat(msgspec.Struct, forbid_unknown_fields=True):
    """A command, and the names of our figures that it prints."""

    command: Line
    prints: list[str]


class Claim(msgspec.Struct, forbid_unknown_fields=True):
    """A row of data/claims.toml."""

    claim: Line
    theirs: Line
    values: dict[str, float]
    ours: Line
    repeat: list[Repeat]
    verdict: Verdict
    condition: str = ""
    reading: str = ""
    remark: str = ""
    facts: dict[str, str] = {}
    measure: str = ""
    measured: str = ""

    def words(self, place: int) -> list[str]:
        """Of the command at this place, behind `python -m reports`."""
        return shlex.split(self.repeat[place].command)[3:]

    def load(self, place: int = 0) -> Deployment:
        """What the command at this place asks the advisor."""
        _, *words = self.words(place)
        parser = argparse.ArgumentParser()
        advise.add_arguments(parser)
        arguments = parser.parse_args(words)
        (gpus,) = arguments.gpus
        return advise.load_of(arguments, gpus)

    def likely(self, place: int = 0) -> dict[str, str]:
        """The likely tokens/s of a stream that this command prints, by split."""
        with redirect_stdout(StringIO()) as printed:
            main([*self.words(place), "--json"])
        return {
            split["name"]: Span(*split["likely"]["stream_tokens_per_s"]).text()
            for split in json.loads(printed.getvalue())["splits"]
            if split.get("likely")
        }


class Claims(msgspec.Struct, forbid_unknown_fields=True):
    texts: dict[str, str]
    claims: dict[str, Claim]


@cache
def table() -> Claims:
    text = (HERE / "data" / "claims.toml").read_text()
    return msgspec.toml.decode(text, type=Claims)


def decided(holds: bool) -> Verdict:
    return "holds" if holds else "wrong"


def close(ours: float, theirs: float) -> bool:
    return abs(ours / theirs - 1) <= WITHIN


def gb(size_bytes: float) -> str:
    return f"{number(size_bytes / GB)} GB"


def ms(time: Span | float) -> str:
    """Of a time in us."""
    us = time.value if isinstance(time, Span) else time
    return f"{number(us / 1e3)} ms"


def us(time: Span | float) -> str:
    return time.text(" us") if isinstance(time, Span) else f"{number(time)} us"


def alone(tensor: Deployment) -> Deployment:
    return replace(tensor, tensor=1)


def step(load: Deployment) -> Span:
    return load.figures["step_us"]


def prompt(load: Deployment) -> Span:
    return load.figures["prompt_us"]


def call(load: Deployment, tokens: int = 1) -> Span:
    return load.times(load.model.all_reduce_bytes(tokens))


def calls_of_pass(load: Deployment, tokens: int = 1) -> Span:
    return load.model.all_reduces * call(load, tokens)


def even_us(tensor: Deployment) -> float:
    return break_even_us(tensor, by_layer(tensor))


def ratio(slow: Span, fast: Span) -> str:
    """How many times as fast the second of two times is."""
    return gain_of(slow, fast).text("x")


def memory(load: Deployment, streams: int = 1) -> dict[str, str]:
    """What a card holds, and what may be used of it."""
    return {
        "a_card": gb(load.memory_bytes(streams)),
        "usable": gb(load.usable_bytes),
        "context": f"{load.context:,}",
    }


def short(load: Deployment, streams: int) -> str:
    """How much a card lacks: `12.9 GB`."""
    assert load.lack(streams)
    return gb(load.memory_bytes(streams) - load.usable_bytes)


def from_to(values: Iterable[float], unit: str = "") -> str:
    return span(values, unit).strip()


# Published figures


def published(size_bytes: int, **values: Collection[Any]) -> list[PublishedCall]:
    """Exact all-reduces over PCIe of these cards, kinds or libraries, near this size: of each
    machine and library those of the size, or else from half to twice of it."""
    kinds = {"library", "tuned"} & {*values.pop("kind", ("library", "tuned"))}
    own = [
        each
        for each in select(calls(), collective={"all_reduce"}, kind=kinds, **values)
        if each.fabric.startswith("PCIe") and each.grade != "hearsay"
    ]
    by_machine = grouped(own, lambda each: (each.machine, each.library, each.mode)).values()
    return [each for same in by_machine for each in near_size(same, size_bytes)]


def pair(pair_id: str) -> list[PairRow]:
    return [row for row in pairs() if row.pair_id == pair_id]


def rates(rows: Iterable[PairRow | PublishedServing]) -> list[float]:
    return [row.decode_tok_s for row in rows if row.decode_tok_s]


def printed(values: Iterable[float]) -> str:
    """`23.1 to 38.3`: others' figures one after another."""
    return " to ".join(map(number, values))


def source(*rows: PairRow | PublishedServing) -> str:
    """Links to the sources of these rows by owner; the name alone of what is not on GitHub."""
    return ", ".join(dict.fromkeys(source_of(row.source) for row in rows))


def source_of(text: str) -> str:
    place = re.match(r"([\w.-]+)/([\w.-]+)(?:@(\w+) ([\w./-]+)|#(\d+))", text)
    if not place:
        return text.partition("/")[0].partition(" ")[0]
    owner, name, commit, path, issue = place.groups()
    kind = f"issues/{issue}" if issue else f"tree/{commit}"
    if path and "." in path:
        kind = f"blob/{commit}/{path}"
    return f"[{owner}](https://github.com/{owner}/{name}/{kind})"


def gain(before: PairRow, after: PairRow) -> float:
    first, second = rates([before, after])
    return second / first


def of_engines(found: Sequence[Pair]) -> dict[str, str]:
    """How many times as fast decode became in these pairs, on the average and of the eager ones,
    with a line for each, which the page leaves out."""
    replayed, eager = map(gains, split_by_replay(found))
    lines = sorted(
        f"{pair.decode_gain:.2f}: {pair.other.gpu}, {pair.other.model}, {pair.other.engine}, "
        f"{pair.other.source}"
        for pair in found
    )
    return {
        "engines": times_text(replayed),
        "median": number(median(replayed)),
        "eager": times_text(eager),
        "pairs": counted(len(found), "pair"),
        "machines": counted(len({pair.other.machine for pair in found}), "machine"),
        "light": str(sum(pair.other.streams is None for pair in found)),
        "list": "\n".join(["", *lines]),
    }


def of_prefill() -> dict[str, str]:
    """Published prefill by tensor beside by layer, on two cards over PCIe."""
    found = prefills(between("layer", "tensor"))
    return {
        "prefills": times_text(gains(found, "prefill")),
        "prefill_median": number(median(gains(found, "prefill"))),
        "prefill_pairs": counted(len(found), "pair"),
    }
