"""The one table of models that the benchmarks of layers and the advice read."""

import pytest

from collectives.layers.step_weights import ROW_BLOCKS
from collectives.models import MODELS, ROWS

pytestmark = pytest.mark.unit


def test_the_columns_are_those_of_the_published_matrices():
    """A step with other matrices than the model's answers for no model."""
    mixture, gemma = MODELS["qwen3.6-35b-a3b"], MODELS["gemma-4-31b"]
    assert mixture.columns("mlp_down") == (8 + 1) * 512  # eight experts and the shared one
    assert mixture.columns("attention_output", ranks=2) == 16 * 256 // 2
    assert (gemma.columns("attention_output"), gemma.columns("gate_up")) == (8192, 2 * 21504)
    assert MODELS["mixtral-8x22b"].columns("mlp_down") == 2 * 16384
    assert all("/" in row["source"] for row in ROWS.values())  # so that somebody can check it
    assert not any(model.hidden % ROW_BLOCKS for model in MODELS.values())


def test_the_benchmarks_of_layers_offer_only_matrices_that_the_fields_tell():
    """A step of a model with latent attention would be one of matrices that it has not."""
    assert "deepseek-v3" in ROWS
    assert not {"deepseek-v3", "kimi-k2", "deepseek-v4-flash", "devstral-2-123b"} & {*MODELS}
    assert {"glm-4.5-air", "qwen3-235b-a22b"} <= {*MODELS}
