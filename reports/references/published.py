"""Published figures with their sources: collectives in `calls.csv`, and from owners' archives in
`contributed.csv`; serving in `serving.csv`; what a source says of a machine's sockets in
`machines.csv`, and cards of one chip in `same_chip.csv`.

Nothing in the tables is computed or estimated: what a source does not say is empty or `unknown`.
docs/references.md has the meaning of the columns."""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

from wiretax.common.grouped import grouped
from wiretax.common.untrusted import printable
from wiretax.record.case import bus_factor
from wiretax.record.result import ResultError, content_of
from wiretax.record.schema import Count

FOLDER = Path(__file__).parent
CONTRIBUTED = FOLDER / "contributed.csv"
MOST_TABLE_BYTES = 10_000_000
# Of PCIe and NVLink the generation, of PCIe also the lanes, as far as the source says. Two cards
# in unlike slots have both: `PCIe 3 x8 + PCIe 1 x4`.
SLOT = r"PCIe [1-6] x(1|2|4|8|16)"
FABRIC = (
    rf"^({SLOT}( \+ {SLOT})?|PCIe( [1-6])?|(NVLink [1-6]|xGMI)( \+ network)?"
    r"|network|mixed|none|unknown)$"
)
# What stands after a drafter's name: `MTP 3`, `MTP-2`, `MTP n-max 2`, `DFlash2 k=7`, `DFlash2 (7
# by default)`.
DRAFT_TOKENS = re.compile(r"(?:[kKnN]=|n-max |[- (])([0-9]{1,3})(?![0-9.])")

# Words in the machine of a contributed row, of how many sockets its cards are spread over.
SOCKETS = {"one socket": 1, "two sockets": 2}

Kind = Literal["library", "tuned", "lossy"]
Transport = Literal["p2p", "host memory", "nvls", "network", "unknown"]
Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e15)]


class Published(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What all rows have."""

    machine: str
    gpu: str
    gpus: Count
    fabric: Annotated[str, msgspec.Meta(pattern=FABRIC)] = "unknown"
    version: str = ""
    power_w: str = ""
    grade: Literal["table", "figure", "hearsay"]
    statistic: str = "unknown"
    date: str = ""
    source: str
    note: str = ""


class PublishedCall(Published, kw_only=True, frozen=True):
    """A figure of a collective: the time in microseconds, the busbw in GB/s, or both, as printed.
    `valid_until` names a change that has landed, from which on the library chooses otherwise. A
    contributed row has the SHA-256 of its archive, who sent it ("" without a name), the ends of the
    95 % interval over its launches, and why it was withdrawn ("" if it counts)."""

    hosts: Count | None = None
    transport: Transport = "unknown"
    protocol: Literal["LL", "LL128", "Simple", "unknown"] = "unknown"
    mode: Literal["eager", "graph", "unknown"] = "unknown"
    kind: Kind
    library: str
    variant: str = ""
    valid_until: str = ""
    collective: str
    datatype: str = ""
    size_bytes: Count | None = None
    time_us: Positive | None = None
    busbw_gb_s: Positive | None = None
    # Of a contributed row alone.
    time_low_us: Positive | None = None
    time_high_us: Positive | None = None
    archive: str = ""
    contributor: str = ""
    withdrawn: str = ""

    @property
    def sender(self) -> str:
        """Whose archive it is: a public name, or `an owner`; "" of a row that was found."""
        return (self.contributor or "an owner") if self.archive else ""

    @property
    def generation(self) -> str:
        """The fabric without its number of lanes."""
        return self.fabric.partition(" x")[0]

    @property
    def is_history(self) -> bool:
        return bool(self.valid_until)

    @property
    def sockets(self) -> int | None:
        """The sockets that its cards are spread over; None if its source does not say."""
        return sockets().get(self.machine)

    @property
    def us(self) -> float:
        """The printed time, or the one that the printed busbw means; NaN without a size."""
        return self.time_us or self._bus_mb() / (self.busbw_gb_s or 1) * 1e3

    @property
    def gb_s(self) -> float:
        """The printed busbw, or the one that the printed time means; NaN without a size."""
        return self.busbw_gb_s or self._bus_mb() / (self.time_us or 1) * 1e3

    def _bus_mb(self) -> float:
        factor = bus_factor(self.collective, self.gpus)
        return (self.size_bytes or float("nan")) * factor / 1e6


class PublishedServing(Published, kw_only=True, frozen=True):
    """A figure of an engine's decode and prefill in tokens/s; of several `streams` their sum.
    A `drafter` proposes tokens, so that a step makes several; without one it is `none`.
    `total_tok_s` counts prompt and generated tokens together, and is no figure of decode."""

    peer_access: Literal["on", "off", "unknown"]
    model: str
    weights: str
    engine: str
    replay: Literal["graph", "eager", "unknown"] = "unknown"
    split: Literal["tp2", "tp3", "tp4", "pp2", "layer", "tensor", "single"]
    all_reduce: str = ""
    drafter: str = ""
    streams: Count | None = None
    context_tokens: Count | None = None
    decode_tok_s: Positive | None = None
    prefill_tok_s: Positive | None = None
    total_tok_s: Positive | None = None
    tpot_ms: Positive | None = None
    ttft_ms: Positive | None = None


class Machine(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a source says of a machine of `calls.csv`."""

    machine: str
    sockets: Count
    source: str


class SameChip(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A card without rows of its own, a published one with the same chip, and what that has more or
    less."""

    card: str
    published: str
    chip: str
    difference: str
    source: str


AnyRow = TypeVar("AnyRow", PublishedCall, PublishedServing)
TableRow = TypeVar("TableRow", bound=msgspec.Struct)
OfMachine = TypeVar("OfMachine")


def cells_of(path: Path) -> tuple[Sequence[str], list[tuple[int, dict[Any, Any]]]]:
    """The columns of a table, and its rows: their last line in the file, and the cells by column;
    None stands for a cell that is missing, and under None are those that are too many. Raises
    ResultError for a file that is no table."""
    try:
        text = content_of(path, MOST_TABLE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ResultError(f"{path} is no table: it is not UTF-8 (byte {error.start})") from error

    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return table.fieldnames or (), [(table.line_num, cells) for cells in table]
    except csv.Error as error:
        raise ResultError(f"{path} is no table: {error}, line {table.line_num + 1}") from error


def read_table(path: Path, kind: type[list[TableRow]], least_rows: int = 1) -> list[TableRow]:
    """The rows of a table, their texts printable. Raises ResultError for a damaged table, or one
    with too few rows, and names the line of a row that is damaged or has no source."""
    [row_kind], rows = get_args(kind), list[TableRow]()
    _, found = cells_of(path)
    if len(found) < least_rows:
        raise ResultError(f"{path} has no rows")
    for line, cells in found:
        if None in cells:
            raise ResultError(f"{path}, line {line}: it has more cells than the table has columns")
        clean = {
            name: printable(cell) for name, cell in cells.items() if cell and not cell.isspace()
        }
        try:
            rows.append(msgspec.convert(clean, row_kind, strict=False))
        except msgspec.ValidationError as error:
            raise ResultError(f"{path}, line {line}: {printable(str(error))}") from error
    return rows


@cache
def calls() -> Sequence[PublishedCall]:
    """What counts: rows that were found, and those of archives that were not withdrawn."""
    found = read_table(FOLDER / "calls.csv", list[PublishedCall])
    return [*found, *(row for row in contributed() if not row.withdrawn)]


@cache
def contributed() -> Sequence[PublishedCall]:
    """The rows that owners' archives gave, in the order in which they came in."""
    return read_table(CONTRIBUTED, list[PublishedCall], least_rows=0)


@cache
def serving() -> Sequence[PublishedServing]:
    return read_table(FOLDER / "serving.csv", list[PublishedServing])


@cache
def sockets() -> Mapping[str, int]:
    rows = read_table(FOLDER / "machines.csv", list[Machine])
    told = {
        row.machine: number
        for row in contributed()
        for words, number in SOCKETS.items()
        if f", {words}" in row.machine
    }
    return told | {row.machine: row.sockets for row in rows}


@cache
def same_chips() -> Sequence[SameChip]:
    return read_table(FOLDER / "same_chip.csv", list[SameChip])


def select(rows: Iterable[AnyRow], **values: Collection[Any]) -> list[AnyRow]:
    """The rows whose fields are among these values, such as `fabric={"PCIe 4 x8"},
    library={"rccl"}`."""
    return [row for row in rows if all(getattr(row, name) in of for name, of in values.items())]


def draft_tokens(drafter: str) -> int | None:
    """How many tokens a drafter proposes a step: 7 of `DFlash2 k=7`, 0 of `none` and `off`. A step
    then reduces one more. None if the words do not tell."""
    if drafter.lower() in ("none", "off"):
        return 0
    found = DRAFT_TOKENS.search(drafter)
    return int(found[1]) if found else None


def near_size(rows: Iterable[PublishedCall], size_bytes: int) -> list[PublishedCall]:
    """The rows of this size; if nobody measured it, those from half to twice of it."""
    near = [row for row in rows if size_bytes / 2 <= (row.size_bytes or 0) <= size_bytes * 2]
    return select(near, size_bytes={size_bytes}) or near


def votes(rows: Iterable[OfMachine], value: Callable[[OfMachine], float]) -> dict[str, float]:
    """One value a machine, the median of its rows, which name it: who printed many rows votes
    once."""
    machines = grouped(rows, attrgetter("machine"))
    return {name: median(map(value, own)) for name, own in machines.items()}


@cache
def cards() -> Mapping[str, Sequence[str]]:
    """The words of each card's name."""
    return words_of(call.gpu for call in calls())


def words_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The words of each name of a card."""
    return {name: re.findall("[a-z0-9]+", name.lower()) for name in {*names} - {"none", "unknown"}}


def cards_named(name: str, among: Mapping[str, Sequence[str]] | None = None) -> set[str]:
    """The cards that a user or a driver means by a name: the longest whose words stand in it in
    this order, or else all that have all of its words. `among` are the words of the names; by
    default of the cards with published collectives."""
    known = cards() if among is None else among
    text = name[:80].lower()
    wanted = {*re.findall("[a-z0-9]+", text)}
    inside = [
        card
        for card, words in known.items()
        if re.search(rf"(?<![a-z0-9]){'.*?'.join(words)}(?![a-z0-9])", text)
    ]
    if inside:
        return {max(inside, key=len)}
    return {card for card, words in known.items() if wanted and wanted <= {*words}}


def meant_cards(
    name: str, among: Mapping[str, Sequence[str]] | None = None
) -> tuple[set[str], list[str]]:
    """As `cards_named`; or else a published card of the same chip, and a sentence that says so."""
    if found := cards_named(name, among):
        return found, []
    twins = [
        row for row in of_same_chip(name) if row.published in (cards() if among is None else among)
    ]
    texts = [
        f"the {row.published}, the same chip ({row.chip}) with {row.difference}" for row in twins
    ]
    whose = ", and of ".join(texts)
    said = [f"No row of the {twins[0].card} is published: these are of {whose}."] if twins else []
    return {row.published for row in twins}, said


def of_same_chip(name: str) -> list[SameChip]:
    """What stands in for a card of this name, with or without its vendor's words."""

    def bare(text: str) -> str:
        return re.sub("amd|nvidia|radeon|geforce|pro(?![a-z])|[^a-z0-9]", "", text[:80].lower())

    return [row for row in same_chips() if bare(row.card) == bare(name)]
