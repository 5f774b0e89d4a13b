"""The order of a layer's sum from probes: sums in numpy whose order is known, and products of
libraries."""

import functools
import random
from itertools import product

import numpy as np
import pytest

from bench.stability import fprev
from bench.stability.fprev import causes, probe_rows, rounding_rows, samples, tree_of
from bench.stability.order_words import words_of
from collectives.collective import DATATYPES

pytestmark = pytest.mark.unit

INNER = 512  # leaves of 64
COLUMNS = samples(INNER)
COUNT = len(COLUMNS)


def dense(weights):
    """Each column's products, (INNER, probes), of the weights of samples, (probes, samples)."""
    products = np.zeros((INNER, len(weights)), np.float32)
    products[COLUMNS] = weights.T
    return products


PROBES = dense(probe_rows(COUNT))


def tree_with(add, datatype="float32"):
    """The tree of a sum over the first axis, whose result is rounded."""
    results = DATATYPES[datatype].rounded(np.asarray(add(PROBES), np.float64))
    return tree_of(fprev.sizes_of(results, COUNT))


# Ways to add, over the first axis.


def sequence(x):
    return functools.reduce(np.add, x)


def backwards(x):
    return sequence(x[::-1])


def halves(x):
    while len(x) > 1:
        x = x[: len(x) // 2] + x[len(x) // 2 :]
    return x[0]


def pairs(x):
    while len(x) > 1:
        x = np.array([functools.reduce(np.add, x[at : at + 2]) for at in range(0, len(x), 2)])
    return x[0]


def at_once(terms, bits=24):
    """As a tensor core: terms are cut off below so many bits of the greatest one, then added."""
    terms = np.asarray(terms, np.float64)
    step = np.exp2(np.frexp(np.abs(terms).max(axis=0))[1] - float(bits))
    return (np.trunc(terms / step) * step).sum(axis=0).astype(np.float32)


def tensor(width, bits=24):
    """A tensor core adds so many columns and the sum before them at once."""

    def add(x):
        total = np.zeros(x.shape[1], np.float32)
        for at in range(0, len(x), width):
            total = at_once([total, *x[at : at + width]], bits)
        return total

    return add


def chains(count, end, step=sequence):
    """Column c goes to chain c % count."""
    return lambda x: end(np.array([step(x[at::count]) for at in range(min(count, len(x)))]))


def packs(count, width, end):
    """As `chains`, of packs of neighbours."""

    def add(x):
        chain = np.arange(len(x)) // width % count
        return end(np.array([sequence(x[chain == at]) for at in range(count)]))

    return add


def parts(sizes, add, end):
    return lambda x: end(np.array([add(part) for part in np.split(x, np.cumsum(sizes)[:-1])]))


def grid(inner, first, second):
    """Vectors of `inner` lanes: the vectors, then the lanes."""
    return lambda x: second(first(x.reshape(-1, inner, *x.shape[1:])))


LEAF = chains(16, halves)
EIGHTHS = [INNER // 8] * 8


def leaves_of(ranks, leaf=LEAF, end=pairs):
    """A rank's product, of its whole leaves."""
    return parts([INNER // 8] * (8 // ranks), leaf, end)


LEAVES = leaves_of(1)


def random_sum(count, most, bits, datatype):
    """A random tree of sums of at most so many terms, and the results of all probes."""
    draw = random.Random(count)
    weights = probe_rows(count).T.astype(np.float32)
    trees, sums = [*range(count)], [*weights]
    while len(trees) > 1:
        taken = draw.sample(range(len(trees)), min(draw.randint(2, most), len(trees)))
        terms = [sums[at] for at in taken]
        total = terms[0] + terms[1] if len(terms) == 2 else at_once(terms, bits)
        tree = fprev.node([trees[at] for at in taken])
        trees = [each for at, each in enumerate(trees) if at not in taken] + [tree]
        sums = [each for at, each in enumerate(sums) if at not in taken]
        sums.append(DATATYPES[datatype].rounded(total.astype(np.float64)).astype(np.float32))
    return trees[0], sums[0]


@pytest.mark.parametrize("datatype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("count", [2, 3, 17, 96])
def test_random_trees_come_back_exactly(datatype, count):
    """Of two terms at once or of several, whose adder keeps up to eight more bits; each sum is
    rounded."""
    for most, bits in ((2, 24), (5, 24), (9, 28), (17, 32)):
        tree, results = random_sum(count, most, bits, datatype)
        assert tree_of(fprev.sizes_of(results, count)) == tree


NAMED = {
    "one after another": sequence,
    "pairs, over all columns": pairs,
    "8 columns at once": tensor(8),
    "4 columns at once": tensor(4, bits=26),
    "16 columns at once": tensor(16, bits=32),
    "8 chains, then halves": chains(8, halves),
    "16 chains, then one after another": chains(16, sequence),
    "32 chains, then pairs": chains(32, pairs),
    "64 chains, then all at once": chains(64, at_once),
    "32 chains, then every 8th one after another, then pairs": chains(32, grid(8, sequence, pairs)),
    "32 chains of packs of 8, then halves": packs(32, 8, halves),
    "packs of 2, each backwards": lambda x: sequence(
        x.reshape(-1, 2, x.shape[1])[:, ::-1].reshape(x.shape)
    ),
    "8 parts of 64, each 16 chains, then halves; parts pairs": LEAVES,
    "4 parts of 128, each 8 chains, then pairs; parts one after another": parts(
        [128] * 4, chains(8, pairs), sequence
    ),
    "3 parts of 192, each one after another; parts one after another": parts(
        [192, 192, 128], sequence, sequence
    ),
    "3 parts of 192, the last two equal, each one after another; parts one after another": parts(
        [192, 160, 160], sequence, sequence
    ),
    "another order": chains(64, chains(4, sequence, backwards)),
}


def test_usual_orders_have_names_and_no_two_have_the_same():
    trees = {words: tree_with(add) for words, add in NAMED.items()}
    assert len({*trees.values()}) == len(trees)
    for words, tree in trees.items():
        found = words_of(tree, COLUMNS, INNER, 1)
        assert found.startswith(words)
        assert found == words or words == "another order"


RANKS_WORDS = {
    "each rank: 16 chains, then halves; ranks 0+1+2+3": (4, chains(16, halves), sequence),
    "each rank: one after another; ranks (0+1)+(2+3)": (4, sequence, pairs),
    "each rank: 4 columns at once; ranks [0+1+2+3]": (4, tensor(4), at_once),
    "each rank: 32 chains, then pairs; ranks (0+4)+(2+6)": (8, chains(32, pairs), halves),
    "each rank: 4 parts of 64, each 16 chains, then halves; parts pairs; ranks 0+1": (
        2,
        leaves_of(2),
        sequence,
    ),
}


def layer(
    ranks,
    compute,
    collective=pairs,
    sent="float32",
    rounds=(),
):
    """A layer's sum over `ranks`. `compute` makes the part of a rank, or a list of them makes that
    of each; parts are rounded to `sent`, all or those of the ranks `rounds`."""

    def add(x):
        products = compute if isinstance(compute, list) else [compute] * ranks
        split = zip(products, np.split(x, ranks), strict=True)
        own = np.array([each(part) for each, part in split])
        for rank in rounds or range(ranks):
            own[rank] = DATATYPES[sent].rounded(own[rank].astype(np.float64))
        return collective(own)

    return add


def test_ranks_are_named_as_a_collective_names_them():
    for words, (ranks, compute, collective) in RANKS_WORDS.items():
        tree = tree_with(layer(ranks, compute, collective))
        assert words in words_of(tree, COLUMNS, INNER, ranks).replace("((", "(")


@pytest.mark.parametrize("datatype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_same_leaves_have_the_same_tree_at_each_tp(ranks, datatype):
    tree = tree_with(layer(ranks, leaves_of(ranks), sent=datatype), datatype=datatype)
    assert tree == tree_with(LEAVES)
    assert words_of(tree, COLUMNS, INNER, 1) == words_of(tree_with(LEAVES), COLUMNS, INNER, 1)


def rounds(tree, add):
    """The sums that are rounded to a 16-bit type."""
    sums, rows = rounding_rows(tree, COUNT)
    found = zip(sums, add(dense(rows)), strict=True)
    return [places for places, result in found if result != fprev.TINY]


def changed(leaf, at=0, of=8):
    """The products of ranks with `of` leaves together, of which the one at `at` is `leaf`."""
    return [leaf if each == at else LEAF for each in range(of)]


def rounded_node(x):
    """The tree of four ranks, whose first node is rounded."""
    first = DATATYPES["float16"].rounded((x[0] + x[1]).astype(np.float64))
    return first.astype(np.float32) + (x[2] + x[3])


def tail_last(x):
    return LEAF(x[:-7]) + sequence(x[-7:])


def all_leaves(leaf_sums):
    """Ranks that send each leaf."""
    return lambda x: leaf_sums(np.array([LEAF(each) for each in np.split(x, 8)]))


PRODUCT, RANKS, ROUNDING = ["product"], ["ranks"], ["rounding"]
# What somebody could change in the layer, and how it is named.
CHANGED = {
    "a leaf backwards": (layer(8, changed(chains(16, halves, backwards))), 8, PRODUCT),
    "a leaf in pairs": (layer(8, changed(chains(16, pairs), 3)), 8, PRODUCT),
    "a leaf in sequence": (layer(8, changed(sequence, 7)), 8, PRODUCT),
    "the end of a leaf": (layer(8, changed(chains(16, sequence), 5)), 8, PRODUCT),
    "fewer chains": (layer(8, changed(chains(8, halves), 1)), 8, PRODUCT),
    "packs": (layer(8, changed(packs(4, 4, halves), 2)), 8, PRODUCT),
    "a tensor core": (layer(8, changed(tensor(8), 4)), 8, PRODUCT),
    "leaves in sequence": (layer(2, leaves_of(2, end=sequence)), 2, PRODUCT),
    "leaves in halves": (layer(2, leaves_of(2, end=halves)), 2, PRODUCT),
    "other leaves": (layer(2, parts([32] * 8, LEAF, pairs)), 2, PRODUCT),
    "the tail of a leaf": (layer(8, changed(tail_last, 6)), 8, PRODUCT),
    "the tail of each rank": (layer(4, [tail_last] * 4), 4, PRODUCT),
    "no leaves": (layer(4, LEAF), 4, PRODUCT),
    "ranks in sequence": (layer(4, leaves_of(4), sequence), 4, RANKS),
    "ranks in sequence, eight": (layer(8, LEAF, sequence), 8, RANKS),
    "ranks in halves": (layer(4, leaves_of(4), halves), 4, RANKS),
    "ranks backwards": (layer(8, LEAF, backwards), 8, RANKS),
    "ranks at once": (layer(4, leaves_of(4), at_once), 4, RANKS),
    "leaves of ranks": (all_leaves(halves), 4, RANKS),
    "leaves and ranks in sequence": (
        layer(2, leaves_of(2, end=sequence), lambda x: x[1] + x[0]),
        2,
        PRODUCT,
    ),
    "half parts": (layer(2, leaves_of(2), sent="float16"), 2, ROUNDING),
    "bfloat16 parts": (layer(4, leaves_of(4), sent="bfloat16"), 4, ROUNDING),
    "a rank's part": (layer(8, LEAF, sent="bfloat16", rounds=[5]), 8, ROUNDING),
    "one node more": (layer(4, leaves_of(4), rounded_node), 4, ROUNDING),
    "three": (
        layer(4, leaves_of(4, chains(8, pairs)), halves, "float16"),
        4,
        ["product", "rounding", "ranks"],
    ),
}


def owners(ranks):
    return [column * ranks // INNER for column in COLUMNS]


@pytest.mark.parametrize("name", CHANGED)
def test_each_change_is_named(name):
    add, ranks, expected = CHANGED[name]
    tree = tree_with(add)
    rounds_parts = bool(rounds(tree, add))
    alone = {1: [tree_with(LEAVES)]}
    found = causes(alone, {1: [tree]}, owners(ranks), rounds_parts=rounds_parts, differs=True)
    assert found == expected


def swapped_halves(x):
    while len(x) > 1:
        x = x[len(x) // 2 :] + x[: len(x) // 2]
    return x[0]


# a + b and b + a have the same bits: a swap of the operands of an addition changes nothing.
UNCHANGED = {
    "as it is": layer(4, leaves_of(4)),
    "a node's operands swapped": layer(4, leaves_of(4), lambda x: (x[3] + x[2]) + (x[1] + x[0])),
    "operands swapped in a leaf": layer(8, changed(chains(16, swapped_halves), 6)),
    "float32 parts": layer(8, LEAF, sent="float32"),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_an_unchanged_order_has_no_cause_and_unexplained_bits_an_unknown_one(name):
    tree = tree_with(UNCHANGED[name])
    assert tree == tree_with(LEAVES)
    assert not rounds(tree, UNCHANGED[name])
    alone, split = {1: [tree_with(LEAVES)]}, {1: [tree]}
    for differs in (False, True):
        found = causes(alone, split, owners(4), rounds_parts=False, differs=differs)
        assert found == ["unknown"] * differs


def test_another_order_for_larger_batches_is_a_choice():
    """As of an algorithm that changes above a size; at TP 1 or at this TP."""
    few, many = tree_with(LEAVES), tree_with(layer(4, leaves_of(4), sequence))
    why = functools.partial(
        causes,
        owners=owners(4),
        rounds_parts=False,
        differs=True,
    )
    assert why({1: [few], 8: [few]}, {1: [few], 8: [many]}) == ["ranks", "choice"]
    assert why({1: [few], 8: [many]}, {1: [few], 8: [few]}) == ["ranks", "choice"]
    assert why({1: [few], 8: [few]}, {1: [many], 8: [many]}) == ["ranks"]
    assert why({1: [few], 8: [None]}, {1: [few], 8: [many]}) == ["choice"]
    assert why({1: [few], 8: [many]}, {1: [few], 8: [None]}) == ["choice"]
    assert why({1: [few], 8: [None]}, {1: [few], 8: [None]}) == ["unknown"]


def test_a_product_across_the_columns_of_ranks_is_another_product():
    """As of a kernel that computes with the columns of its peers."""
    one, other = tree_with(chains(16, halves)), tree_with(chains(8, halves))
    found = causes({1: [one]}, {1: [other]}, owners(2), rounds_parts=False, differs=True)
    assert found == ["product"]


def test_rounded_sums_are_found_wherever_they_are():
    add = layer(4, leaves_of(4), rounded_node)
    ((places),) = rounds(tree_with(add), add)
    assert places == {place for place, owner in enumerate(owners(4)) if owner < 2}
    half = layer(8, LEAF, sent="float16", rounds=[3])
    assert [len(own) for own in rounds(tree_with(half), half)] == [owners(8).count(3)]


def jumping(x):
    """Another order for each second row."""
    total = sequence(x)
    total[1::2] = LEAVES(x)[1::2]
    return total


NO_TREE = {
    "an order that is not fixed": jumping,
    "an exact sum": lambda x: x.sum(axis=0, dtype=np.float64),
    "units flushed to zero": lambda x: sequence(np.where(np.abs(x) < 2**-14, 0, x)),
    "a column twice": lambda x: sequence(x) + x[5],
    "a maximum": lambda x: x.max(axis=0),
    "no number": lambda x: np.full(x.shape[1], np.nan),
}


@pytest.mark.parametrize("name", NO_TREE)
def test_what_has_no_order_has_no_tree(name):
    assert tree_with(NO_TREE[name]) is None


@pytest.mark.parametrize(("count", "choices", "number"), [(3, range(5), 4), (4, range(2, 5), 26)])
def test_only_the_sizes_of_a_tree_have_one(count, choices, number):
    """Of so many leaves there are so many trees, each once (OEIS A000311)."""
    found = list[fprev.Tree | None]()
    places = np.triu_indices(count, 1)
    for choice in product(choices, repeat=len(places[0])):
        sizes = np.ones((count, count), int)
        sizes[places] = sizes.T[places] = choice
        found.append(tree_of(sizes))
    trees = [tree for tree in found if tree is not None]
    assert len(trees) == len({*trees}) == number


def ring(x, ranks):
    """A quarter of the rows each begins at another rank."""
    own = [LEAF(part) for part in np.split(x, ranks)]
    split = [np.array_split(part, ranks) for part in own]
    return np.concatenate(
        [
            sequence([split[(at + 1 + hop) % ranks][at] for hop in range(ranks)])
            for at in range(ranks)
        ]
    )


def test_each_part_of_the_rows_has_its_own_tree():
    ranks, weights = 4, probe_rows(COUNT)
    calls = fprev.layout(640, COUNT, ranks)
    results = np.array([ring(dense(weights[call]), ranks) for call in calls])
    trees = fprev.trees_of(results, COUNT, ranks)
    words = [words_of(tree or 0, COLUMNS, INNER, ranks).split("ranks ")[1] for tree in trees]
    assert words == ["1+2+3+0", "2+3+0+1", "0+3+1+2", "0+1+2+3"]
    results[-1, -1] += fprev.UNIT  # a probe that was made twice
    assert fprev.trees_of(results, COUNT, ranks) == [*trees[:3], None]


def test_samples_are_the_same_columns_in_each_eighth_and_no_more_than_the_units_allow():
    for inner in (8, 64, 96, 512, 1024, 4096, 11008, 14336, 28672):
        columns = samples(inner)
        assert columns == sorted({*columns})
        assert (columns[0], columns[-1]) == (0, inner - 1)
        assert len(columns) <= fprev.MOST_SAMPLES
        assert {column * 8 // inner for column in columns} == set(range(8))
    swallowed = np.float32(fprev.BIG) - np.float32(2.0**-17)
    assert swallowed == fprev.BIG
    assert fprev.MOST_SAMPLES * fprev.UNIT < 2**-17


@pytest.mark.parametrize("datatype", ["float32", "float16", "bfloat16"])
def test_probes_are_exact_in_each_type(datatype):
    rows = probe_rows(9)
    assert np.array_equal(DATATYPES[datatype].rounded(rows), rows)


def product_of(library, matrix, tokens):
    """The last token's results of a product with ones."""
    activations = np.ones((matrix.shape[1], tokens), np.float32)
    if library == "numpy":
        return (matrix @ activations)[:, -1]
    torch = pytest.importorskip(library)
    return (torch.from_numpy(matrix) @ torch.from_numpy(activations))[:, -1].numpy()


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("tokens", [1, 8])
@pytest.mark.parametrize("inner", [512, 1024, 4096])
def test_a_library_s_product_has_a_tree(inner, tokens, library):
    """In whichever order its BLAS adds. The rows are those of whole tiles: of 64, and of 192 as on
    an EPYC of the fifth generation."""
    columns, rows = samples(inner), 768
    weights, results = probe_rows(len(columns)), []
    matrix = np.zeros((rows, inner), np.float32)
    for call in fprev.layout(rows, len(columns), 1):
        matrix[:, columns] = weights[call]
        results.append(product_of(library, matrix, tokens))
    (tree,) = fprev.trees_of(np.array(results), len(columns), 1)
    assert tree is not None
    assert words_of(tree, columns, inner, 1)
