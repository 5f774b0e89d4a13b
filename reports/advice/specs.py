"""GPUs and links by name from `specs.toml`, models from the table in `collectives` or from a
`config.json` on disk. Names may be those of owners, shops and drivers."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from collectives.models import ROWS, Count, Model
from reports.advice import given_card, names
from reports.advice.spans import Cases
from wiretax.common.arguments import unknown
from wiretax.common.untrusted import printable
from wiretax.record.result import NOT_JSON, ResultError, content_of
from wiretax.record.schema import NotNegative

GB = 1e9
MOST_PARAMETERS = 1e14  # the largest that are published have a few 1e12
MOST_EXPERTS = 2048  # of a layer; the most that are published are 512, and each choice is drawn
ELEMENT_BYTES = 2  # an activation in fp16 or bf16
# Fields of attention or experts that the formulas in serving.py do not cover.
UNSUPPORTED = (
    "kv_lora_rank",
    "n_routed_experts",
    "state_size",
    "ssm_cfg",
    "linear_num_value_heads",
    "shared_expert_intermediate_size",
    "n_shared_experts",
    "interleave_moe_layer_step",
)

Spec = TypeVar("Spec")


class Transformer(Model, kw_only=True):
    """A model by the fields of its config.json on Hugging Face; a dense model has one expert.
    `kv_layers` of the layers cache keys and values of the whole context, with the `global_` heads;
    if there is a `sliding_window`, the others cache so many tokens. `parameters` is the published
    number if the other fields do not determine it, `active_parameters` that of a token. With latent
    attention a layer caches `latent` + `rotated` elements a token, once for all ranks. `assumed`
    names the fields that nobody published."""

    name: str = ""
    vocab: Count = msgspec.field(name="vocab_size")
    experts: Count = msgspec.field(name="num_experts", default=1)
    num_local_experts: Count = 0
    tied: Any = msgspec.field(name="tie_word_embeddings", default=False)
    kv_layers: Count = 0
    layer_types: tuple[str, ...] = ()
    global_kv_heads: Count = msgspec.field(name="num_global_key_value_heads", default=0)
    global_head_dim: Count = 0
    sliding_window: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    parameters: NotNegative = 0
    active_parameters: NotNegative = 0
    dense_layers: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = msgspec.field(
        name="first_k_dense_replace", default=0
    )
    latent: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = msgspec.field(
        name="kv_lora_rank", default=0
    )
    rotated: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = msgspec.field(
        name="qk_rope_head_dim", default=0
    )
    cache_bytes_per_token: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    assumed: tuple[str, ...] = ()
    source: str = ""
    expert_share: float = 0  # of the parameters
    active_share: float = 0  # of the parameters that one token is multiplied with
    kv_bytes_per_token: int = 0
    window_bytes_per_token: int = 0  # beside it, up to `sliding_window` tokens
    # Of a tensor-parallel step.
    all_reduces: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0

    def __post_init__(self) -> None:
        self.kv_heads = self.kv_heads or self.heads
        self.head = self.head or max(1, self.hidden // self.heads)
        self.experts = self.num_local_experts or self.experts
        self.global_kv_heads = self.global_kv_heads or self.kv_heads
        self.global_head_dim = self.global_head_dim or self.head
        full_layers = self.layer_types.count("full_attention")
        self.kv_layers = self.kv_layers or full_layers or self.layers
        # Norms, biases and routers are less than 0.1 %. An expert has three matrices a layer.
        attention = 2 * (self.heads + self.kv_heads) * self.head * self.hidden * self.layers
        layers = max(1, self.layers - self.dense_layers)
        experts = 3 * self.intermediate * self.hidden * layers * self.experts
        embedding = (1 if self.tied is True else 2) * self.vocab * self.hidden
        self.parameters = self.parameters or attention + experts + embedding
        self.expert_share = experts / self.parameters
        if self.active_parameters and self.top_k < self.experts:
            # The share of experts that leaves so many to a token.
            unused = 1 - self.active_parameters / self.parameters
            self.expert_share = unused / (1 - self.top_k / self.experts)
        self.active_share = 1 - self.expert_share * (1 - self.top_k / self.experts)
        # Keys and values (grouped queries: Ainslie et al., EMNLP 2023).
        elements = self.kv_layers * self.global_kv_heads * self.global_head_dim
        self.kv_bytes_per_token = self.cache_bytes_per_token or 2 * elements * ELEMENT_BYTES
        if self.latent:  # DeepSeek-V2, 2024, section 2.1
            self.global_kv_heads = 1
            self.kv_bytes_per_token = self.layers * (self.latent + self.rotated) * ELEMENT_BYTES
        if self.sliding_window:
            elements = (self.layers - self.kv_layers) * self.kv_heads * self.head
            self.window_bytes_per_token = 2 * elements * ELEMENT_BYTES
        # After attention and after the MLP (Shoeybi et al., Megatron-LM, 2019, section 3).
        self.all_reduces = self.all_reduces or 2 * self.layers

    def all_reduce_bytes(self, tokens: float) -> int:
        return round(tokens * self.hidden * ELEMENT_BYTES)

    def cached_bytes(self, context: int) -> int:
        """The keys and values of a stream with so many tokens."""
        windowed = self.window_bytes_per_token * min(context, self.sliding_window)
        return self.kv_bytes_per_token * context + windowed


@dataclass(frozen=True)
class Gpu:
    """A data sheet with dense TFLOP/s, and TOP/s in int8 where it has no fp8. `slot` and `peer`
    name links, `library` the vendor's collectives. `peer_access` says whether its driver joins
    slots without host memory, and `peer_access_asked` whether the user says so. Of a card by its
    figures `tdp_w` may be None."""

    name: str
    memory_gb: float
    bandwidth_gb_s: float
    fp16_tflops: float
    tdp_w: float | None
    slot: str
    source: str
    fp8_tflops: float | None = None
    int8_tops: float | None = None
    peer: str | None = None
    library: str = "nccl"
    peer_access: bool = True
    peer_access_asked: bool = False

    @property
    def library_name(self) -> str:
        """As its vendor writes it."""
        return "oneCCL" if self.library == "oneccl" else self.library.upper()


@dataclass(frozen=True)
class CardLink:
    """`gb_s` is one direction between two GPUs; a `mesh` has such a link to each peer. `fabric`
    is its name in the tables of published figures."""

    name: str
    fabric: str
    gb_s: float
    source: str
    mesh: bool = False
    most_gpus: int = 64

    def total_gb_s(self, gpus: int) -> float:
        """GB/s that a GPU can send to all its peers together."""
        return self.gb_s * (gpus - 1 if self.mesh else 1)


@dataclass(frozen=True)
class Route:
    """A way between two cards, beside what one card reaches: how many times as long a hop takes,
    and which shares of the bandwidth stores and loads have."""

    title: str
    hop: Cases
    store: Cases
    load: Cases


SECTIONS = msgspec.toml.decode((Path(__file__).parent / "specs.toml").read_bytes())


def entries(rows: Mapping[str, dict[str, Any]], kind: type[Spec]) -> dict[str, Spec]:
    """The rows of a table by lower-case name."""
    return {key: msgspec.convert({"name": key} | fields, kind) for key, fields in rows.items()}


def find(kind: str, known: Mapping[str, Spec], name: str) -> Spec:
    """The entry of a name in any case. Raises ResultError, which names the `kind`, without one."""
    key = name.lower()
    if key in known:
        return known[key]

    raise ResultError(unknown(kind, printable(name[:80]), sorted(known)))


MODELS, GPUS = entries(ROWS, Transformer), entries(SECTIONS["gpus"], Gpu)
SLOTS = {
    f"pcie{generation}x{lanes}": CardLink(
        name=f"pcie{generation}x{lanes}",
        fabric=f"PCIe {generation} x{lanes}",
        gb_s=row["gb_s"] * lanes / max(SECTIONS["pcie"]["lanes"]),
        source=row["source"].format(lanes="1 lane" if lanes == 1 else f"{lanes} lanes"),
    )
    for generation, row in SECTIONS["pcie"]["generations"].items()
    for lanes in SECTIONS["pcie"]["lanes"]
}
LINKS = SLOTS | entries(SECTIONS["links"], CardLink)
ROUTES = entries(SECTIONS["routes"], Route)
BITS: dict[str, float] = SECTIONS["bits"]
CALLED: dict[str, dict[str, str]] = SECTIONS["called"]  # other words, by the kind
ENGINE = SECTIONS["engine"]
ENGINES: dict[str, str] = SECTIONS["engines"]


def engine_calls(model: Transformer) -> int:
    """The all-reduces of a step as the engine of `specs.toml` makes them."""
    return model.all_reduces + int(ENGINE["more_calls"])


def engine_text(model: Transformer) -> str:
    """`vLLM makes 161 (1 more for the embeddings ...)`."""
    calls, more = engine_calls(model), ENGINE["more_calls"]
    return f"{ENGINE['name']} makes {calls} ({more} more {ENGINE['source']})"


def link_between(gpu: Gpu, gpus: int) -> CardLink:
    """The link that joins this number of GPUs directly; their slots' if they have no other."""
    peer = LINKS[gpu.peer or gpu.slot]
    return peer if gpus <= peer.most_gpus else LINKS[gpu.slot]


def _called(known: Mapping[str, Spec], kind: str) -> list[tuple[str, Spec]]:
    """The entries of a table by their own names and by the other words for them."""
    others = CALLED[kind].items()
    return [*known.items(), *((word, known[name]) for word, name in others)]


@cache
def sheet_of(name: str) -> Gpu | None:
    """The data sheet of the card that a driver, an owner or a shop names so; None if no sheet has
    all words of it and the memory that it says, or if it names unlike cards."""
    key = names.card_named(name, {word: gpu.memory_gb for word, gpu in _called(GPUS, "gpus")})
    return GPUS[CALLED["gpus"].get(key, key)] if key else None


def gpu_of(name: str) -> Gpu:
    """The GPU of a name as here, or as shops and drivers write it, or of its figures. Raises
    ResultError for another text, and for unlike cards."""
    if sheet := sheet_of(name):
        return sheet
    if fields := given_card.fields_of(name, LINKS):
        return Gpu(**fields)
    shown = printable(name[:80])
    parts = [part.strip() for part in name.split("+")]
    if len(parts) > 1 and all(map(sheet_of, parts)):
        raise ResultError(
            f"{shown!r} are unlike cards, and the arithmetic is of cards of one kind: ask about "
            "each, or about as many of the slower"
        )
    raise ResultError(
        f"{_unknown('GPU', shown, GPUS)}, or give its figures, such as {given_card.FORM}"
    )


def with_peer_access(gpu: Gpu, asked: str | None) -> Gpu:
    """The card as the user says that its driver joins it: `on` with a patched driver, `off` through
    host memory, so that its other links are not used either."""
    if asked is None:
        return gpu
    peer = gpu.peer if asked == "on" else None
    return replace(gpu, peer=peer, peer_access=asked == "on", peer_access_asked=True)


def _unknown(kind: str, shown: str, known: Iterable[str]) -> str:
    near = get_close_matches(shown.lower(), known, n=3, cutoff=0.75)
    guess = f": did you mean {' or '.join(near)}?" if near else ""
    return f"unknown {kind} {shown!r}{guess}"


def link_by_name(name: str) -> CardLink:
    """The link of a name in any case; of a slot also such as `PCIe 4.0 x4`. Raises ResultError
    without a guess: a near name has half of the bandwidth, or twice of it."""
    slot = re.fullmatch(r"(?:pcie)? ?(?:gen)? ?(\d)(?:\.0)?[ -]?x ?(\d{1,2})", name.strip().lower())
    key = f"pcie{slot[1]}x{slot[2]}" if slot else name.strip().lower()
    if key in LINKS:
        return LINKS[key]
    generations, lanes = SECTIONS["pcie"]["generations"], SECTIONS["pcie"]["lanes"]
    others = ", ".join(sorted({*LINKS} - {*SLOTS}))
    raise ResultError(
        f"unknown link {printable(name[:80])!r}: slots are such as pcie4x8, of PCIe "
        f"{min(generations)} to {max(generations)} with {', '.join(map(str, lanes))} lanes; other "
        f"links are {others}"
    )


@cache
def model_called(name: str) -> Transformer | None:
    """The model that an owner names so, such as `Qwen3.8-27B-Heretic`; None if no model has all
    words of it and the size that it says."""
    billions = {
        word: (model.parameters / GB, model.active_share * model.parameters / GB)
        for word, model in _called(MODELS, "models")
    }
    key = names.model_named(name, billions)
    return MODELS[CALLED["models"].get(key, key)] if key else None


def model_by_name(name: str) -> Transformer:
    """The model of a name as here, or as owners write it. Raises ResultError without one."""
    return model_called(name) or find("model", MODELS, name)


# 42.5GB, 50.63 GiB or 13,115 MiB
SIZE = r"(?<![\w.,-])(\d{1,3}(?:,\d{3})+|\d{1,7})(\.\d{1,3})? ?([GM])(i?)B\b"


def weights_called(text: str) -> str | None:
    """What `--weights` takes for an owner's words: the size in them, such as `50.63 GiB`, or the
    type; None where neither stands there."""
    if size := re.search(SIZE, text[:80], re.IGNORECASE):
        unit = {"g": 1e9, "m": 1e6, "gi": 2**30, "mi": 2**20}[size[3].lower() + size[4].lower()]
        size_gb = float(size[1].replace(",", "") + (size[2] or "")) * unit / GB
        return f"{size_gb:.3f}GB" if size_gb >= 0.001 else None
    if bits := re.search(r"(?<![\w.])(\d{1,2}(?:\.\d{1,4})?) ?bpw\b", text[:80], re.IGNORECASE):
        return f"{bits[1]}bpw" if 0 < float(bits[1]) <= 64 else None
    kind = names.type_named(text, [*BITS, *CALLED["bits"]])
    return CALLED["bits"].get(kind, kind) if kind else None


def bits_of(name: str) -> float:
    """Bits a weight of a type such as q4_k_m, `UD-Q4_K_XL` or `6.0bpw`. Raises ResultError for
    another text."""
    kind = weights_called(name)
    if kind and kind.endswith("bpw"):
        return float(kind.removesuffix("bpw"))
    if kind in BITS:
        return BITS[kind]
    near = _unknown(
        "weights, neither a type nor a size above 0 such as 42.5GB,",
        printable(name[:80]),
        [*BITS, *CALLED["bits"]],
    )
    raise ResultError(
        f"{near}; types are such as q4_k_m, nvfp4, fp8, bf16 and 6.0bpw; of a file "
        "give its size in GB or GiB"
    )


def convert(raw: Any, kind: type[Spec], place: str) -> Spec:
    """`raw` as a structure. Raises ResultError, which names `place`."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        fields, known = getattr(kind, "__struct_fields__", ()), ""
        if fields and "unknown field" in str(error) and " - at `" not in str(error):
            known = f": the fields are {', '.join(fields)}"
        raise ResultError(f"{place}: {error}{known}") from error


def model_of(path: Path) -> Transformer:
    """The model of a `config.json` or of its `text_config`. Raises ResultError if the file is
    damaged, lacks a field or has a field that the formulas do not cover."""
    try:
        raw = msgspec.json.decode(content_of(path, most_bytes=1_000_000))
    except NOT_JSON as error:
        raise ResultError(f"{path} is not JSON ({error})") from error

    if isinstance(raw, dict):
        raw = raw["text_config"] if isinstance(raw.get("text_config"), dict) else raw
        raw = {field: value for field, value in raw.items() if value is not None}

    model = convert(raw, Transformer, str(path))
    problems = {
        f"{field}, which the formulas do not cover": raw.get(field) for field in UNSUPPORTED
    } | {
        "no moe_intermediate_size or intermediate_size": not model.intermediate,
        "experts but no num_experts_per_tok": model.experts > 1
        and "num_experts_per_tok" not in raw,
        f"{model.heads} heads for {model.kv_heads} KV heads": model.heads % model.kv_heads,
        "more experts for a token than experts": model.top_k > model.experts,
        f"{model.experts} experts, which no model has": model.experts > MOST_EXPERTS,
        "more layers of a kind than layers": max(model.kv_layers, model.dense_layers)
        > model.layers,
        "more active parameters than parameters": model.active_parameters > model.parameters,
        f"{model.parameters:.3g} parameters, which no model has": not 1e5
        <= model.parameters
        <= MOST_PARAMETERS,
    }

    for problem in filter(problems.get, problems):
        raise ResultError(f"{path} has {problem}")

    model.name, model.source = printable(path.parent.name or path.name), ""
    model.assumed = ()
    return model
