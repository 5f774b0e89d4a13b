"""The stable layer has the bits that numpy computes, at 1, 2, 4 and 8 ranks, whatever the width of
a CPU's vectors and whichever compiler built it; and a kernel with another order has not."""

import shutil
from pathlib import Path

import pytest

from collectives.collective import DATATYPES
from collectives.layers.fused import WEIGHTS
from kernels.devices import cpu
from kernels.devices.layout import SOURCES
from tests.kernels.broken_kernels import Patch, copy_kernels
from tests.launch import FULL, few
from tests.ranks.sanitized_ranks import ExactDevice, open_bed, run_in_threads
from tests.ranks.stable_layer import GAP, LEAVES, Layer, layer_item

RANKS = (1, 2, 4, 8)
TYPES = ("float32", "float16", "bfloat16")
# Columns of a leaf: less than a period of 64 columns, some more, and whole periods.
LEAF_COLUMNS = (8, 72, 16, 56, 24, 200, 128)
# The columns of output projections and down projections (config.json of each model).
MODELS = {
    "Llama-3.2-1B": 2048,
    "Llama-2-7B, down": 11008,
    "Llama-3.1-8B, down": 14336,
    "Mistral-Small-24B, o_proj": 4096,
    "Qwen2.5-0.5B, down": 4864,
    "Qwen2.5-14B": 5120,
}


class OfKernels(ExactDevice):
    """The CPU, over the kernels of a folder."""

    def __init__(self, folder: Path = SOURCES) -> None:
        super().__init__()
        self.folder = folder

    def compile(self, stem, macros, wait=True):
        return cpu.compile_library(self.folder / f"{stem}.cu", macros, wait)


def layers(turns):
    """Each turn has other types, tokens, leaves, rows and places of the vectors."""
    names = [(element, weight) for weight in WEIGHTS for element in TYPES]
    return [
        Layer(
            datatype=DATATYPES[names[turn % 9][0]],
            weight_type=WEIGHTS[names[turn % 9][1]],
            tokens=1 + (turn * 5 + turn // 9) % 8,
            columns=LEAVES * LEAF_COLUMNS[turn % 7],
            hidden=64 * (1 + 2 * (turn % 3)),
            copies=1 + turn % 3,
            gap=GAP * (turn % 2),
            seed=turn,
        )
        for turn in turns
    ]


def wrong_of(ranks, examples, folder=SOURCES):
    """The wrong elements of all ranks, by example."""
    bed = open_bed([OfKernels(folder)] * ranks, 0)
    for number, layer in enumerate(examples):
        layer_item(bed, str(number), layer)
    run_in_threads(bed, [*bed.items])
    assert not any(world.watch.timed_out for world in bed.worlds)
    return [bed.wrong_elements(name) for name in bed.items]


@pytest.mark.parametrize("ranks", RANKS)
def test_every_element_has_the_bits_of_the_order_that_leaves_h_promises(ranks):
    """Three types of elements and of weights, 1 to 8 tokens, leaves that are no whole number of
    periods, NaN and infinity behind a leaf and between vectors."""
    turns = range(72) if FULL else range(RANKS.index(ranks), 9, 3)
    assert not any(wrong_of(ranks, layers(turns)))


@pytest.mark.parametrize("model", few(MODELS, 3))
def test_layers_of_models_have_the_same_bits_at_all_degrees(model):
    number = [*MODELS].index(model)
    layer = Layer(
        datatype=DATATYPES[TYPES[number % 3]],
        weight_type=WEIGHTS["float16"],
        tokens=1 + number % 8,
        columns=MODELS[model],
        seed=number,
    )
    assert not any(wrong_of(ranks, [layer]) != [0] for ranks in few((8, 1, 4, 2), 2))


BUILDS = {
    "AVX2": ["-mno-avx512f"],
    "not fused": ["-ffp-contract=off"],
    "SSE": ["-mno-avx"],
    "clang": [],
    "clang, AVX2": ["-mno-avx512f"],
}


def build_with(monkeypatch, name):
    monkeypatch.setattr(cpu, "FLAGS", [*cpu.FLAGS, *BUILDS[name]])
    if name.startswith("clang"):
        if shutil.which("clang++-22") is None:
            pytest.skip("system tool absent: clang-22")
        monkeypatch.setattr(cpu, "find_compiler", lambda: ["clang++-22"])


@pytest.mark.parametrize("name", BUILDS)
def test_neither_vectors_nor_fused_additions_nor_the_compiler_change_bits(name, monkeypatch):
    build_with(monkeypatch, name)
    turns = range(27) if FULL else (4, 8)
    assert not any(wrong_of(2, layers(turns)))


@pytest.mark.parametrize("exponent", [-70, 62])
def test_products_outside_of_fp32_have_the_same_bits(exponent):
    """A product in bf16 may overflow fp32, or be too small for all of its bits."""
    layer = Layer(
        datatype=DATATYPES["bfloat16"],
        weight_type=WEIGHTS["bfloat16"],
        tokens=2,
        columns=LEAVES * 72,
        exponent=exponent,
    )
    assert not any(wrong_of(2, [layer]))


LEAVES_H, LEAVES_CPU = "kernels/include/leaves.h", "kernels/include/leaves_cpu.h"
NODE = "sums[i] = sums[2 * i] + sums[2 * i + 1];"
LEAF, FIRST = "of_leaves[leaf] =", "first = leaf * columns;"
PART, SUBTREE = (
    "of_rank[r] = load_aligned_pack(parts(r), 0);",
    "reinterpret<floats>(of_rank[r].r[j]);",
)
COLUMNS = f"columns = g.inner / OWN_LEAVES, {FIRST}"
PERIOD = "add(column, Count<N>{}, false);"
SCALED, ROUNDED = "reinterpret<floats>(sums.r[j])", "rounded_to_bfloat16({}) & 0xffff0000u"
SCALE = "reinterpret<floats>(load_aligned_pack(g.row_scales + row * 4, 0).r[j]);"
HALF = Layer(
    datatype=DATATYPES["float16"],
    weight_type=WEIGHTS["float16"],
    tokens=1,
    columns=LEAVES * 200,
)
INT8 = Layer(
    datatype=DATATYPES["float32"],
    weight_type=WEIGHTS["int8"],
    tokens=5,
    columns=LEAVES * 200,
)


def changes(old, new):
    return Patch(LEAVES_H, old, new)


def on_cpu(old, new):
    return Patch(LEAVES_CPU, old, new)


def rounded(floats):
    return f"reinterpret<floats>({ROUNDED.format(floats)})"


# By name: the ranks, the layer that shows it, and the changes of the kernel.
PLANTED = {
    "halves of leaves in place of neighbours": (
        2,
        HALF,
        [changes(NODE, "sums[i] = sums[i] + sums[i + n];")],
    ),
    "leaves one after the other": (
        1,
        HALF,
        [changes(NODE, "for (int k = 1; k < N && n == N / 2 && !i; ++k) sums[0] += sums[k];")],
    ),
    "one leaf for another": (
        2,
        HALF,
        [on_cpu(LEAF, "of_leaves[leaf % 3 ? 3 - leaf : leaf] =")],
    ),
    "leaves of another rank's columns between": (
        2,
        HALF,
        [on_cpu(FIRST, "first = (leaf % 2 * 2 + leaf / 2) * columns;")],
    ),
    "two grandchildren swapped at rank 1": (
        4,
        HALF,
        [changes(PART, PART.replace("[r]", "[g.ranks.rank == 1 && r % 3 ? 3 - r : r]"))],
    ),
    "each rank begins with its own part": (
        4,
        HALF,
        [changes(PART, PART.replace("[r]", "[(r - g.ranks.rank + WT_WORLD) % WT_WORLD]"))],
    ),
    "parts rounded on the wire": (
        2,
        HALF,
        [changes(SUBTREE, rounded(SUBTREE[:-1]) + ";")],
    ),
    "one part rounded": (
        4,
        HALF,
        [changes(SUBTREE, f"r == 3 ? {rounded(SUBTREE[:-1])} : {SUBTREE}")],
    ),
    "rounded before the scale of a row": (
        2,
        INT8,
        [changes(f"rounded_product({SCALED},", f"rounded_product({rounded(SCALED)},")],
    ),
    "each part scaled": (
        2,
        INT8,
        [
            changes(SUBTREE, f"{SUBTREE[:-1]} * {SCALE}"),
            changes("WEIGHT_BYTES == 1 ? scaled(sums, row) : sums", "sums"),
        ],
    ),
    "the tail of K in the last leaf": (
        2,
        HALF,
        [
            on_cpu(
                COLUMNS,
                "even = g.inner / OWN_LEAVES / 64 * 64, first = leaf * even, "
                "columns = leaf == 3 ? g.inner - first : even;",
            )
        ],
    ),
    "leaves that begin eight columns later": (
        2,
        HALF,
        [
            on_cpu(
                COLUMNS,
                "even = g.inner / OWN_LEAVES, first = leaf * even + (leaf ? 8 : 0), "
                "columns = even + 8 * ((leaf == 0) - (leaf == 3));",
            )
        ],
    ),
    "32 chains": (2, HALF, [changes("CHAINS = 64", "CHAINS = 32")]),
    "32 chains for more than four tokens": (
        2,
        INT8,
        [changes("CHAINS = 64", "CHAINS = WT_TOKENS > 4 ? 32 : 64")],
    ),
    "from the last period on": (
        2,
        HALF,
        [on_cpu(PERIOD, PERIOD.replace("column", "columns / 64 * 64 - column"))],
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_another_order_and_another_rounding_are_noticed(name, tmp_path):
    ranks, layer, patches = PLANTED[name]
    assert wrong_of(ranks, [layer], copy_kernels(tmp_path, patches)) > [0]


@pytest.mark.parametrize("ranks", [2, 4])
def test_nothing_is_noticed_in_the_unchanged_kernel(ranks):
    assert wrong_of(ranks, [HALF, INT8]) == [0, 0]


@pytest.mark.skipif("fma" not in Path("/proc/cpuinfo").read_text(), reason="a CPU without FMA")
@pytest.mark.parametrize("element", TYPES)
def test_only_fp32_activations_need_a_product_that_is_rounded_by_itself(element, tmp_path):
    """A product of fp16 elements is exact in fp32, and one of bf16 within fp32's range."""
    plain = Patch(LEAVES_H, "IS_EXACT = false", "IS_EXACT = true")
    layer = Layer(
        datatype=DATATYPES[element],
        weight_type=WEIGHTS["float16"],
        tokens=1,
        columns=LEAVES * 200,
    )
    found = wrong_of(1, [layer], copy_kernels(tmp_path, [plain]))
    assert bool(found[0]) == (element == "float32")
