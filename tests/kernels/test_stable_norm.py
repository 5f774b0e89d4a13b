"""The norm of stable bits against numpy, bit by bit: on the CPU at 1, 2, 4 and 8 ranks and on the
software GPU in blocks of several sizes; tests/emulated has machine code of GPUs."""

import json
from dataclasses import replace
from functools import partial
from itertools import chain, product

import numpy as np
import pytest

from kernels.devices.cpu import CpuDevice
from tests.fake_gpu import environment
from tests.launch import few, printed
from tests.ranks.sanitized_ranks import open_bed
from tests.ranks.stable_rows import (
    TOKENS,
    TYPES,
    digest,
    drawn,
    fused_squares,
    results,
    squares_in_chains,
    tree,
)

RANKS = 4, 1, 8, 2


def assert_alike(found, expected):
    for rank, arrays in enumerate(found):
        for array, wanted, what in zip(arrays, expected, ("normed rows", "residual"), strict=True):
            assert array.tobytes() == wanted.tobytes(), f"rank {rank}: other bits of {what}"


@pytest.mark.parametrize(("ranks", "name"), few(product(RANKS, TYPES), 12))
def test_all_numbers_of_ranks_have_the_bits_of_numpy(ranks, name):
    """From 1 to 8 tokens, and in one launch as in two."""
    bed = open_bed([CpuDevice()] * ranks, 1)
    for tokens in (1, TOKENS, 8):
        rows = drawn(name, tokens)
        assert_alike(results(bed.worlds, rows), rows.expected())
    assert_alike(results(bed.worlds, rows, from_sums=True), rows.expected())


@pytest.mark.parametrize("name", TYPES)
def test_the_scales_of_int8_rows_multiply_the_root(name):
    rows = drawn(name, scaled=True)
    bed = open_bed([CpuDevice()] * 2, 1)
    assert_alike(results(bed.worlds, rows), rows.expected())


def test_a_software_gpu_has_them_in_blocks_of_any_size():
    """Of a few threads, of no power of two, and of more than a row has packs in a period."""
    words = "-m", "tests.ranks.stable_rows", "hip", "4", "96", "512"
    said = printed(
        2,
        *words,
        **environment(
            vendor="hip",
            sms=4,
            threads=512,
        ),
    )
    for name, digests in json.loads(said).items():
        assert set(chain(*digests)) == {digest(drawn(name).expected())}, name


def with_residual_in_a_part(rows):
    """The first rank adds the residual to its part."""
    parts, nothing = rows.parts(2), replace(rows, residual=np.zeros_like(rows.residual))
    parts[0] += rows.decoded(rows.residual)
    return nothing.from_sums(rows.rounded(tree(parts)))


WRONG = {
    "squares fused with their addition": lambda rows: rows.expected(fused_squares),
    "256 chains": lambda rows: rows.expected(partial(squares_in_chains, chains=256)),
    "the sum is not rounded before the residual": lambda rows: rows.from_sums(rows.sums()),
    "a part has the residual": with_residual_in_a_part,
    "leaves in a row": lambda rows: rows.from_sums(rows.rounded(np.sum(rows.leaves, axis=0))),
}  # fmt: skip


# Squares of 16 bits are exact in fp32, and float32 has nothing to round.
SHOWN = {
    "squares fused with their addition": ("float32",),
    "the sum is not rounded before the residual": ("float16", "bfloat16"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_kernel_with_a_mistake_would_have_other_bits(mistake):
    changed = {
        name
        for name in TYPES
        if digest(WRONG[mistake](drawn(name))) != digest(drawn(name).expected())
    }
    assert changed == {*SHOWN.get(mistake, TYPES)}
