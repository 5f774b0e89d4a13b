"""Models, GPUs and links by name from `specs.toml`, and models from a `config.json` on disk."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from reports.store.foreign import printable
from reports.store.result import ResultError, content_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_CONFIG_BYTES = 1_000_000
MOST = 10**9  # the largest whole number accepted in a config.json
OPTIONAL = {"kv_heads", "head_dim", "experts", "top_k"}
# The names of a Model's fields in the config.json files of several families.
FIELDS = {
    "layers": ("num_hidden_layers",), "hidden": ("hidden_size",), "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads",), "head_dim": ("head_dim",),
    "intermediate": ("moe_intermediate_size", "intermediate_size"), "vocab": ("vocab_size",),
    "experts": ("num_local_experts", "num_experts"), "top_k": ("num_experts_per_tok",)}
# Fields of attention or experts that the formulas in serving.py do not cover.
UNSUPPORTED = (
    "kv_lora_rank", "n_routed_experts", "state_size", "ssm_cfg", "linear_num_value_heads",
    "shared_expert_intermediate_size", "n_shared_experts", "interleave_moe_layer_step")


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
    experts: int = 1
    top_k: int = 1
    kv_layers: int | None = None
    stated: float | None = None
    tied: bool = False
    source: str = ""

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


Spec = TypeVar("Spec", Model, Gpu, Link)


def from_toml(content: bytes) -> dict[str, Any]:
    """The tables of a TOML file. Raises ValueError for anything else."""
    return tomllib.loads(content.decode())


@cache
def tables() -> dict[str, Any]:
    return from_toml((Path(__file__).parent / "specs.toml").read_bytes())


def bits(weights: str) -> float:
    """Bits per weight of a type such as `q4`. Raises ResultError for an unknown one."""
    return float(tables()["bits"][_full_name("weights", weights, tables()["bits"])])


def close_names(name: str, names: Collection[str], cutoff: float = 0.6) -> str:
    """`did you mean A or B?`, empty if no name is close."""
    close = difflib.get_close_matches(name, sorted(names), n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _full_name(kind: str, name: str, names: Collection[str]) -> str:
    if name.lower() in names:
        return name.lower()
    hint = close_names(name.lower(), names, 0.4) or f"known are {', '.join(sorted(names))}"
    raise ResultError(f"unknown {kind} {printable(name[:80])!r}; {hint}")


def _spec(kind: type[Spec], label: str, name: str) -> Spec:
    entries = tables()[f"{label.lower()}s"]
    name = _full_name(label, name, entries)
    return kind(name=name, **entries[name])


def model(name: str) -> Model:
    """A model of `specs.toml`. Raises ResultError for an unknown one, as `gpu` and `link` do."""
    return _spec(Model, "model", name)


def gpu(name: str) -> Gpu:
    return _spec(Gpu, "GPU", name)


def link(name: str) -> Link:
    return _spec(Link, "link", name)


def gpus() -> list[Gpu]:
    return [gpu(name) for name in tables()["gpus"]]


def model_of(path: Path) -> Model:
    """The model of a `config.json`. Raises ResultError if it is damaged or lacks a field."""
    config = _config(path)
    fields = {field: _whole(path, config, names) for field, names in FIELDS.items()}
    missing = [" or ".join(FIELDS[field]) for field, value in fields.items()
               if value is None and field not in OPTIONAL]
    if missing:
        raise ResultError(f"{path} lacks {', '.join(missing)}")
    sizes = {field: value for field, value in fields.items() if value is not None}
    if sizes.get("experts", 1) > 1 and "top_k" not in sizes:
        raise ResultError(f"{path} has experts and lacks {FIELDS['top_k'][0]}")
    sizes.setdefault("kv_heads", sizes["heads"])
    sizes.setdefault("head_dim", max(1, sizes["hidden"] // sizes["heads"]))
    if sizes["heads"] % sizes["kv_heads"]:
        raise ResultError(f"{path}: {sizes['heads']} heads are no multiple of "
                          f"{sizes['kv_heads']} KV heads")
    if sizes.get("experts", 1) < sizes.get("top_k", 1):
        raise ResultError(f"{path}: a token uses more experts than there are")
    return Model(name=printable(path.parent.name or path.name), source="its config.json",
                 tied=config.get("tie_word_embeddings") is True, **sizes)


def _config(path: Path) -> dict[str, Any]:
    """The object of a config.json, or of its `text_config`. Raises ResultError."""
    try:
        raw = msgspec.json.decode(content_of(path, MOST_CONFIG_BYTES))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultError(f"{path} is not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise ResultError(f"{path} is not a model's config.json: it holds no object")
    config: dict[str, Any] = raw
    text_config = config.get("text_config")
    if isinstance(text_config, dict):
        config = text_config
    for field in UNSUPPORTED:
        if config.get(field):
            raise ResultError(f"{path} has {field}: the formulas do not cover such attention or "
                              "experts")
    return config


def _whole(path: Path, config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of these fields that is present. Raises ResultError if it is not a whole number."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST:
            raise ResultError(f"{path}: {name} is not a whole number from 1 to {MOST}")
        return value
    return None
