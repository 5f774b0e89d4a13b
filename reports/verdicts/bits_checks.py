"""The checks of the rows of a record of bench.bits: what is required of each, and what a baseline
has."""

from dataclasses import dataclass

from reports.tables.bits_shares import share_text
from reports.tables.sentences import counted, size_text, some
from wiretax.record.bits_record import INVARIANCES, RowBits

# Comparisons of one size with another. The sizes at which they are made depend on the record's
# other sizes, so only whether they are made must stay the same, not at which sizes.
OVER_SIZES = "size", "history"


@dataclass(frozen=True)
class Place:
    """A form of a layer at a number of ranks, and what the check found there, without figures."""

    model: str
    layer: str
    label: str
    datatype: str
    ranks: str
    found: str


@dataclass
class Check:
    """A row against the baseline, or against something required, which `failed` or not; of layers
    with the place."""

    row: str
    against: str
    failed: bool
    text: str
    place: Place | None = None


def required_of(row: RowBits, name: str) -> Check:
    """Whether the row keeps its bits under the change of this name. A row that was not compared
    under it fails, as does one without another `launch` of each size."""
    found = row.differences.get(name, [])
    lacks = len(found) < (len(row.sizes) if name == "launch" else 1)
    said = f" keeps its bits {INVARIANCES[name]}"
    sizes = [
        size_text(size.size_bytes)
        for size in row.sizes
        if name in size.compared and size.compared[name].differ
    ]
    if sizes:
        share = ", ".join(share_text(name, found).splitlines())
        said = f" changes its bits {INVARIANCES[name]}: {share}, at {some(sizes)}"
    elif lacks:
        said = f" was not compared {INVARIANCES[name]}"
        said += f": {row.reason}" if row.reason else ""

    return Check(row.name, name, lacks or bool(sizes), f"{row.name} ({row.datatype}){said}")


def compared(before: RowBits, row: RowBits) -> Check:
    """A row against the same one of the baseline: whether it has all that this one has."""
    sizes, said = {size.size_bytes: size for size in row.sizes}, list[str]()
    pairs = [(was, sizes.get(was.size_bytes)) for was in before.sizes]
    if changed := [(was, now) for was, now in pairs if now and was.digest != now.digest]:
        was, now = changed[0]
        orders = [
            " and ".join(dict.fromkeys(part.order for part in each.parts)) for each in (was, now)
        ]
        place = size_text(was.size_bytes)
        if all(orders):
            place += f", {' -> '.join(orders)}"
        all_sizes = counted(len(pairs), "size")
        said.append(f"the bits of {len(changed)} of {all_sizes} changed, first at {place}")
    if lost := [size_text(was.size_bytes) for was, now in pairs if not now]:
        said.append(f"only the baseline has {some(lost)}")
    elif other := unlike_facts(facts_of(before), facts_of(row)):
        said.append(f"not compared, or with another outcome: {', '.join(sorted(other))}")

    same = f"the bits of {counted(len(pairs), 'size')} are the same"
    name = f"{row.name} ({row.datatype})"
    if before.name != row.name:
        name += f", {before.name} in the baseline"
    text = f"{name}: {'; '.join(said) or same}"
    return Check(row.name, "baseline", bool(said), text)


@dataclass(frozen=True)
class Facts:
    """What must be the same of a row in another launch, beside its digests, which tell the outcome
    of `launch` and `size`: which of OVER_SIZES were compared, the sizes in bytes at which the order
    of the sum changes, and whether what was compared at a size, by name and bytes, changed its
    bits."""

    over_sizes: set[str]
    thresholds_bytes: set[int]
    changed: dict[tuple[str, int], bool]


def facts_of(row: RowBits) -> Facts:
    return Facts(
        over_sizes={*OVER_SIZES} & row.differences.keys(),
        thresholds_bytes={each.size_bytes for each in row.thresholds},
        changed={
            (name, size.size_bytes): each.differ > 0
            for size in row.sizes
            for name, each in size.compared.items()
            if each.elements and name not in ("launch", *OVER_SIZES)
        },
    )


def unlike_facts(before: Facts, now: Facts) -> set[str]:
    """The names of what is not compared any more, or has another outcome."""
    names = before.over_sizes - now.over_sizes
    if before.thresholds_bytes - now.thresholds_bytes:
        names.add("threshold")
    for (name, size_bytes), has_changed in before.changed.items():
        if now.changed.get((name, size_bytes)) != has_changed:
            names.add(name)
    return names
