"""Which two rows of `pairs.csv` are compared, by the rule in `pairs.toml`: one thing moved between
them."""

from collections.abc import Iterable
from itertools import combinations

import msgspec

from reports.references.pairs import RULES, PairRow
from wiretax.common.grouped import grouped

FACTORS = "tensor", "stages", "replicas", "data", "experts", "contexts"  # of a split


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two rows of a pair, the one with fewer cards first. `axis` names the thing that moved; None
    if the rule does not admit the comparison, and then `reason` says why."""

    one: PairRow
    other: PairRow
    axis: str | None
    reason: str = ""

    @property
    def family(self) -> str:
        return self.one.family

    @property
    def decode_ratio(self) -> float | None:
        """Of the other to the one; None where one of them prints none."""
        return _ratio(self.one.decode_tok_s, self.other.decode_tok_s)

    @property
    def prefill_ratio(self) -> float | None:
        """Of the other to the one; None where one of them prints none."""
        return _ratio(self.one.prefill_tok_s, self.other.prefill_tok_s)


def _ratio(one: float | None, other: float | None) -> float | None:
    return other / one if one and other else None


def comparisons(rows: Iterable[PairRow]) -> list[Comparison]:
    """All two rows of each pair; those that the rule does not admit have a reason."""
    made = list[Comparison]()
    for same in grouped(rows, lambda row: row.pair_id).values():
        for first, second in combinations(same, 2):
            one, other = sorted((first, second), key=lambda row: row.gpus or 0)
            axis, reason = _axis_of(one, other)
            made.append(Comparison(one=one, other=other, axis=axis, reason=reason))
    return made


def admitted(rows: Iterable[PairRow]) -> list[Comparison]:
    return [comparison for comparison in comparisons(rows) if comparison.axis]


def _axis_of(one: PairRow, other: PairRow) -> tuple[str | None, str]:
    """The axis that moved between two rows, or why they are not compared."""
    for row in (one, other):
        if row.grade not in RULES["grades"]["admitted"]:
            return None, f"grade {row.grade or 'missing'}: {RULES['grades']['why']}"
    for rule in RULES["printed"]:
        for field in rule["fields"]:
            if not (getattr(one, field) and getattr(other, field)):
                return None, f"no {field} that is known: {rule['why']}"
    for rule in RULES["alike"]:
        for field in rule["fields"]:
            if getattr(one, field) != getattr(other, field):
                return None, f"{field} differs: {rule['why']}"
    both = (one.decode_tok_s and other.decode_tok_s) or (one.prefill_tok_s and other.prefill_tok_s)
    if not both:
        return None, "neither decode nor prefill is printed in both"

    moved = _moved(one, other)
    for axis in RULES["axes"]:
        along = {*axis["moves"], *axis.get("takes_along", [])}
        if moved & {*axis["moves"]} and moved <= along:
            if _factors_moved(one, other) > axis.get("most_factors", len(FACTORS)):
                return None, "the number of cards and several factors of the split differ"
            return axis["name"], ""
    if not moved:
        return None, "nothing differs: the same was measured twice"
    return None, f"{', '.join(sorted(moved))} differ: more than one thing moved"


def _moved(one: PairRow, other: PairRow) -> set[str]:
    """What differs of what an axis may move; see the list above [[axes]] in pairs.toml."""
    splits = one.split, other.split
    is_single = any(split.kind == "single" and split.replicas == 1 for split in splits)
    differs = {
        "gpus": one.gpus != other.gpus,
        "streams": one.streams != other.streams,
        "kind": splits[0].kind != splits[1].kind and not is_single,
        "factors": any(getattr(splits[0], name) != getattr(splits[1], name) for name in FACTORS),
        "kernel": splits[0].kernel != splits[1].kernel
        and all(split.has_all_reduces for split in splits),
    }
    if not is_single:
        differs["peer_access"] = one.peer_access != other.peer_access
        differs["fabric"] = one.fabric != other.fabric
        differs["path"] = one.path != other.path
    return {name for name, is_moved in differs.items() if is_moved}


def _factors_moved(one: PairRow, other: PairRow) -> int:
    """How many factors differ between splits, of which neither is one card; experts go with the
    ranks that hold them."""
    if "single" in (one.split.kind, other.split.kind):
        return 1
    names = [name for name in FACTORS if name != "experts"]
    return sum(getattr(one.split, name) != getattr(other.split, name) for name in names)
