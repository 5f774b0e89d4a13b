"""The linear layers of public models, by the fields of `models.toml`.

In a mixture of experts a token uses the layers of `top_k` experts, and their outputs add up: they
count as one layer with `top_k` times the columns, and those of an expert that all tokens share. Of
layers with several kinds of attention, all are as wide as most of them."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import msgspec

UNIT_COLUMNS = 64  # a rank's columns are a multiple of this
LAYERS = ("attention_output", "mlp_down")  # row-parallel: the ranks' outputs are summed
COLUMN_LAYERS = ("qkv", "gate_up")  # column-parallel: every rank needs all inputs

Count = Annotated[int, msgspec.Meta(gt=0, le=10**9)]
FIELDS = {  # of a model's config.json, by ours
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head": "head_dim",
    "dense": "intermediate_size",
    "expert": "moe_intermediate_size",
    "shared": "shared_expert_intermediate_size",
    "top_k": "num_experts_per_tok",
}


class Model(msgspec.Struct, kw_only=True, rename=FIELDS):
    """`hidden` elements of a token; heads of `head` elements; `dense` ones in an MLP, in a mixture
    `expert` ones in each of its experts and `shared` ones in that of all tokens. Those that a file
    may lack are 0."""

    hidden: Count
    layers: Count
    heads: Count
    kv_heads: Count = 0
    head: Count = 0
    dense: Count = 0
    expert: Count = 0
    shared: int = 0
    top_k: Count = 1

    @property
    def intermediate(self) -> int:
        """The elements in an MLP, of a mixture in each expert's."""
        return self.expert or self.dense

    def columns(self, layer: str, ranks: int = 1, scale: float | Fraction = 1) -> int:
        """A rank's inputs (row-parallel) or outputs (column-parallel), in units of UNIT_COLUMNS."""
        intermediate = self.top_k * self.intermediate + self.shared
        total = {
            "attention_output": self.heads * self.head,
            "mlp_down": intermediate,
            "qkv": (self.heads + 2 * self.kv_heads) * self.head,
            "gate_up": 2 * intermediate,
        }[layer]
        return max(1, -(-int(total * scale) // (ranks * UNIT_COLUMNS))) * UNIT_COLUMNS


ROWS = msgspec.toml.decode((Path(__file__).parent / "models.toml").read_bytes())
# Latent attention has other matrices, and nobody measures the shapes that somebody assumed.
OTHER_MATRICES = "kv_lora_rank", "cache_bytes_per_token", "assumed"
MODELS = {
    name: msgspec.convert(row, Model)
    for name, row in ROWS.items()
    if not {*OTHER_MATRICES} & {*row}
}
