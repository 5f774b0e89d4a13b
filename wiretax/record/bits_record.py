"""The record of `bench.bits`, one JSON object in `<run_id>.bits.json`: which bits each algorithm
gives at each size, and what changes them. docs/results.md describes the fields."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from wiretax.common import untrusted
from wiretax.common.program import BENCH
from wiretax.record.result import NOT_JSON, ResultError, content_of
from wiretax.record.schema import NotNegative

SCHEMA, SUFFIX = 1, ".bits.json"
ACCEPTED_BITS, ACCEPTED_NOTE = "bits", "accepted: "  # the folder of `accept`, and its reason
COMPARABLE = "collective", "ranks", "hosts", "device", "seed", "data"  # equal in both records
MOST_BYTES = 20_000_000
Count = Annotated[int, msgspec.Meta(ge=0, lt=10**18)]
Name = Annotated[str, msgspec.Meta(pattern=r"^\w[\w.-]*\Z")]  # also of a file

# What may not change bits: what stays the same, and what changes, in words.
INVARIANCES = {
    "run": "from call to call, each rank late in turn",
    "launch": "from launch to launch",
    "ranks": "on all ranks",
    "size": "in a longer message",
    "place": "elsewhere in the message",
    "align": "at other addresses of the buffers",
    "in-place": "in place",
    "chain": "in calls that follow each other at once",
    "graph": "from a graph",
    "history": "after other communicators and buffers",
    "order": "with the data on other ranks",
    "fewer": "without the last rank, whose data are zeros",
    "tp": "of a layer at other numbers of ranks",
    "batch": "of a layer in a batch of more tokens",
}

# Why a layer has other bits at another number of ranks than at one.
CAUSES = {
    "product": "the product adds its columns in another order",
    "rounding": "the ranks' parts are rounded before they are added",
    "ranks": "the ranks' parts are added in another order",
    "choice": "another algorithm takes other sizes",
    "unknown": "no order of the sum explains it",
}


class Difference(msgspec.Struct, kw_only=True):
    """Of so many `elements`, `differ` have other bits, and of these `wrong` are further apart than
    sums in any two orders; the greatest difference in ULP."""

    elements: Count = 0
    differ: Count = 0
    wrong: Count = 0
    ulp: Count = 0

    def __add__(self, other: "Difference") -> "Difference":
        return Difference(
            elements=self.elements + other.elements,
            differ=self.differ + other.differ,
            wrong=self.wrong + other.wrong,
            ulp=max(self.ulp, other.ulp),
        )


class Part(msgspec.Struct, kw_only=True):
    """The elements from `first` on, and the order that explains their sums."""

    first: Count
    order: str


class SizeBits(msgspec.Struct, kw_only=True):
    """A size: a digest of all ranks' results, the order of each part of the message, and what was
    compared, by the names of INVARIANCES."""

    size_bytes: Count
    digest: Name  # printable: two others could become one `?`
    parts: list[Part]
    compared: dict[str, Difference]
    chosen: str | None = None


class Threshold(msgspec.Struct, kw_only=True):
    """The size from which on other orders sum than before."""

    size_bytes: Count
    before: list[str]
    after: list[str]


class Error(msgspec.Struct, kw_only=True):
    """Against the exact sum, over the elements of a message: in ULP, and the share of elements that
    are rounded correctly."""

    mean_ulp: NotNegative
    right: NotNegative


class RowBits(msgspec.Struct, kw_only=True):
    """An algorithm in a variant and a datatype. `setting`: the variables that set its library.
    `reason`: why it stopped or has no sizes. `errors` is by the data's signs: `positive` sums do
    not cancel, `signed` ones do."""

    algorithm: str
    variant: str
    datatype: str
    library: str | None = None
    setting: str | None = None
    sizes: list[SizeBits]
    thresholds: list[Threshold] = []
    errors: dict[str, Error] = {}
    reason: str | None = None

    @property
    def key(self) -> tuple[str | None, ...]:
        """What names the same row in another launch, also of another version of a library, or of a
        contender's file with another digest."""
        stem = re.sub(r" \S*\d.*", "", self.library or "")
        return self.algorithm, self.variant, self.datatype, stem, self.setting

    @property
    def name(self) -> str:
        """The library with its version, or the algorithm with a variant other than copied, and the
        setting."""
        variant = "" if self.variant in ("copied", "plain") else self.variant
        return " ".join(filter(None, [self.library or self.algorithm, variant, self.setting]))

    @property
    def differences(self) -> dict[str, list[Difference]]:
        """What was compared at each size, by the names of INVARIANCES."""
        found = dict[str, list[Difference]]()
        for size in self.sizes:
            for name, each in size.compared.items():
                if each.elements:
                    found.setdefault(name, []).append(each)
        return found

    @property
    def orders(self) -> list[str]:
        """Each order of a sum, the most frequent at the smallest sizes first."""
        return [*dict.fromkeys(part.order for size in self.sizes for part in size.parts)]


class BatchBits(msgspec.Struct, kw_only=True):
    """A layer for a batch of so many tokens: a digest of its results, (tokens, hidden), and what
    was compared, by the names of INVARIANCES; `tp` with TP 1 of this launch, `batch` the first
    token
    with a batch of one. `chosen`: what `auto` or a library chose."""

    tokens: Count
    digest: Name
    compared: dict[str, Difference] = {}
    chosen: str | None = None


class TpBits(msgspec.Struct, kw_only=True):
    """A layer split among so many `ranks`. `orders`: by size of a batch, in words, in which order
    the layer's columns are added, {} where that is unknown; equal words only for equal orders.
    `rounds_parts`: whether the ranks' parts are rounded to the datatype before they are added.
    `causes`: of CAUSES, why bits differ from those of TP 1."""

    ranks: Count
    batches: list[BatchBits]
    orders: dict[str, str] = {}
    rounds_parts: bool | None = None
    causes: list[str] = []
    reason: str | None = None


class LayerBits(msgspec.Struct, kw_only=True):
    """A row-parallel layer in one form, variant and datatype, at several numbers of ranks. `inner`:
    the columns of all ranks. `reason`: why it stopped, or has no numbers of ranks."""

    layer: str
    model: str
    hidden: Count
    inner: Count
    weights: str
    algorithm: str
    variant: str
    datatype: str
    library: str | None = None
    setting: str | None = None
    tps: list[TpBits]
    reason: str | None = None


class Bits(msgspec.Struct, kw_only=True):
    """A launch of bench.bits. `data` names the way to draw the inputs: a change of it changes all
    bits, and only launches with one `data` and one seed can be compared."""

    schema: Annotated[int, msgspec.Meta(le=SCHEMA)] = SCHEMA
    run_id: str
    version: str
    argv: list[str]
    collective: Name
    ranks: Count
    hosts: Count
    device: str
    seed: Count
    data: str
    machine_id: Name
    software_id: str
    environment: dict[str, Any]
    rows: list[RowBits]
    layers: list[LayerBits] = []
    notes: list[str] = []
    elapsed_s: NotNegative

    @property
    def sizes(self) -> dict[tuple[Any, int], SizeBits]:
        """The sizes of all rows, by the row's key and the size in bytes."""
        return {(row.key, size.size_bytes): size for row in self.rows for size in row.sizes}

    @property
    def measured(self) -> list[RowBits]:
        """The rows with sizes."""
        return [row for row in self.rows if row.sizes]

    @property
    def reasons(self) -> list[str]:
        """Why rows stopped or have no sizes."""
        return [f"{row.name}: {row.reason}" for row in self.rows if row.reason]

    @property
    def failed(self) -> list[RowBits]:
        """The measured rows that stopped: whatever they have not compared, nobody knows."""
        return [row for row in self.measured if row.reason]


def read_bits(path: Path) -> Bits:
    """The record in a file. Raises ResultError for another file, and for a newer schema."""
    try:
        fields = untrusted.printable_in(msgspec.json.decode(content_of(path, MOST_BYTES)))
        record = msgspec.convert(fields, Bits)
    except NOT_JSON as error:
        raise ResultError(f"{path} is not a record of {BENCH}bits ({error})") from error

    if not record.sizes:
        raise ResultError(f"{path}: no row has a size")
    if len(record.sizes) < sum(len(row.sizes) for row in record.rows):
        raise ResultError(f"{path}: a row has a size twice")

    return record


def unequal(one: Bits, other: Bits, names: Sequence[str] = COMPARABLE) -> list[str]:
    """The facts that must be equal and differ."""
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def compare_launch(record: Bits, folder: Path) -> None:
    """Compares each size of each row with the newest launch in the folder that has the same, by
    their digests: `launch` counts sizes, not elements. A file that is no record is left out, with a
    note."""
    wanted = record.sizes
    for path in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        if not wanted:
            return
        try:
            earlier = read_bits(path)
        except ResultError as error:
            record.notes.append(f"left out: {error}")
            continue
        if unequal(earlier, record, (*COMPARABLE, "software_id", "version")):
            continue
        for key, size in earlier.sizes.items():
            if now := wanted.pop(key, None):
                now.compared["launch"] = Difference(elements=1)
                if now.digest != size.digest:
                    now.compared["launch"].differ = 1
