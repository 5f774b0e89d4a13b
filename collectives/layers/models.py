"""The linear layers of public models: those cut by rows, whose outputs the ranks have to add up, and those cut by
columns, for which they have to gather what goes in.

The figures stand in each model's public `config.json`. Of a mixture of experts a token uses the layers of `top_k`
experts, whose outputs add up, so that these count as one of as many columns.
"""

from dataclasses import dataclass

LINES = 64  # columns of a rank's part, and rows, come in whole multiples of this
LAYERS = ("attention_output", "mlp_down")  # cut by rows
COLUMN_LAYERS = ("qkv", "gate_up")  # cut by columns


@dataclass(frozen=True)
class Model:
    """`hidden` elements of a token between layers; `heads` of `head` elements, `kv_heads` of them of keys
    and of values each; `intermediate` elements in an MLP."""

    hidden: int
    layers: int
    heads: int
    head: int
    intermediate: int
    kv_heads: int = 8
    top_k: int = 1

    def inner(self, layer: str, ranks: int = 1, scale: float = 1.0) -> int:
        """Columns that a rank has of one of LAYERS, shrunk by `scale`, and rounded up to whole lines."""
        columns = {"attention_output": self.heads * self.head, "mlp_down": self.top_k * self.intermediate}[layer]
        return _of_a_rank(columns, ranks, scale)

    def outputs(self, layer: str, ranks: int = 1, scale: float = 1.0) -> int:
        """Columns of the output that a rank has of one of COLUMN_LAYERS, likewise."""
        columns = {"qkv": (self.heads + 2 * self.kv_heads) * self.head, "gate_up": 2 * self.top_k * self.intermediate}
        return _of_a_rank(columns[layer], ranks, scale)


def _of_a_rank(columns: int, ranks: int, scale: float) -> int:
    return max(1, -(-int(columns * scale) // (ranks * LINES))) * LINES


MODELS = {
    "llama-3.1-8b": Model(4096, 32, 32, 128, 14336),
    "llama-3.1-70b": Model(8192, 80, 64, 128, 28672),
    "llama-3.1-405b": Model(16384, 126, 128, 128, 53248),
    "qwen2.5-72b": Model(8192, 80, 64, 128, 29568),
    "qwen3-32b": Model(5120, 64, 64, 128, 25600),
    "mixtral-8x7b": Model(4096, 32, 32, 128, 14336, top_k=2),
    "mixtral-8x22b": Model(6144, 56, 48, 128, 16384, top_k=2),
}
