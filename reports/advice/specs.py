"""What is known of models, GPUs and links: `specs.toml`, in which every figure has its source, and the `config.json`
of a model on disk. A name that is unknown is refused with the names that are near it.
"""

from __future__ import annotations

import difflib
import sys
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
MOST = 10**9  # of any whole number in a model's config
OPTIONAL = {"kv_heads", "head_dim", "experts", "top_k"}
# Where a config.json has the fields of a Model; names of several families.
FIELDS = {"layers": ("num_hidden_layers",), "hidden": ("hidden_size",), "heads": ("num_attention_heads",),
          "kv_heads": ("num_key_value_heads",), "head_dim": ("head_dim",),
          "intermediate": ("moe_intermediate_size", "intermediate_size"), "vocab": ("vocab_size",),
          "experts": ("num_local_experts", "num_experts"), "top_k": ("num_experts_per_tok",)}
# What makes a cache, or layers, of another kind than these formulas are about.
OTHER_KINDS = ("kv_lora_rank", "n_routed_experts", "state_size", "ssm_cfg", "linear_num_value_heads",
               "shared_expert_intermediate_size", "n_shared_experts", "interleave_moe_layer_step")


@dataclass(frozen=True)
class Model:
    """A transformer: `hidden` elements of a token between layers, `heads` of `head_dim` elements, `kv_heads` of them
    of keys and of values each, `intermediate` columns of an MLP or of one of `experts`, `top_k` of which a token uses.
    A dense model has one expert. `kv_layers` keep keys and values, None: all. `stated` is the number of parameters
    where the fields do not give it."""

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
    def expert_parameters(self) -> float:
        """Of all experts of all layers: three matrices each."""
        return 3.0 * self.layers * self.experts * self.hidden * self.intermediate

    @property
    def parameters(self) -> float:
        """All: attention, MLPs or experts, and the embedding, twice unless `tied`. Norms, biases and routers, less
        than 0.1 %, are left out."""
        attention = self.layers * self.hidden * 2 * (self.heads + self.kv_heads) * self.head_dim
        return self.stated or attention + self.expert_parameters + (1 if self.tied else 2) * self.vocab * self.hidden


@dataclass(frozen=True)
class Gpu:
    """A data sheet: GB, GB/s, dense TFLOP/s and W; `slot` and `peer` name links."""

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
    """GB/s one way between two GPUs, and as advertised, both ways; `step_us` is the latency of a step of a ring. A
    bridge joins two GPUs and no more."""

    name: str
    gb_s: float
    both_ways_gb_s: float
    step_us: float
    source: str
    mesh: bool = False
    most_gpus: int = 64


Spec = TypeVar("Spec", Model, Gpu, Link)


def from_toml(content: bytes) -> dict[str, Any]:
    """A file of TOML. Raises ValueError for what is none."""
    return tomllib.loads(content.decode())


@cache
def tables() -> dict[str, Any]:
    """`specs.toml` as it stands."""
    return from_toml((Path(__file__).parent / "specs.toml").read_bytes())


def bits(weights: str) -> float:
    """Bits a weight of `q4`, `q8`, `fp8`, `fp16` or `bf16`."""
    return float(tables()["bits"][near("weights", weights, tables()["bits"])])


def near(what: str, name: str, known: Any) -> str:
    """`name`, where it is known, in any case. Raises ResultError with the names that are near it."""
    if name.lower() in known:
        return name.lower()
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4)
    said = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(sorted(known))}"
    raise ResultError(f"unknown {what} {printable(name[:80])!r}; {said}")


def _found(kind: type[Spec], what: str, name: str) -> Spec:
    known = tables()[f"{what.lower()}s"]
    name = near(what, name, known)
    return kind(name=name, **known[name])


def model(name: str) -> Model:
    """A model of `specs.toml`. Raises ResultError for an unknown one."""
    return _found(Model, "model", name)


def gpu(name: str) -> Gpu:
    """A GPU of `specs.toml`. Raises ResultError for an unknown one."""
    return _found(Gpu, "GPU", name)


def link(name: str) -> Link:
    """A link of `specs.toml`. Raises ResultError for an unknown one."""
    return _found(Link, "link", name)


def gpus() -> list[Gpu]:
    """All GPUs of `specs.toml`."""
    return [gpu(name) for name in tables()["gpus"]]


def model_of(path: Path) -> Model:
    """The model whose `config.json` this is. Raises ResultError where that is not one, or lacks what is needed."""
    try:
        raw = msgspec.json.decode(content_of(path, MOST_CONFIG_BYTES))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ResultError(f"{path} is not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise ResultError(f"{path} is not a model's config.json: it holds no object")
    raw = raw["text_config"] if isinstance(raw.get("text_config"), dict) else raw
    if other := next((name for name in OTHER_KINDS if raw.get(name)), None):
        raise ResultError(f"{path} has {other}: a kind of attention or experts that these formulas are not about")
    found = {field: value for field, names in FIELDS.items() if (value := _whole(path, raw, names)) is not None}
    missing = [" or ".join(names) for field, names in FIELDS.items() if field not in found and field not in OPTIONAL]
    if missing:
        raise ResultError(f"{path} lacks {', '.join(missing)}")
    if found.get("experts", 1) > 1 and "top_k" not in found:
        raise ResultError(f"{path} has experts and lacks {FIELDS['top_k'][0]}")
    found.setdefault("kv_heads", found["heads"])
    found.setdefault("head_dim", max(1, found["hidden"] // found["heads"]))
    if found["heads"] % found["kv_heads"]:
        raise ResultError(f"{path}: {found['heads']} heads are no multiple of {found['kv_heads']} KV heads")
    if found.get("experts", 1) < found.get("top_k", 1):
        raise ResultError(f"{path}: a token uses more experts than there are")
    return Model(name=printable(path.parent.name or path.name), source="its config.json",
                 tied=raw.get("tie_word_embeddings") is True, **found)


def _whole(path: Path, raw: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of these fields, None where there is none. Raises ResultError where it is no whole number above 0."""
    name = next((name for name in names if raw.get(name) is not None), None)
    if name is None:
        return None
    value = raw[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST:
        raise ResultError(f"{path}: {name} is not a whole number from 1 to {MOST}")
    return value
