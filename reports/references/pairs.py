"""Published pairs in `pairs.csv`: the same model, weights and engine on one machine in several
arrangements. Whose figures may set a constant is in `pairs.toml`; `comparisons` compares rows."""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from reports.references.published import FOLDER, cells_of, draft_tokens
from wiretax.common.untrusted import printable_in
from wiretax.record.result import ResultError

RULES = msgspec.toml.decode((FOLDER / "pairs.toml").read_bytes())
COLUMNS = (
    "pair_id",
    "machine",
    "gpu",
    "gpus",
    "link",
    "p2p",
    "model",
    "weights",
    "engine",
    "version",
    "split",
    "concurrency",
    "context_tokens",
    "draft",
    "decode_tok_s",
    "prefill_tok_s",
    "date",
    "source",
    "note",
)
FILLED = "pair_id", "machine", "gpu", "model", "split", "source"  # of every row
SHOWN_LETTERS = 60  # of a damaged cell

SplitKind = Literal[
    "single", "layer", "pipeline", "tensor", "row", "graph", "data", "tensor+pipeline", "unknown"
]
WITH_ALL_REDUCES = "tensor", "row", "graph", "tensor+pipeline"
OnOff = Literal["on", "off", "unknown"]


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is divided: `replicas` x `data` x `stages` x `tensor` cards. Within `data` ranks
    attention is replicated, and the experts are divided; `experts` ranks hold different experts;
    `contexts` ranks divide a stream's cache. `layer` (llama.cpp) and `pipeline` have stages; `row`
    (llama.cpp) and `graph` (ik_llama.cpp) are other splits by tensor. `variant` is what else the
    source says, `kernel` the part of it that does not tell the way between the cards."""

    kind: SplitKind
    tensor: int = 1
    stages: int = 1
    replicas: int = 1
    data: int = 1
    experts: int = 1
    contexts: int = 1
    variant: str = ""
    kernel: str = ""

    @property
    def gpus(self) -> int:
        return self.tensor * self.stages * self.replicas * self.data

    @property
    def has_all_reduces(self) -> bool:
        return self.kind in WITH_ALL_REDUCES and self.tensor > 1


class PairRow(msgspec.Struct, frozen=True, kw_only=True):
    """A published figure. `family` are the pairs of one machine and model: they differ in load or
    drafter. `fabric` is named as in calls.csv, `path` is what else the source says of the link.
    `decode_tok_s` is the sum of all `streams`, which are None where nobody printed them, or `most`
    where the source says max or peak. `drafter` is `none` where nothing proposed tokens, `unknown`
    where nobody says. `line` counts the file's lines from 1."""

    pair_id: str
    family: str
    owner: str
    machine: str
    gpu: str
    gpus: int | None
    fabric: str
    path: str
    peer_access: OnOff
    model: str
    weights: str
    engine: str
    version: str
    split: Split
    streams: int | Literal["most"] | None
    context_tokens: int | None
    drafter: str
    replay: Literal["graph", "eager", "unknown"]
    decode_tok_s: float | None
    prefill_tok_s: float | None
    grade: str
    date: str
    source: str
    note: str
    line: int

    @property
    def kind(self) -> str:
        return "" if self.split.kind == "unknown" else self.split.kind

    @property
    def draft_tokens(self) -> int | None:
        """How many tokens the drafter proposed a step; None if the source does not say."""
        return draft_tokens(self.drafter)

    @property
    def is_fitted(self) -> bool:
        return may_fit(self.owner)


@cache
def pairs() -> Sequence[PairRow]:
    return read_pairs()


def read_pairs(path: Path = FOLDER / "pairs.csv") -> list[PairRow]:
    """The rows of a table. Raises ResultError for a file that cannot be read, and for damaged
    rows, of which it names the first three."""
    rows, damaged = sound_rows(path)
    if damaged:
        more = f"; and {len(damaged) - 3} more damaged rows" if len(damaged) > 3 else ""
        raise ResultError(f"{path}: {'; '.join(damaged[:3])}{more}")
    return rows


def sound_rows(path: Path) -> tuple[list[PairRow], list[str]]:
    """The rows of a table that can be read, and a sentence for each damaged one. Raises ResultError
    for a file that is no such table."""
    columns, found = cells_of(path)
    if missing := [column for column in COLUMNS if column not in columns]:
        raise ResultError(f"{path} lacks the columns {', '.join(missing)}")
    rows, damaged = list[PairRow](), list[str]()
    for line, cells in found:
        try:
            rows.append(_row(cells, line))
        except ValueError as error:
            damaged.append(f"line {line}: {error}")
    return _with_replay_of_pair(rows), damaged


def _row(cells: dict[Any, Any], line: int) -> PairRow:
    """The row of these cells. Raises ValueError, a sentence."""
    if None in cells or None in cells.values():
        raise ValueError(f"it has not the {len(COLUMNS)} cells of the header")
    cells = {column: text.strip() for column, text in printable_in(cells).items()}
    for column in FILLED:
        if not cells[column]:
            raise ValueError(f"it has no {column}")
    if not (number := re.fullmatch(r"([A-Za-z]*\d+)[a-z]?", cells["pair_id"])):
        raise ValueError(f"pair_id {_shown(cells['pair_id'])} is no number with a letter")

    gpus = _count(cells, "gpus", least=1)
    if gpus and gpus > 1024:
        raise ValueError(f"{gpus} gpus are more than 1024")
    split = split_of(cells["split"], gpus)
    grade = re.match(r"\[([A-Z])\]", cells["note"])
    drafter = {"off": "none", "": "unknown"}.get(cells["draft"].lower(), cells["draft"])
    fabric, path = fabric_of(cells["link"], cells["gpu"])
    return PairRow(
        pair_id=cells["pair_id"],
        family=number[1],
        owner=owner_of(cells["machine"], cells["source"]),
        machine=cells["machine"],
        gpu=cells["gpu"],
        gpus=gpus,
        fabric=fabric,
        path=path,
        peer_access=_peer_access(cells["p2p"]),
        model=cells["model"],
        weights=cells["weights"],
        engine=cells["engine"],
        version=cells["version"],
        split=split,
        streams=_streams(cells),
        context_tokens=_count(cells, "context_tokens", least=0),
        drafter=drafter,
        replay=_replay(cells["note"], split.variant),
        decode_tok_s=_rate(cells, "decode_tok_s"),
        prefill_tok_s=_rate(cells, "prefill_tok_s"),
        grade=grade[1] if grade else "",
        date=cells["date"],
        source=cells["source"],
        note=cells["note"],
        line=line,
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_LETTERS else text[:SHOWN_LETTERS] + "...")


def _count(cells: dict[str, str], column: str, least: int) -> int | None:
    text = cells[column]
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise ValueError(f"{column} {_shown(text)} is no whole number from {least}")
    return int(text)


def _rate(cells: dict[str, str], column: str) -> float | None:
    text = cells[column]
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not float(text):
        raise ValueError(f"{column} {_shown(text)} is no number above 0")
    return float(text)


def _streams(cells: dict[str, str]) -> int | Literal["most"] | None:
    if cells["concurrency"].lower() in ("peak", "max"):
        return "most"
    return _count(cells, "concurrency", least=1)


def _peer_access(text: str) -> OnOff:
    """A word at the head, as in `on inside an island`."""
    head = text.lower().split(" ")[0]
    return "on" if head == "on" else "off" if head == "off" else "unknown"


def _replay(note: str, variant: str) -> Literal["graph", "eager", "unknown"]:
    """Whether the source says that steps were replayed from a graph. A clause of a note says it
    alone; in a longer one the word may be about another run."""
    words = [clause.strip().lower() for clause in re.split(r"[;,]", variant)]
    words += [
        clause.strip().lower()
        for clause in re.split(r"[;,.:]\s|[;,.:]$", re.sub(r"^\[\w\]\s*", "", note))
    ]
    for word in words:
        if re.fullmatch(r"(--enforce-)?eager( mode)?( v[01])?|(no|without) (\w+ )?graphs?", word):
            return "eager"
        if re.fullmatch(r"((cuda|hip|full|piecewise) ?)?graphs?( on| mode| replay)?", word):
            return "graph"
    return "unknown"


def _with_replay_of_pair(rows: Sequence[PairRow]) -> list[PairRow]:
    """Sources say once for all rows of a pair whether a graph was replayed: a row that says nothing
    has what the others of its engine say, if they agree."""
    said = dict[Any, set[str]]()
    for row in rows:
        said.setdefault(_engine_key(row), set()).add(row.replay)
    known = {key: words - {"unknown"} for key, words in said.items()}
    return [
        msgspec.structs.replace(row, replay=next(iter(words)))
        if row.replay == "unknown" and len(words := known[_engine_key(row)]) == 1
        else row
        for row in rows
    ]


def _engine_key(row: PairRow) -> tuple[str, ...]:
    return row.pair_id, row.engine, row.version


def fabric_of(link: str, gpu: str) -> tuple[str, str]:
    """The slowest link that a source names, in the words of calls.csv, and what else it says, such
    as the switch that joins two cards: `pcie3 x16 (PEX 8747)`."""
    text = link.lower()
    if re.search(r"\broce\b|ethernet|infiniband|\d+ ?gbe\b|network", text):
        return "network", ""
    if "xgmi" in text and "no xgmi" not in text:
        return "xGMI", ""
    switch = re.search(r"\b(pix|phb|node|sys|mixed|plx|pex ?\d*|switch)\b", text)
    path = switch[0] if switch else ""
    slots = re.findall(r"pcie ?(?:gen ?)?([1-6])(?:\.0)?(?: ?x(1|2|4|8|16)\b)?", text)
    if re.search("nvlink|nvswitch", text) and "no nvlink" not in text and not slots:
        generation = re.search(r"nvlink ?([1-6])\b", text)
        known = [n for word, n in RULES["nvlink"].items() if word.lower() in gpu.lower()]
        found = generation[1] if generation else known[0] if known else None
        return (f"NVLink {found}" if found else "unknown"), ""
    if slots:
        # A lane of each generation has twice the bandwidth of one before.
        speeds = [(2 ** int(n) * int(lanes or 16), n, lanes) for n, lanes in slots]
        _, generation, lanes = min(speeds)
        return (f"PCIe {generation} x{lanes}" if lanes else f"PCIe {generation}"), path
    return ("PCIe", path) if text.startswith("pcie") and "sxm" not in text else ("unknown", "")


def split_of(text: str, gpus: int | None) -> Split:
    """The split that a source names, such as `tp8 pp2, NCCL` or `replicas 2 x tp2`. Of a split that
    is not known, or does not divide so many cards, the kind is `unknown`."""
    rest = text.lower()
    replicas = 1
    if many := re.match(r"replicas (\d{1,4}) x |(\d{1,4}) replicas of |(\d{1,4}) ?x ", rest):
        replicas, rest = int(many[1] or many[2] or many[3]), rest[many.end() :]
    cards = (gpus or 1) // max(replicas, 1)  # of a replica
    head = re.match(
        r"(?P<single>single)\b|(?P<row>row)(-era tensor split)?-?(?P<rows>\d*)\b|(?P<layer>layer)\b"
        r"|(?P<pipeline>pipeline)\b|(?P<graph>graph)\b"
        r"|(?P<tensor>tensor)(?:[- ]parallel| split)?-?(?P<tensors>\d*)\b"
        r"|(?=(tp|pp|dp|ep|dep|dcp)[ =-]?\d*\b)",
        rest,
    )
    unknown = Split(kind="unknown", variant=text)
    if not head:
        return unknown

    rest, named = rest[head.end() :], head.groupdict()
    kind: SplitKind
    sizes: dict[str, int] = {}
    if named["single"]:
        kind = "single"
    elif named["layer"] or named["pipeline"]:
        kind, sizes = "layer" if named["layer"] else "pipeline", {"stages": cards}
    elif named["row"] or named["graph"] or named["tensor"]:
        kind = "row" if named["row"] else "graph" if named["graph"] else "tensor"
        sizes = {"tensor": int(named["rows"] or named["tensors"] or cards)}
    else:
        fields = {
            "tp": ("tensor",),
            "pp": ("stages",),
            "dp": ("data",),
            "ep": ("experts",),
            "dep": ("data", "experts"),
            "dcp": ("contexts",),
        }
        word = r"[ ,x+/-]*\b(tp|pp|dp|ep|dep|dcp)[ =-]?(\d{1,4}|)\b(?: (?:attention|experts))?"
        while factor := re.match(word, rest):
            rest = rest[factor.end() :]
            size = int(factor[2] or (cards if factor[1] in ("tp", "ep") else 1))
            sizes |= dict.fromkeys(fields[factor[1]], size)
        if "experts" in sizes and not {"tensor", "data"} & {*sizes}:
            sizes["data"] = sizes["experts"]  # attention is replicated
        tensor, stages = sizes.get("tensor", 1) > 1, sizes.get("stages", 1) > 1
        if sizes.get("data", 1) > 1:
            kind = "data"
        elif tensor and stages:
            kind = "tensor+pipeline"
        else:
            kind = "tensor" if tensor else "pipeline" if stages else "single"

    if min(sizes.values(), default=1) < 1 or replicas < 1:
        return unknown
    if kind == "tensor" and gpus is None:
        kind = "unknown"
    variant = text[len(text) - len(rest) :].strip(" ,+")
    if variant.startswith("(") and variant.endswith(")"):
        variant = variant[1:-1]
    split = Split(
        kind=kind, replicas=replicas, variant=variant, kernel=_kernel_of(variant), **sizes
    )
    return split if kind == "unknown" or split.gpus == gpus else unknown


def _kernel_of(variant: str) -> str:
    """What a variant says beside the way between the cards and the replay."""
    for word in sorted(RULES["words"]["transport"], key=len, reverse=True):
        variant = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "", variant, flags=re.IGNORECASE)
    variant = re.sub(r"\b(eager|(cuda |hip )?graphs?)\b", "", variant)
    return re.sub(r"[\s,+()]+", " ", variant).strip()


def owner_of(machine: str, source: str) -> str:
    """Who measured, in lower case: see [owners] in pairs.toml."""
    shared = {name.lower() for name in RULES["owners"]["shared"]}
    github = re.match(r"([A-Za-z0-9](?:[A-Za-z0-9-]*))/[\w.-]+(?:@\S|#\d| docs/| |$)", source)
    owner = github[1].lower() if github else ""
    if owner and owner not in shared:
        return owner
    head = re.match(r"[A-Za-z][\w-]+", machine)
    if owner and head:
        return head[0].lower()
    return re.split(r"[\s,]" if owner else r"[\s,/]", source)[0].lower()


def may_fit(owner: str) -> bool:
    """Whether the figures of an owner may set a constant: see [owners] in pairs.toml."""
    digest = hashlib.new(RULES["owners"]["hash"], owner.lower().encode()).digest()
    return bool(digest[0] % 2 == RULES["owners"]["fitted_parity"])
