"""The checks of the layers of a record of bench.bits, one at each number of ranks: what is required
of a form, and what a baseline has."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from reports.tables.bits_shares import amount_text
from reports.tables.layer_bits_table import causes_text, compared_at, type_text
from reports.tables.sentences import counted, some
from reports.verdicts.bits_checks import Check, Place
from wiretax.common.grouped import grouped
from wiretax.record.bits_record import INVARIANCES, BatchBits, LayerBits, TpBits

MOST_NAMES = 8  # of batches or forms that a sentence has


def required_of_layer(layer: LayerBits, name: str, tps: Iterable[int]) -> list[Check]:
    """Whether the layer keeps its bits under the change of this name, at each of these numbers of
    ranks that it is about. What was not compared fails."""
    about = [ranks for ranks in tps if name != "tp" or ranks > 1]
    return [required_at(layer, name, ranks) for ranks in about or [1]]


def required_at(layer: LayerBits, name: str, ranks: int) -> Check:
    """The check at one number of ranks, of every batch that was measured at any."""
    results, changed, lacking = layer.results, list[int](), list[int]()
    every = sorted({tokens for _, tokens in results if name != "batch" or tokens > 1})
    for tokens in every:
        one, batch = results.get((1, tokens)), results.get((ranks, tokens))
        own = batch.compared.get(name) if batch else None
        if not batch or not own or not own.elements:
            lacking.append(tokens)
        elif own.differ or (name == "tp" and one and one.digest != batch.digest):
            changed.append(tokens)

    is_tp, reason = name == "tp", reason_at(layer, ranks)
    than = "TP 1" if is_tp else INVARIANCES[name]
    said, share = f"keeps the bits of {than}" if is_tp else f"keeps its bits {than}", ""
    if changed:
        found = compared_at(layer, ranks, name)
        share = amount_text(found) if any(each.differ for each in found) else "other digests"
        share = f": {share}"
        said = f"has other bits than at {than}" if is_tp else f"changes its bits {than}"
        said += share + (f", {tokens_text(changed)}" if changed != every else "")
        if is_tp and layer.at[ranks].causes:
            said += f": {causes_text(layer.at[ranks].causes)}"
    elif lacking or not every:
        said = f"was not compared {'with ' if is_tp else ''}{than}"
        said += f", {tokens_text(lacking)}" if ranks in layer.at and lacking else ""
        said += f": {reason}" if reason else ""
    elif is_tp and (other := unlike_one(layer, ranks)):
        said, changed = other, every

    return check_at(layer, ranks, name, bool(changed or lacking or not every), said, share)


def unlike_one(layer: LayerBits, ranks: int) -> str:
    """What shows, beside equal bits, that others may come: results that change between calls or
    ranks, or an order that TP 1 does not have; or ""."""
    own, one = layer.at[ranks], layer.at.get(1)
    for name in ("run", "ranks"):
        if any(each.differ for each in compared_at(layer, ranks, name)):
            return f"changes its bits {INVARIANCES[name]}"
    if one and one.orders and own.orders != one.orders:
        orders = (order for order in own.orders.values() if order not in one.orders.values())
        order = next(orders, "one that changes or is no order of a sum")
        return f"has the bits of TP 1 here, but another order: {order}"
    return ""


def check_at(
    layer: LayerBits, ranks: int, against: str, failed: bool, said: str, share: str = ""
) -> Check:
    """The check, of which `said` holds; without the `share` in it, other places may be alike."""
    kind = type_text(layer)
    row = f"{layer.model} {layer.name} {kind} TP {ranks}"
    text = f"{layer.name} ({kind}) at TP {ranks} {said}"
    alike = said.replace(share, "", 1)
    place = Place(layer.model, layer.layer, layer.label, kind, str(ranks), alike)
    return Check(row, against, failed, text, place)


def findings_of(failed: Sequence[Check]) -> list[str]:
    """A sentence for each check that failed; of layers, one for all places of which the same
    holds."""
    texts = {check.place: check.text for check in failed if check.place}
    places = [*texts]
    for name in ("ranks", "layer", "datatype", "label"):
        places = joined(places, name)
    said = [check.text for check in failed if not check.place]
    for place in places:
        text = f"{place.layer} of {place.label} ({place.datatype}) at TP {place.ranks} each"
        said.append(texts.get(place) or f"{text} {place.found}")
    return said


def joined(places: Sequence[Place], name: str) -> list[Place]:
    """The places, those that differ in the field of this name alone as one: `2, 4`."""
    merged = list[Place]()
    for own in grouped(places, lambda place: replace(place, **{name: ""})).values():
        names = [*dict.fromkeys(getattr(place, name) for place in own)]
        merged.append(replace(own[0], **{name: some(names, MOST_NAMES)}))
    return merged


def tokens_text(tokens: list[int]) -> str:
    """`with 1, 5 tokens`."""
    noun = "token" if tokens == [1] else "tokens"
    return f"with {some([*map(str, tokens)], MOST_NAMES)} {noun}"


def reason_at(layer: LayerBits, ranks: int) -> str | None:
    """Why the layer stopped there, or was not measured."""
    return next((tp.reason for tp in layer.tps if tp.ranks == ranks and tp.reason), layer.reason)


def layer_compared(before: LayerBits, layer: LayerBits) -> list[Check]:
    """A layer against the same one of the baseline, at each number of ranks that either has. Where
    the baseline lacks one, its TP 1 counts."""
    return [
        compared_with(before.at.get(ranks) or before.at[1], layer, ranks)
        for ranks in sorted({*before.at, *layer.at})
        if ranks in before.at or 1 in before.at
    ]


def compared_with(before: TpBits, layer: LayerBits, ranks: int) -> Check:
    """Whether the layer has all that the baseline has, at its number of ranks `before`."""
    if not (now := layer.at.get(ranks)):
        reason = reason_at(layer, ranks)
        text = "was not measured, but in the baseline" + (f": {reason}" if reason else "")
        return check_at(layer, ranks, "baseline", True, text)

    was_at, now_at = by_tokens(before), by_tokens(now)
    both = [tokens for tokens in was_at if tokens in now_at]
    changed = [each for each in both if was_at[each].digest != now_at[each].digest]
    lost = [tokens for tokens in was_at if tokens not in now_at]
    said, n_batches = list[str](), counted(len(was_at), "batch")
    base = "the baseline" if before.ranks == ranks else "the baseline's TP 1"
    if changed:
        orders = [each.orders.get(str(changed[0]), "") for each in (before, now)]
        text = f"has changed since {base} in {len(changed)} of {n_batches}, {tokens_text(changed)}"
        is_other = all(orders) and orders[0] != orders[1]
        said.append(text + (f": {' -> '.join(orders)}" if is_other else ""))
    if lost:
        said.append(f"lacks batches of the baseline, {tokens_text(lost)}")
    elif before.ranks == ranks and (names := unlike(was_at, now_at)):
        said.append(f"was not compared, or with another outcome: {', '.join(sorted(names))}")

    same = f"has the bits of {base} in {n_batches}"
    return check_at(layer, ranks, "baseline", bool(said), "; ".join(said) or same)


def by_tokens(tp: TpBits) -> dict[int, BatchBits]:
    return {batch.tokens: batch for batch in tp.batches}


def unlike(before: dict[int, BatchBits], now: dict[int, BatchBits]) -> set[str]:
    """The names of what is not compared any more, or has another outcome."""

    def outcomes(batches: dict[int, BatchBits]) -> dict[tuple[int, str], bool]:
        return {
            (tokens, name): each.differ > 0
            for tokens, batch in batches.items()
            for name, each in batch.compared.items()
            if each.elements and name != "launch"
        }

    own = outcomes(now)
    return {key[1] for key, differs in outcomes(before).items() if own.get(key) != differs}
