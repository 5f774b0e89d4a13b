"""GPUs and links by name from `specs.toml`, models from the table in `collectives` or from a
`config.json` on disk."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from collectives.models import ROWS, Count, Model
from reports.advice.spans import Cases
from wiretax.common.arguments import unknown
from wiretax.common.untrusted import printable
from wiretax.record.result import NOT_JSON, ResultError, content_of
from wiretax.record.schema import NotNegative

GB = 1e9
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
    number if the other fields do not determine it."""

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
    expert_share: float = 0  # of the parameters
    active_share: float = 0  # of the parameters that one token is multiplied with
    kv_bytes_per_token: int = 0
    window_bytes_per_token: int = 0  # beside it, up to `sliding_window` tokens
    all_reduces: int = 0  # of a tensor-parallel step

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
        experts = 3 * self.intermediate * self.hidden * self.layers * self.experts
        embedding = (1 if self.tied is True else 2) * self.vocab * self.hidden
        self.parameters = self.parameters or attention + experts + embedding
        self.expert_share = experts / self.parameters
        self.active_share = 1 - self.expert_share * (1 - self.top_k / self.experts)
        # Keys and values (grouped queries: Ainslie et al., EMNLP 2023).
        elements = self.kv_layers * self.global_kv_heads * self.global_head_dim
        self.kv_bytes_per_token = 2 * elements * ELEMENT_BYTES
        if self.sliding_window:
            elements = (self.layers - self.kv_layers) * self.kv_heads * self.head
            self.window_bytes_per_token = 2 * elements * ELEMENT_BYTES
        # After attention and after the MLP (Shoeybi et al., Megatron-LM, 2019, section 3).
        self.all_reduces = 2 * self.layers

    def all_reduce_bytes(self, tokens: float) -> int:
        return round(tokens * self.hidden * ELEMENT_BYTES)

    def cached_bytes(self, context: int) -> int:
        """The keys and values of a stream with so many tokens."""
        windowed = self.window_bytes_per_token * min(context, self.sliding_window)
        return self.kv_bytes_per_token * context + windowed


@dataclass(frozen=True)
class Gpu:
    """A data sheet with dense TFLOP/s; `slot` and `peer` name links. `library` is the vendor's
    collectives; `peer_access` says whether its driver joins slots without host memory."""

    name: str
    memory_gb: float
    bandwidth_gb_s: float
    fp16_tflops: float
    tdp_w: float
    slot: str
    source: str
    fp8_tflops: float | None = None
    peer: str | None = None
    library: str = "nccl"
    peer_access: bool = True


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
LINKS = entries(SECTIONS["links"], CardLink)
ROUTES = entries(SECTIONS["routes"], Route)
BITS: dict[str, float] = SECTIONS["bits"]
ENGINE = SECTIONS["engine"]


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


def sheet_of(name: str) -> Gpu | None:
    """The data sheet of the card that a driver names so; None if no sheet has all words of it."""

    def has(word: str) -> bool:  # as `RTX 5090`, and no longer name: an R9700XT is no R9700
        return bool(re.search("[^a-z0-9]*".join(word) + "(?![a-z0-9])", name[:80].lower()))

    fitting = [key for key in GPUS if all(map(has, key.split("-")))]
    return GPUS[max(fitting, key=len)] if fitting else None


def gpu_of(name: str) -> Gpu:
    """The GPU of a name as here, or as shops and drivers write it. Raises ResultError without."""
    return sheet_of(name) or find("GPU", GPUS, name)


def convert(raw: Any, kind: type[Spec], place: str) -> Spec:
    """`raw` as a structure. Raises ResultError, which names `place`."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ResultError(f"{place}: {error}") from error


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
    }

    for problem in filter(problems.get, problems):
        raise ResultError(f"{path} has {problem}")

    model.name = printable(path.parent.name or path.name)
    return model
