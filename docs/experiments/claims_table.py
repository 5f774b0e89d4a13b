"""The rows of data/claims.toml, what their commands ask the advisor, and what is published, for
claims_ours.py."""

import argparse
import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
from drawing import HERE

from reports.advice import advise
from reports.advice.serving import HEADROOM, Deployment, break_even_us
from reports.advice.spans import Span
from reports.advice.specs import GB
from reports.references.pairs import PairRow, admitted, pairs
from reports.references.published import (
    PublishedCall,
    PublishedServing,
    calls,
    near_size,
    select,
    serving,
)
from reports.tables.sentences import number
from tests.references_page import span
from wiretax.common.grouped import grouped

Verdict = Literal["holds", "holds if", "wrong", "unknown"]
Found = tuple[dict[str, str], Verdict | None]
Line = Annotated[str, msgspec.Meta(min_length=1)]
# A model is a mixture if its name says how many parameters a token uses, or is one of these.
MIXTURE = re.compile(r"A\d+B|MoE|gpt-oss|MiniMax|GLM|Kimi|DeepSeek-V4|Flash-Next")
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

    def load(self, place: int = 0) -> Deployment:
        """What the command at this place asks the advisor."""
        _, _, _, _, *words = shlex.split(self.repeat[place].command)
        parser = argparse.ArgumentParser()
        advise.add_arguments(parser)
        arguments = parser.parse_args(words)
        (gpus,) = arguments.gpus
        return advise.load_of(arguments, gpus)


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


def by_layer(tensor: Deployment) -> Deployment:
    return replace(tensor, tensor=1, stages=tensor.tensor)


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
    """How many times as fast the second is. All-reduces at one end are so for both."""
    value = slow.value / fast.value
    ends = slow.low / fast.low, slow.high / fast.high
    return Span(value, min(value, *ends), max(value, *ends)).text("x")


def usable_gb(load: Deployment) -> float:
    return (1 - HEADROOM) * load.gpu.memory_gb


def memory(load: Deployment, streams: int = 1) -> dict[str, str]:
    """What a card holds, and what may be used of it."""
    return {
        "a_card": gb(load.memory_bytes(streams)),
        "usable": f"{number(usable_gb(load))} GB",
        "context": f"{load.context:,}",
    }


def short(load: Deployment, streams: int) -> str:
    """How much a card lacks: `12.9 GB`."""
    lack = load.lack(streams)
    assert lack, load
    found = re.search(r", ([\d.]+ GB) short", lack)
    assert found, lack
    return found[1]


def between(values: Iterable[float], unit: str = "") -> str:
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


def rates(rows: Iterable["AnyRow"]) -> list[float]:
    return [row.decode_tok_s for row in rows if row.decode_tok_s]


def printed(values: Iterable[float]) -> str:
    """As a table of others' figures prints them, one after another."""
    return " ".join(map(number, values))


def source(*rows: "AnyRow") -> str:
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


# Kinds of split in pairs.csv, and their names in serving.csv.
SERVED = {
    "single": {"single"},
    "layer": {"layer"},
    "pipeline": {"pp2"},
    "tensor": {"tp2", "tensor"},
    "graph": set[str](),
}
AnyRow = PairRow | PublishedServing


def of_two_cards(before: Sequence[str], after: Sequence[str]) -> list[tuple[AnyRow, AnyRow]]:
    """What both tables have of one stream of a dense model between these splits, on at most two
    cards without NVLink; without a drafter, as far as the sources say."""
    found = list[tuple[AnyRow, AnyRow]]()
    for each in admitted(pairs()):
        rows = each.one, each.other
        for first, second in (rows, rows[::-1]):
            if (
                first.split.kind in before
                and second.split.kind in after
                and each.other.gpus == 2
                and {row.streams for row in rows} == {1}
                and {row.drafter for row in rows} == {"none"}
            ):
                found.append((first, second))

    kinds = [set[str]().union(*(SERVED[kind] for kind in names)) for names in (before, after)]
    alike = ("machine", "gpu", "model", "weights", "engine", "version", "context_tokens", "drafter")
    served = [row for row in serving() if row.streams == 1 and row.drafter in ("", "none")]
    for same in grouped(served, attrgetter(*alike)).values():
        firsts, seconds = (select(same, split=names) for names in kinds)
        found += [(one, two) for one in firsts for two in seconds if two.gpus == 2]
    return [
        rows
        for rows in found
        if all(row.decode_tok_s for row in rows)
        and not any(row.fabric.startswith(("NVLink", "network")) for row in rows)
        and not MIXTURE.search(rows[0].model)
    ]


def gain(before: AnyRow, after: AnyRow) -> float:
    assert before.decode_tok_s
    assert after.decode_tok_s
    return after.decode_tok_s / before.decode_tok_s


def listed(found: Iterable[tuple[AnyRow, AnyRow]]) -> str:
    """The comparisons, a line each."""
    lines = [
        f"{rows[0].decode_tok_s:g} to {rows[1].decode_tok_s:g} tokens/s, "
        f"{gain(*rows):.2f}: {rows[0].gpu}, {rows[0].model}, {rows[0].engine}, {rows[0].source}"
        for rows in found
    ]
    return "\n".join(["", *sorted(lines)])


def machines(found: Iterable[tuple[AnyRow, AnyRow]]) -> str:
    """The rows' sources."""
    return source(*(row for row, _ in found))
