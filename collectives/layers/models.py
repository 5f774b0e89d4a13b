"""The linear layers of public models; the figures are from each model's public `config.json`.

In a mixture of experts a token uses the layers of `top_k` experts, and their outputs add up: they
count as one layer with `top_k` times the columns."""

from dataclasses import dataclass

UNIT_COLUMNS = 64  # a rank's columns are a multiple of this
LAYERS = ("attention_output", "mlp_down")  # row-parallel: the ranks' outputs are summed
COLUMN_LAYERS = ("qkv", "gate_up")  # column-parallel: every rank needs all inputs


@dataclass(frozen=True)
class Model:
    """`hidden` elements of a token; heads of `head` elements; `intermediate` ones in an MLP."""

    hidden: int
    layers: int
    heads: int
    head: int
    intermediate: int
    kv_heads: int = 8
    top_k: int = 1

    def columns(self, layer: str, ranks: int = 1, scale: float = 1.0) -> int:
        """A rank's inputs (row-parallel) or outputs (column-parallel), in units of UNIT_COLUMNS."""
        total = {
            "attention_output": self.heads * self.head,
            "mlp_down": self.top_k * self.intermediate,
            "qkv": (self.heads + 2 * self.kv_heads) * self.head,
            "gate_up": 2 * self.top_k * self.intermediate,
        }[layer]
        return max(1, -(-int(total * scale) // (ranks * UNIT_COLUMNS))) * UNIT_COLUMNS


MODELS = {
    "llama-3.1-8b": Model(4096, 32, 32, 128, 14336),
    "llama-3.1-70b": Model(8192, 80, 64, 128, 28672),
    "llama-3.1-405b": Model(16384, 126, 128, 128, 53248),
    "qwen2.5-72b": Model(8192, 80, 64, 128, 29568),
    "qwen3-32b": Model(5120, 64, 64, 128, 25600),
    "mixtral-8x7b": Model(4096, 32, 32, 128, 14336, top_k=2),
    "mixtral-8x22b": Model(6144, 56, 48, 128, 16384, top_k=2),
}
