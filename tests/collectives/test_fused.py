"""Tests the fused kernels: correct, equal on all ranks, and bit-identical to compute followed by a
collective."""

from types import SimpleNamespace
from typing import Any

import pytest

from collectives.collective import DATATYPES
from collectives.layers.fused import COLLECTIVE, FUSED, Gemv, GemvCase, Norm, NormCase
from collectives.operation import Unsupported
from collectives.peer_buffer import ProbeResult
from kernels.devices.device import HALF_BYTES
from tests.launch import assert_right, count, few, printed


@pytest.mark.parametrize(("ranks", "examples"), few([(2, 60), (3, 30), (1, 20)], 2))
def test_every_element_is_correct_and_bit_identical_to_two_launches(ranks, examples):
    assert_right(ranks, "fused", count(examples), str(ranks))


def test_a_norm_has_the_same_bits_up_to_four_ranks_in_any_form_batch_and_place():
    """A model then answers alike whether it runs on three GPUs or on four."""
    types = few(("float32", "bfloat16"), 1)
    command = "tests/ranks/fused_ranks.py", "norms", *types
    [digests] = {printed(ranks, *command) for ranks in few((3, 4, 2), 2)}
    assert len(digests.split()) == 3 * len(types)


def test_tokens_that_do_not_fit_give_one_sentence():
    peers = SimpleNamespace(half_bytes=HALF_BYTES, shown=ProbeResult())
    device = SimpleNamespace(most_chunk_bytes=1 << 30)
    world: Any = SimpleNamespace(ranks=2, peers=peers, shared=peers, device=device)

    def refusal(name: str, case_type: Any, **options: Any) -> object:
        case = case_type(COLLECTIVE[name], 1 << 21, DATATYPES["float32"], "sum", 0, 0, **options)
        return FUSED[name]["fused"].bind(world, case)

    norm = {"norm": Norm(hidden=1 << 20), "summed": 0}
    assert refusal("allreduce_rmsnorm", NormCase, **norm) == Unsupported(
        "a token's 4194304 B are more than a slot of 2097152 B", depends_on_size=True
    )
    wide = {"layer": Gemv(hidden=1 << 21), "tokens": 1, "weight_type": "int8"}
    assert refusal("gemv_allreduce", GemvCase, **wide) == Unsupported(
        "2 ranks' parts of 8388608 B do not fit into a slab", depends_on_size=True
    )
