"""Models, GPUs and links by name from `specs.toml`, and models from a `config.json` on disk."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil, comb
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from reports.store.foreign import printable
from reports.store.result import NOT_JSON, ResultError, content_of

MOST_CONFIG_BYTES = 1_000_000
ELEMENT_BYTES = 2  # an activation in fp16 or bf16
# Fields of attention or experts that the formulas in serving.py do not cover.
UNSUPPORTED = (
    "kv_lora_rank", "n_routed_experts", "state_size", "ssm_cfg", "linear_num_value_heads",
    "shared_expert_intermediate_size", "n_shared_experts", "interleave_moe_layer_step")

Count = Annotated[int, msgspec.Meta(gt=0, le=10**9)]
Spec = TypeVar("Spec")


@dataclass(frozen=True)
class Model:
    """A transformer; a dense model has one expert.

    `hidden`, `head_dim` and `intermediate` count elements; a token uses `top_k` of `experts`.
    `kv_layers` of the layers cache keys and values (None: all). `stated` is the published number of
    parameters if the other fields do not determine it.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    source: str
    experts: int = 1
    top_k: int = 1
    kv_layers: int | None = None
    stated: float | None = None
    tied: bool = False

    @property
    def cached_layers(self) -> int:
        """The layers that cache keys and values."""
        return self.kv_layers or self.layers

    @property
    def expert_parameters(self) -> float:
        """The parameters of all experts of all layers: three matrices each."""
        return 3.0 * self.layers * self.experts * self.hidden * self.intermediate

    @property
    def parameters(self) -> float:
        """All parameters but norms, biases and routers, which are less than 0.1 %."""
        heads = 2 * (self.heads + self.kv_heads)
        attention = self.layers * self.hidden * heads * self.head_dim
        embedding = (1 if self.tied else 2) * self.vocab * self.hidden
        return self.stated or attention + self.expert_parameters + embedding

    @property
    def expert_share(self) -> float:
        """The share of the parameters that belongs to experts."""
        return self.expert_parameters / self.parameters

    @property
    def active_share(self) -> float:
        """The share of the parameters that one token is multiplied with."""
        return 1 - self.expert_share * (1 - self.top_k / self.experts)

    def touched_experts(self, tokens: float) -> float:
        """Experts of a layer that at least one token uses, if all are equally likely:
        E (1 - (1 - k/E)^tokens)."""
        return self.experts * (1 - float((1 - self.top_k / self.experts) ** tokens))

    @property
    def kv_bytes_per_token(self) -> int:
        """2 x layers x KV heads x head size x 2 B (grouped queries: Ainslie et al., EMNLP 2023)."""
        return 2 * self.cached_layers * self.kv_heads * self.head_dim * ELEMENT_BYTES

    def kv_share(self, gpus: int) -> float:
        """The share of the KV heads on a GPU of a tensor split: at least one head."""
        return ceil(self.kv_heads / gpus) / self.kv_heads

    def activation_bytes(self, tokens: int, gpus: int = 1) -> float:
        """Activations of a GPU while `tokens` pass a layer that is split over `gpus`: the residual,
        its norm, and the GPU's share of queries, keys, values, gate and up."""
        attention = (self.heads + 2 * self.kv_heads) * self.head_dim
        share = (attention + 2 * self.top_k * self.intermediate) / gpus
        return tokens * ELEMENT_BYTES * (2 * self.hidden + share)

    @property
    def all_reduces(self) -> int:
        """All-reduces of a tensor-parallel step: one after attention and one after the MLP of each
        layer (Shoeybi et al., Megatron-LM, 2019, section 3)."""
        return 2 * self.layers

    def all_reduce_bytes(self, tokens: float) -> int:
        return round(tokens * self.hidden * ELEMENT_BYTES)

    def dispatch_bytes(self, gpus: int, tokens: float, shared: bool = False) -> float:
        """Bytes that a rank sends to experts on other ranks, without skew; combine returns as many.

        A token sends top_k x (n-1)/n copies. With `shared` it sends one copy to each rank that has
        at least one of its experts: (n-1) x (1 - C(E - E/n, k) / C(E, k)).
        """
        copies = self.top_k * (gpus - 1) / gpus
        if shared:
            others = self.experts - self.experts // gpus
            copies = (gpus - 1) * (1 - comb(others, self.top_k) / comb(self.experts, self.top_k))
        return tokens * copies * self.hidden * ELEMENT_BYTES


@dataclass(frozen=True)
class Gpu:
    """A data sheet with dense TFLOP/s; `slot` and `peer` name links."""

    name: str
    memory_gb: float
    bandwidth_gb_s: float
    fp16_tflops: float
    tdp_w: float
    slot: str
    source: str
    fp8_tflops: float | None = None
    peer: str | None = None


@dataclass(frozen=True)
class Link:
    """`gb_s` is one direction between two GPUs, `step_us` the latency of a ring step; a `mesh` has
    such a link to each peer."""

    name: str
    gb_s: float
    both_ways_gb_s: float
    step_us: float
    source: str
    mesh: bool = False
    most_gpus: int = 64

    def total_gb_s(self, gpus: int) -> float:
        """GB/s that a GPU can send to all its peers together."""
        return self.gb_s * (gpus - 1 if self.mesh else 1)


@dataclass(frozen=True)
class Tables:
    """The tables of `specs.toml` by lower-case name."""

    bits: dict[str, float]
    models: dict[str, Model]
    gpus: dict[str, Gpu]
    links: dict[str, Link]


@cache
def tables() -> Tables:
    raw = msgspec.toml.decode((Path(__file__).parent / "specs.toml").read_bytes())
    for table in ("models", "gpus", "links"):
        for name, fields in raw[table].items():
            fields["name"] = name
    return msgspec.convert(raw, Tables)


def model(name: str) -> Model:
    """A model of `specs.toml`. Raises ResultError for an unknown one, as the next three do."""
    return _named("model", name, tables().models)


def gpu(name: str) -> Gpu:
    return _named("GPU", name, tables().gpus)


def link(name: str) -> Link:
    return _named("link", name, tables().links)


def link_between(gpu: Gpu, gpus: int) -> Link:
    """The link that joins this number of GPUs directly; their slots' if they have no other."""
    peer = link(gpu.peer or gpu.slot)
    return peer if gpus <= peer.most_gpus else link(gpu.slot)


def bits(weights: str) -> float:
    """Bits per weight of a type such as `q4`."""
    return _named("weights", weights, tables().bits)


def _named(kind: str, name: str, entries: Mapping[str, Spec]) -> Spec:
    if name.lower() in entries:
        return entries[name.lower()]
    hint = close_names(name.lower(), entries, 0.4) or f"known are {', '.join(sorted(entries))}"
    raise ResultError(f"unknown {kind} {printable(name[:80])!r}; {hint}")


def close_names(name: str, names: Collection[str], cutoff: float = 0.6) -> str:
    """`did you mean A or B?`, empty if no name is close."""
    close = difflib.get_close_matches(name, sorted(names), n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else ""


def convert(raw: Any, kind: type[Spec], place: str, names: Collection[str] = ()) -> Spec:
    """`raw` as a structure; `names` are known fields. Raises ResultError, which names `place`."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        unknown = re.search("unknown field `(.*?)`", str(error))
        hint = f"; {close_names(unknown[1], names)}" if unknown else ""
        raise ResultError(f"{place}: {error}{hint}".rstrip("; ")) from error


class Config(msgspec.Struct):
    """The fields of a Hugging Face model's config.json that the formulas use."""

    num_hidden_layers: Count
    hidden_size: Count
    num_attention_heads: Count
    vocab_size: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    intermediate_size: Count | None = None
    moe_intermediate_size: Count | None = None
    num_experts: Count | None = None
    num_local_experts: Count | None = None
    num_experts_per_tok: Count | None = None
    tie_word_embeddings: Any = None


def model_of(path: Path) -> Model:
    """The model of a `config.json` or of its `text_config`. Raises ResultError if the file is
    damaged, lacks a field or has a field that the formulas do not cover."""
    try:
        raw = msgspec.json.decode(content_of(path, MOST_CONFIG_BYTES))
    except NOT_JSON as error:
        raise ResultError(f"{path} is not JSON ({error})") from error
    if isinstance(raw, dict) and isinstance(raw.get("text_config"), dict):
        raw = raw["text_config"]
    config = convert(raw, Config, str(path))
    heads, top_k = config.num_attention_heads, config.num_experts_per_tok or 1
    kv_heads = config.num_key_value_heads or heads
    experts = config.num_local_experts or config.num_experts or 1
    intermediate = config.moe_intermediate_size or config.intermediate_size or 0
    problems = {
        **{f"{field}: the formulas do not cover such attention or experts": raw.get(field)
           for field in UNSUPPORTED},
        "no moe_intermediate_size or intermediate_size": not intermediate,
        "experts but no num_experts_per_tok": experts > 1 and not config.num_experts_per_tok,
        f"{heads} heads, no multiple of its {kv_heads} KV heads": heads % kv_heads,
        "more experts for a token than experts": top_k > experts}
    for problem, is_there in problems.items():
        if is_there:
            raise ResultError(f"{path} has {problem}")
    return Model(printable(path.parent.name or path.name), config.num_hidden_layers,
                 config.hidden_size, heads, kv_heads,
                 config.head_dim or max(1, config.hidden_size // heads), intermediate,
                 config.vocab_size, "its config.json", experts, top_k,
                 tied=config.tie_word_embeddings is True)
