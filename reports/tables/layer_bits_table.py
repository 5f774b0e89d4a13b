"""The layers of a record of bench.bits as a table: forms of equal outcome together, a column for
each number of ranks, and in words why bits change and in which order a layer's columns are added.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports.tables.bits_shares import amount_text, changing_in, share_text
from reports.tables.sentences import some
from wiretax.common.grouped import grouped
from wiretax.record.bits_record import CAUSES, INVARIANCES, Difference, LayerBits

MOST_LETTERS = 76  # of an order in words
LAYERS_HEAD = (
    "TP n: the share of elements with other bits at n ranks than at one, as the mean over "
    "batches, and the largest difference in ULP"
)


@dataclass
class LayerRow:
    """The texts of a row by their headings, the forms that share it, and what was compared, as
    `compared_in` has it."""

    texts: dict[str, str]
    forms: list[str]
    compared: dict[str, list[Difference]]


def type_text(layer: LayerBits) -> str:
    """`float16`, or `float16 x int8` with weights of another type."""
    same = layer.weights == layer.datatype
    return layer.datatype if same else f"{layer.datatype} x {layer.weights}"


def causes_text(causes: Iterable[str]) -> str:
    """Some of CAUSES in words."""
    return ", and ".join(CAUSES.get(cause, cause) for cause in dict.fromkeys(causes))


def tps_of(layers: Iterable[LayerBits]) -> list[int]:
    """All numbers of ranks that were asked for."""
    return sorted({tp.ranks for layer in layers for tp in layer.tps})


def compared_at(layer: LayerBits, ranks: int, name: str = "tp") -> list[Difference]:
    """What was compared under a name of INVARIANCES at this number of ranks, a batch each."""
    batches = layer.at[ranks].batches if ranks in layer.at else []
    found = [batch.compared[name] for batch in batches if name in batch.compared]
    return [each for each in found if each.elements]


def compared_in(layers: Sequence[LayerBits]) -> list[dict[str, list[Difference]]]:
    """Of each layer what was compared, a batch each, by headings: `TP 2` and so on, and the names
    of what else changes the bits of some."""
    tps = [ranks for ranks in tps_of(layers) if ranks > 1]
    names = [name for name in changing_in(layers) if name != "tp"]
    return [
        {f"TP {ranks}": compared_at(layer, ranks) for ranks in tps}
        | {name: layer.differences.get(name, []) for name in names}
        for layer in layers
    ]


def share_at(name: str, batches: Sequence[Difference]) -> str:
    """`same`, `31 % 8`, of launches `2 of 4 batches`, or `-` for what was not compared."""
    if name != "launch" and any(each.differ for each in batches):
        return amount_text(batches).removesuffix(" ULP")
    return share_text(name, batches, "batch")


def rows_of_layers(layers: Sequence[LayerBits]) -> list[LayerRow]:
    """A row for each form, those that keep their bits first; forms, layers and types with equal
    texts stand together."""
    types = {(layer.datatype, layer.weights) for layer in layers}
    are_types = len(types) == len({datatype for datatype, _ in types})
    rows = list[LayerRow]()
    for layer, compared in zip(layers, compared_in(layers), strict=True):
        texts = {
            "algorithm": layer.label,
            "layer": layer.layer,
            "type": layer.datatype if are_types else type_text(layer),
            "model": layer.model,
        }
        texts |= {name: share_at(name, each) for name, each in compared.items()}
        rows.append(LayerRow(texts, [layer.label], compared))

    for heading in ("layer", "type", "model", "algorithm"):
        rows = together(rows, heading)
    for heading in ("type", "model"):
        if len({row.texts[heading] for row in rows}) == 1:
            for row in rows:
                del row.texts[heading]
    return sorted(rows, key=lambda row: any(map(is_moved, row.compared.values())))


def is_moved(compared: Sequence[Difference]) -> bool:
    return any(each.differ for each in compared)


def together(rows: Sequence[LayerRow], heading: str) -> list[LayerRow]:
    """The rows, those that differ in this column alone as one: `all`, `a, b`, or of algorithms
    `a and 2 more`."""

    def others(row: LayerRow) -> frozenset[tuple[str, str]]:
        return frozenset(each for each in row.texts.items() if each[0] != heading)

    every, merged = {row.texts[heading] for row in rows}, list[LayerRow]()
    for own in grouped(rows, others).values():
        names = [*dict.fromkeys(row.texts[heading] for row in own)]
        text = ", ".join(names)
        if heading == "algorithm":
            text = some(names, 1)
        elif len(names) == len(every) > 1:
            text = "all"
        forms = [*dict.fromkeys(form for row in own for form in row.forms)]
        merged.append(LayerRow(own[0].texts | {heading: text}, forms, own[0].compared))
    return merged


def texts_of_layers(layers: Sequence[LayerBits]) -> list[dict[str, str]]:
    """The rows without what else changes bits: sentences say it, and the columns fit a terminal."""
    texts = [
        {key: text for key, text in row.texts.items() if key not in INVARIANCES}
        for row in rows_of_layers(layers)
    ]
    return [row for at, row in enumerate(texts) if row not in texts[:at]]


def layers_headline(layers: Sequence[LayerBits]) -> str:
    """What was compared, and the forms that keep their bits at all numbers of ranks, and those that
    do not, with the causes."""
    tps = tps_of(layers)
    what = [
        some([*dict.fromkeys(layer.model for layer in layers)]),
        " and ".join(dict.fromkeys(layer.layer for layer in layers)),
        ", ".join(dict.fromkeys(layer.datatype for layer in layers)),
        f"TP {tps[0]}" + (f" to {tps[-1]}" if len(tps) > 1 else ""),
    ]
    return f"{', '.join(what)}: {layers_found(layers)}"


def layers_found(layers: Sequence[LayerBits]) -> str:
    """Which forms keep their bits and which do not, in words."""
    by_tp, otherwise, unknown, same = list[str](), list[str](), list[str](), list[str]()
    by_chance = list[str]()
    tps = [ranks for ranks in tps_of(layers) if ranks > 1]
    for form, own in grouped(layers, lambda layer: layer.label).items():
        changed = changing_in(own)
        if "tp" in changed:
            by_tp.append(form)
        elif changed:
            otherwise.append(form)
        elif any(tp.causes for layer in own for tp in layer.tps):
            by_chance.append(form)
        elif all(compared_at(layer, ranks) for layer in own for ranks in tps):
            same.append(form)
        else:
            unknown.append(form)

    said = list[str]()
    if same and tps:
        said.append(f"the bits of {some(same)} stay the same")
    elif same:
        said.append("no other number of ranks to compare with")
    if by_tp:
        moved = (layer for layer in layers if layer.label in by_tp)
        causes = causes_text(cause for layer in moved for tp in layer.tps for cause in tp.causes)
        said.append(f"those of {some(by_tp)} change" + (f" ({causes})" if causes else ""))
    if otherwise:
        names = [INVARIANCES[name] for name in changing_in(layers) if name != "tp"]
        said.append(f"those of {some(otherwise)} change {', '.join(names)}")
    if by_chance:
        said.append(f"those of {some(by_chance)} stay the same here, but may change")
    if unknown:
        said.append(f"those of {some(unknown)} were not compared everywhere")
    return "; ".join(said).replace("those of", "the bits of", 0 if same and tps else 1)


def causes_of_layers(layers: Sequence[LayerBits]) -> list[str]:
    """Why bits change, or were not compared, each with the forms and the numbers of ranks of which
    this holds; and the forms that share a row."""
    causes = dict[str, list[LayerBits]]()
    for layer in layers:
        for cause in dict.fromkeys(cause for tp in layer.tps for cause in tp.causes):
            tps = ", ".join(str(tp.ranks) for tp in layer.tps if cause in tp.causes)
            causes.setdefault(f"{causes_text([cause])} (TP {tps})", []).append(layer)
        if some_differ := tokens_of_some(layer):
            causes.setdefault(some_differ, []).append(layer)
        for name in changing_in([layer]):
            if name != "tp":
                causes.setdefault(f"other bits {INVARIANCES[name]}", []).append(layer)
        for tp in layer.tps:
            if tp.reason:
                causes.setdefault(f"TP {tp.ranks}: {tp.reason}", []).append(layer)

    like = [
        f"like {row.forms[0]}: {', '.join(row.forms[1:])}"
        for row in rows_of_layers(layers)
        if len(row.forms) > 1
    ]
    every = counted_labels(layers)
    said = [f"! {names_of(own, every)}: {cause}" for cause, own in causes.items()]
    return [*said, *dict.fromkeys(like)]


def orders_of_layers(layers: Sequence[LayerBits]) -> list[str]:
    """The order in which the columns of a layer are added, with the forms of which it holds."""
    every = counted_labels(layers)
    return [
        f"sum of {names_of(own, every)}: {order}"
        for order, own in grouped(layers, order_text).items()
        if order
    ]


def counted_labels(layers: Sequence[LayerBits]) -> "Counter[str]":
    return Counter(label for layer in layers for label in labels(layer))


def tokens_of_some(layer: LayerBits) -> str:
    """`only batches of 5, 8 tokens change`, unless none or all do."""
    every, moved = set[int](), set[int]()
    for (_, tokens), batch in layer.results.items():
        every.add(tokens)
        if "tp" in batch.compared and batch.compared["tp"].differ:
            moved.add(tokens)
    if not moved or moved == every:
        return ""
    return f"only batches of {', '.join(map(str, sorted(moved)))} tokens change"


def names_of(own: Sequence[LayerBits], every: "Counter[str]") -> str:
    """The forms of some layers; those of a type or a layer alone with its name. `every` counts the
    `labels` of all layers."""
    here, names = counted_labels(own), list[str]()
    for layer in own:
        *shared, alone = labels(layer)
        names.append(next((each for each in shared if here[each] == every[each]), alone))
    return some([*dict.fromkeys(names)])


def labels(layer: LayerBits) -> list[str]:
    """What a layer can be called with others, and last alone."""
    kind = f" ({layer.datatype})"
    return [layer.label, layer.label + kind, layer.name, layer.name + kind]


def order_text(layer: LayerBits) -> str:
    """The order of the sum at one rank, and each other one with the place from which on it holds;
    empty if it is unknown."""
    said, last = list[str](), ""
    for ranks, tp in sorted(layer.at.items()):
        by_tokens = sorted(tp.orders.items(), key=lambda each: (len(each[0]), each[0]))
        for place, (tokens, order) in enumerate(by_tokens):
            if order == last:
                continue
            words = textwrap.shorten(order, MOST_LETTERS, placeholder=" ...")
            at = f", {tokens} tokens" if place else ""
            said.append(f"from TP {ranks}{at} on {words}" if last else words)
            last = order
    return "; ".join(said)
