"""A whole step of a model in its stable forms has the same bits at any number of ranks."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from collectives.collective import DATATYPES
from collectives.layers import model_step
from collectives.layers.fused import WEIGHTS
from collectives.layers.overlap import NO_STABLE_MATMUL
from collectives.layers.step_weights import StepWeights
from collectives.models import MODELS
from collectives.operation import Operation, Unsupported, World
from kernels.devices.cpu import CpuDevice
from tests.launch import few
from tests.ranks.sanitized_ranks import open_bed

# Its matrices have 512 and 1,024 columns: eight ranks have whole units of 64.
MODEL = msgspec.structs.replace(
    MODELS["llama-3.1-8b"],
    hidden=192,
    heads=8,
    head=64,
    dense=1024,
    layers=3,
)
TOKENS = 2


@pytest.fixture(autouse=True)
def no_buffer_is_registered(monkeypatch):
    monkeypatch.setattr(World, "allocate", lambda world, size: world.device.private(size))


def weights_of(world, name, weight_type, uses_matmul=False):
    return StepWeights(
        world,
        MODEL,
        MODEL.layers,
        MODEL.layers,
        Fraction(1),
        DATATYPES[name],
        WEIGHTS.get(weight_type, DATATYPES["float32"]),
        uses_matmul,
        seed=3,
    )


def residual_after(ranks, form, name, weight_type):
    """The residual after a step, as stored, which all ranks have, and its share of errors."""
    start = np.random.default_rng(5).standard_normal((TOKENS, MODEL.hidden))
    batches, steps = [], []
    for world in open_bed([CpuDevice()] * ranks, 1).worlds:
        weights = weights_of(world, name, weight_type)
        batch = model_step.TokenBatch(weights, TOKENS)
        _, _, residual, activations = weights.keep[-1]
        residual.write(weights.datatype.encode(start))
        activations.write(weights.datatype.encode(model_step.normed(start)))
        bound = model_step.split_by_tensor(batch, form, "copied")
        assert isinstance(bound, Operation), bound
        batches.append((batch, residual))
        steps.append(world.device.caller(bound.step))
    with ThreadPoolExecutor(ranks) as pool:
        list(pool.map(lambda call: call(), steps))
    [stored] = {residual.read()[: batch.size_bytes].tobytes() for batch, residual in batches}
    values = weights.datatype.decode(np.frombuffer(stored, weights.datatype.storage))
    expected = model_step.reference(weights, start)
    error = np.sqrt(np.mean((values.reshape(start.shape) - expected) ** 2) / np.mean(expected**2))
    return stored, error


@pytest.mark.parametrize(
    ("name", "weight_type"),
    few([("float16", "int8"), ("bfloat16", "float16"), ("float32", "float16")], 1),
)
def test_the_residual_after_a_step_has_the_same_bits_at_any_number_of_ranks(name, weight_type):
    """In both forms, with and without scales of rows; the usual form has others."""
    found = [
        residual_after(ranks, form, name, weight_type)
        for form in model_step.STABLE_FORMS
        for ranks in (1, 2, 4, 8)
    ]
    assert len({stored for stored, _ in found}) == 1
    assert (
        found[0][1]
        < {
            "float32": 1e-6,
            "float16": 1e-3,
            "bfloat16": 1e-2,
        }[name]
    )
    usual = {residual_after(ranks, "gemv_allreduce", name, weight_type)[0] for ranks in (1, 2)}
    assert len(usual) == 2


@pytest.mark.parametrize("form", model_step.STABLE_FORMS)
def test_what_has_no_stable_form_says_why(form):
    def refusal(ranks, **more):
        worlds = open_bed([CpuDevice()] * ranks, 1).worlds
        batch = model_step.TokenBatch(weights_of(worlds[0], "float32", "", **more), TOKENS)
        bound = model_step.split_by_tensor(batch, form, "copied")
        return isinstance(bound, Unsupported) and bound.reason

    assert refusal(3) == "3 ranks cannot share the 8 leaves of a sum: it takes 1, 2, 4 or 8"
    assert refusal(2, uses_matmul=True) == NO_STABLE_MATMUL
