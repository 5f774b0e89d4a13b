"""The section of docs/references.md on published pairs: what they are, the rule that compares them,
and their families."""

import re
from collections import Counter
from collections.abc import Sequence

from reports.references.comparisons import admitted, comparisons
from reports.references.pairs import RULES, PairRow, may_fit, pairs
from wiretax.common.grouped import grouped
from wiretax.common.untrusted import markdown_text

HEAD = """## Pairs

`pairs.csv` has {rows} figures of serving in {pairs} pairs of {families} families: the same model,
weights and engine on one machine in several arrangements. A family is one machine and model; its
pairs (a, b, c) have other loads or drafters. `decode_tok_s` is the sum of all streams. At the head
of a note, [A] is a source that was read, with one thing moved; [B] something unread, rounded, or a
second thing; [C] several things, or second-hand.

**Which two rows are compared** was written down in `reports/references/pairs.toml` before anybody
compared a prediction with one. Of {all} comparisons within a pair {admitted} are admitted, because
one thing moved: {axes}.
The others keep their reason. These must not differ:

"""
OWNERS = """
**Whose figures may set a constant**: those of an owner the first byte of the SHA-256 of whose name
is even, {fitted} of {owners} owners. Nobody chooses them, and the others are never fitted. An owner
is who measured: the owner of the source, or of a project that collects figures the name at the head
of `machine`.

A table of the same columns is read by `read_pairs(path)`; `sound_rows(path)` also takes one with
damaged rows, and names them by their lines.

"""
HEADING = (
    "| family | machine | cards | model, weights | engine | arrangements | compared | source |"
)


def of_pairs() -> str:
    rows, made = pairs(), comparisons(pairs())
    axes = Counter(str(each.axis) for each in made if each.axis)
    owners = {row.owner for row in rows}
    head = HEAD.format(
        rows=len(rows),
        pairs=len({row.pair_id for row in rows}),
        families=len({row.family for row in rows}),
        all=len(made),
        admitted=len(admitted(rows)),
        axes=", ".join(f"{axis} {count} times" for axis, count in axes.most_common()),
    )
    rules = [f"- {', '.join(rule['fields'])}: {rule['why']}" for rule in RULES["alike"]]
    fitted = len([owner for owner in owners if may_fit(owner)])
    families = grouped(rows, lambda row: row.family)
    lines = [_line(name, family) for name, family in families.items()]
    return "\n".join(
        [
            head.rstrip("\n"),
            "",
            *rules,
            OWNERS.format(fitted=fitted, owners=len(owners)).rstrip("\n"),
            "",
            HEADING,
            re.sub("[^|]+", "---", HEADING),
            *lines,
            "",
        ]
    )


def _line(name: str, family: Sequence[PairRow]) -> str:
    first = family[0]
    splits = dict.fromkeys(_arrangement(row) for row in family)
    made = Counter(str(each.axis) for each in admitted(family))
    cells = [
        name,
        first.machine,
        first.gpu,
        f"{first.model}, {first.weights or 'not printed'}",
        first.engine or "not printed",
        ", ".join(splits),
        ", ".join(f"{axis} {count}" for axis, count in made.items()) or "none",
    ]
    links = dict.fromkeys(_link(row.source) for row in family)
    return f"| {' | '.join(map(markdown_text, cells))} | {', '.join(links)} |"


def _arrangement(row: PairRow) -> str:
    """`4x: 2 replicas of tensor`, `16x: tensor 8 x 2 stages (NCCL)`"""
    split = row.split
    text = "not known" if split.kind == "unknown" else str(split.kind)
    if split.kind == "tensor+pipeline":
        text = f"tensor {split.tensor} x {split.stages} stages"
    if split.kind == "data":
        text = f"data {split.data}"
        if split.stages > 1:
            text += f" x {split.stages} stages"
    if split.replicas > 1:
        text = f"{split.replicas} replicas of {text}"
    if split.experts > 1:
        text += " with split experts"
    if split.contexts > 1:
        text += " with a split cache"
    if split.variant:
        text += f" ({split.variant})"
    return f"{row.gpus or '?'}x: {text}"


def _link(source: str) -> str:
    """The source's repository, at its commit or its issue; the text of another source."""
    text = markdown_text(source).replace("&#8203;", "")  # a link has none within
    if issue := re.match(r"([\w.-]+/[\w.-]+)#(\d+)", source):
        return f"[{text}](https://github.com/{issue[1]}/issues/{issue[2]})"
    if commit := re.match(r"([\w.-]+/[\w.-]+)@(\w+)", source):
        return f"[{text}](https://github.com/{commit[1]}/tree/{commit[2]})"
    return text
