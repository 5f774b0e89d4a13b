"""The one table of models that the benchmarks of layers and the advice read."""

import pytest

from collectives.layers.model_step import ROW_BLOCKS
from collectives.models import MODELS, ROWS
from reports.advice import specs

pytestmark = pytest.mark.unit


def test_the_columns_are_those_of_the_published_matrices():
    """A step with other matrices than the model's answers for no model."""
    mixture, gemma = MODELS["qwen3.6-35b-a3b"], MODELS["gemma-4-31b"]
    assert mixture.columns("mlp_down") == (8 + 1) * 512  # eight experts and the shared one
    assert mixture.columns("attention_output", ranks=2) == 16 * 256 // 2
    assert (gemma.columns("attention_output"), gemma.columns("gate_up")) == (8192, 2 * 21504)
    assert MODELS["mixtral-8x22b"].columns("mlp_down") == 2 * 16384


def test_every_model_names_its_source_and_both_sides_know_it():
    """A row that only one side can read, or that nobody can check."""
    assert ROWS.keys() == MODELS.keys() == specs.MODELS.keys()
    assert all("/" in row["source"] for row in ROWS.values())
    for name, model in MODELS.items():
        assert specs.MODELS[name].hidden == model.hidden
        assert model.hidden % ROW_BLOCKS == 0
