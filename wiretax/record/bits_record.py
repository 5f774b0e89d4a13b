"""The record of `bench.bits`, one JSON object in `<run_id>.bits.json`: which bits each algorithm
gives at each size, and what changes them. docs/results.md describes the fields."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from wiretax.common import untrusted
from wiretax.common.program import BENCH
from wiretax.record.result import NOT_JSON, ResultError, content_of
from wiretax.record.schema import NotNegative

SCHEMA, SUFFIX = 1, ".bits.json"
ACCEPTED_BITS, ACCEPTED_NOTE = "bits", "accepted: "  # the folder of `accept`, and its reason
COMPARABLE = "collective", "seed", "data"  # equal in both records
# Too, but for layers alone: each has results at several of them, and fused_stable the same on all.
OF_ONE_WORLD = "device", "ranks", "hosts"
MOST_BYTES = 20_000_000
TPS = 1, 2, 4, 8  # ranks that share a layer; a launch has those that it has ranks for
Count = Annotated[int, msgspec.Meta(ge=0, lt=10**18)]
Positive = Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
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
    "tp": "at another number of ranks than one",
    "batch": "in a batch of more tokens",
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

    def __post_init__(self) -> None:
        if not self.wrong <= self.differ <= self.elements:
            raise ValueError("more elements differ than were compared")

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


class BatchBits(msgspec.Struct, kw_only=True):
    """A layer for a batch of so many tokens: a digest of rank 0's results, (tokens, hidden), and
    what was compared, by the names of INVARIANCES; `tp` with TP 1 of this launch, `batch` the first
    and the last token, which are alike, with a batch of one, and the others with a shorter batch.
    `chosen`: what `auto` or a library chose."""

    tokens: Positive
    digest: Name
    compared: dict[str, Difference] = {}
    chosen: str | None = None


class SubjectBits(msgspec.Struct, kw_only=True):
    """An algorithm in a variant and a datatype. `setting`: the variables that set its library.
    `reason`: why it stopped or has no results."""

    algorithm: str
    variant: str
    datatype: str
    library: str | None = None
    setting: str | None = None
    reason: str | None = None

    @property
    def key(self) -> tuple[str | int | None, ...]:
        """What names the same row in another launch, also of another version of a library, or of a
        contender's file with another digest."""
        stem = re.sub(r" \S*\d.*", "", self.library or "")
        return self.algorithm, self.variant, self.datatype, stem, self.setting

    @property
    def label(self) -> str:
        """The library with its version, or the algorithm with a variant other than copied, and the
        setting."""
        variant = "" if self.variant in ("copied", "plain") else self.variant
        return " ".join(filter(None, [self.library or self.algorithm, variant, self.setting]))

    @property
    def name(self) -> str:
        """What a reader calls the row."""
        return self.label

    @property
    def results(self) -> Mapping[Any, SizeBits | BatchBits]:
        """What has a digest, by its place in the row."""
        raise NotImplementedError

    @property
    def differences(self) -> dict[str, list[Difference]]:
        """What was compared in each result, by the names of INVARIANCES."""
        found = dict[str, list[Difference]]()
        for result in self.results.values():
            for name, each in result.compared.items():
                if each.elements:
                    found.setdefault(name, []).append(each)
        return found

    @property
    def failure(self) -> str | None:
        """Why a row with results stopped: whatever it has not compared, nobody knows."""
        return self.reason if self.results else None


class RowBits(SubjectBits, kw_only=True):
    """A collective's algorithm at some sizes. `errors` is by the data's signs: `positive` sums do
    not cancel, `signed` ones do."""

    sizes: list[SizeBits]
    thresholds: list[Threshold] = []
    errors: dict[str, Error] = {}

    @property
    def results(self) -> dict[int, SizeBits]:
        """The sizes by their bytes."""
        return {size.size_bytes: size for size in self.sizes}

    @property
    def orders(self) -> list[str]:
        """Each order of a sum, the most frequent at the smallest sizes first."""
        return [*dict.fromkeys(part.order for size in self.sizes for part in size.parts)]


class TpBits(msgspec.Struct, kw_only=True):
    """A layer split among so many `ranks`. `orders`: by the tokens of a batch, in words, in which
    order the layer's columns are added; {} where that is unknown, those of the least and of the
    greatest batch, and the first batch with another order; equal words only for equal orders.
    `rounds_parts`: whether sums are rounded to the datatype before they are added further.
    `causes`: of CAUSES, why bits differ from those of TP 1, or may for other data."""

    ranks: Positive
    batches: list[BatchBits]
    orders: dict[str, str] = {}
    rounds_parts: bool | None = None
    causes: list[str] = []
    reason: str | None = None


class LayerBits(SubjectBits, kw_only=True):
    """A row-parallel layer, at several numbers of ranks. `inner`: the columns of all
    ranks, each with `hidden` rows."""

    layer: Name
    model: Name
    hidden: Count
    inner: Count
    weights: str
    tps: list[TpBits]

    @property
    def key(self) -> tuple[str | int | None, ...]:
        own = self.layer, self.model, self.hidden, self.inner, self.weights
        return *own, *super().key

    @property
    def name(self) -> str:
        return f"{self.layer} {self.label}"

    @property
    def results(self) -> dict[tuple[int, int], BatchBits]:
        """The batches by the number of ranks and their tokens."""
        return {(tp.ranks, batch.tokens): batch for tp in self.tps for batch in tp.batches}

    @property
    def failure(self) -> str | None:
        at_tps = [f"TP {tp.ranks}: {tp.reason}" for tp in self.tps if tp.reason and tp.batches]
        return super().failure or "; ".join(at_tps) or None

    @property
    def at(self) -> dict[int, TpBits]:
        """What was measured, by the number of ranks."""
        return {tp.ranks: tp for tp in self.tps if tp.batches}


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
    def every_row(self) -> list[RowBits | LayerBits]:
        """All rows, of the collective and of layers."""
        return [*self.rows, *self.layers]

    @property
    def results(self) -> dict[tuple[Any, Any], SizeBits | BatchBits]:
        """What has a digest, by the row's key and the place in the row."""
        return {
            (row.key, place): result
            for row in self.every_row
            for place, result in row.results.items()
        }

    @property
    def shapes(self) -> set[str]:
        """The layers, as `llama-3.1-8b-mlp_down-4096x14336`."""
        return {f"{each.model}-{each.layer}-{each.hidden}x{each.inner}" for each in self.layers}

    @property
    def measured(self) -> list[RowBits]:
        """The rows with sizes."""
        return [row for row in self.rows if row.sizes]

    @property
    def measured_layers(self) -> list[LayerBits]:
        """The layers with results."""
        return [layer for layer in self.layers if layer.results]

    @property
    def reasons(self) -> list[str]:
        """Why rows stopped or have no results: each reason once, with the names of its rows, or
        their labels if it is not about a layer's result."""
        found = dict[str, dict[str, None]]()
        for row in self.every_row:
            if reason := row.failure or row.reason:
                found.setdefault(reason, {})[row.name if row.failure else row.label] = None
        return [f"{', '.join(names)}: {reason}" for reason, names in found.items()]

    @property
    def failed(self) -> list[RowBits | LayerBits]:
        """The measured rows that stopped."""
        return [row for row in self.every_row if row.failure]


def read_bits(path: Path) -> Bits:
    """The record in a file. Raises ResultError for another file, and for a newer schema."""
    try:
        fields = untrusted.printable_in(msgspec.json.decode(content_of(path, MOST_BYTES)))
        record = msgspec.convert(fields, Bits)
    except NOT_JSON as error:
        raise ResultError(f"{path} is not a record of {BENCH}bits ({error})") from error

    if not record.results:
        raise ResultError(f"{path}: no row has a size, and no layer a batch")
    tps = [(layer.key, tp) for layer in record.layers for tp in layer.tps]
    unique: dict[str, list[Any]] = {
        "a row has a size": [
            (row.key, size.size_bytes) for row in record.rows for size in row.sizes
        ],
        "a layer has a form": [layer.key for layer in record.layers],
        "a layer has a number of ranks": [(key, tp.ranks) for key, tp in tps],
        "a layer has a batch": [
            (key, tp.ranks, each.tokens) for key, tp in tps for each in tp.batches
        ],
    }
    for said, keys in unique.items():
        if len({*keys}) < len(keys):
            raise ResultError(f"{path}: {said} twice")

    return record


def unequal(one: Bits, other: Bits, *more: str) -> list[str]:
    """The facts that must be equal and differ, of COMPARABLE, OF_ONE_WORLD and `more`."""
    of_world = OF_ONE_WORLD if one.rows or other.rows else ()
    names = *COMPARABLE, *of_world, *more
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def compare_launch(record: Bits, folder: Path) -> None:
    """Compares each result of each row with the newest launch in the folder that has the same, by
    their digests: `launch` counts results, not elements. A file that is no record is left out, with
    a note."""
    wanted = record.results
    for path in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        if not wanted:
            return
        try:
            earlier = read_bits(path)
        except ResultError as error:
            record.notes.append(f"left out: {error}")
            continue
        if unequal(earlier, record, "software_id", "version"):
            continue
        for key, result in earlier.results.items():
            if now := wanted.pop(key, None):
                differ = int(now.digest != result.digest)
                now.compared["launch"] = Difference(elements=1, differ=differ)
