"""The matrices of a model's step fit the memory that a rank has."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.layers import steps
from collectives.collective import DATATYPES
from collectives.layers.models import LAYERS

pytestmark = pytest.mark.unit

MEMORY_BYTES = 80 << 30


@pytest.mark.parametrize("sharers", [1, 2])
def test_ranks_that_share_a_gpu_share_its_memory(monkeypatch, sharers):
    """Two ranks on an H100 had asked for 24 GB twice each."""

    def net(world: object, model: Any, layers: int, held: int, *rest: object) -> tuple[Any, int]:
        return model, held

    monkeypatch.setattr(steps, "Net", net)
    monkeypatch.setattr(steps, "scale_for", lambda options, session: 1.0)
    session: Any = SimpleNamespace(
        world=SimpleNamespace(
            device=SimpleNamespace(facts={"memory_bytes": MEMORY_BYTES}, sharers=sharers)
        ),
        communicator=SimpleNamespace(
            size=2, all_gather=lambda value: [value], together=lambda *types: nullcontext()
        ),
        flight=SimpleNamespace(note=lambda step, text: None),
        options=SimpleNamespace(command="decode", seed=0),
    )
    options: Any = SimpleNamespace(model="llama-3.1-70b", datatype="float32")
    model, held = cast(
        tuple[Any, int], steps.open_net(options, session, 1000, DATATYPES["float16"])
    )
    layer_bytes = 2 * model.hidden * sum(model.columns(layer, 2, 1.0) for layer in LAYERS)
    room_of_a_rank = steps.ROOM * MEMORY_BYTES / sharers
    assert room_of_a_rank - 2 * layer_bytes < 2 * held * layer_bytes <= room_of_a_rank
