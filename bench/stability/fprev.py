"""The order in which a layer adds its columns, matrix product and collective together, from the
results of probes: FPRev (arXiv 2411.00442), on a sample of the columns.

A probe is a row of the matrix: BIG in column i, -BIG in column j, UNIT in the other samples, zero
elsewhere. All activations are 1. BIG and -BIG swallow each unit that is added to them, and cancel
where they meet: the result counts the units outside the smallest subtree of the sum with i and j.
The sizes of these subtrees tell the tree.

What a tree does not tell:
- which operand stands left: a + b and b + a have the same bits, so only other brackets matter
- whether a multiplication and an addition are contracted: products with 1 are exact
- what is added where no sample takes part
- an order that changes from row to row: the rows are probed in parts, as of a ring's segments
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from bench.stability.sums import GOLDEN
from collectives.collective import Array
from wiretax.record.bits_record import CAUSES

# Both are exact in float16 and bfloat16. UNIT is the least float16, and a normal fp32. In fp32 the
# neighbours of BIG are 2^-8 away in both directions, so it swallows up to 2^-9; in an adder that
# cuts off below eight more bits, as tensor cores may, up to 2^-17, more than MOST_SAMPLES units. As
# a rank's part and as the result, float16 holds each count up to 2048 units, bfloat16 up to 256. An
# adder in fp64 swallows nothing: there is no tree.
BIG, UNIT = 1.5 * 2**15, 2.0**-24

EIGHTHS = 8  # of the columns, one or more of each rank at TP 1, 2, 4 and 8
OFFSETS = 0, 1, 2, 4, 8, 16, 32, 64, 128  # in each eighth: lanes, chains, and the order of a chain
# With OFFSETS: all of a GPU thread's pack, four registers of 4, 8 and 16 lanes, and the borders of
# a BLAS library's blocks.
FIRST = 3, 5, 6, 7, 12, 24, 48, 256, 384, 640, 768, 1024
MOST_SAMPLES = 96  # their pairs are 4560 rows

# A sum of more columns without any unit lost them, as a unit without subnormal float16 does: tensor
# cores add at most 16 columns at once, and the sum before them (FPRev, H100).
MOST_AT_ONCE = 64

TINY = 2.0**-12  # less than half an ULP of 1 in float16 and bfloat16, and exact in both

# A sample, by its place among them, or the sum of several trees at once, that with the lowest
# sample first.
Tree = int | tuple["Tree", ...]


def samples(inner: int) -> list[int]:
    """Ascending columns, at most MOST_SAMPLES, of the `inner` that all ranks have together. They do
    not depend on the number of ranks, so that the trees of all can be compared."""
    if inner <= MOST_SAMPLES:
        return list(range(inner))
    chosen = {column for column in FIRST if column < inner}
    edges = [inner * eighth // EIGHTHS for eighth in range(EIGHTHS + 1)]
    for eighth, (low, high) in enumerate(pairwise(edges)):
        chosen |= {low + offset for offset in OFFSETS if offset < high - low} | {high - 1}
        if eighth % 2:
            chosen.add(low + int((high - low) * GOLDEN) | 1)
    return sorted(chosen)


def probe_rows(count: int) -> Array:
    """The weights of `count` samples for each pair of them, (pairs, count), in float64."""
    first, second = np.triu_indices(count, 1)
    rows = np.full((first.size, count), UNIT)
    rows[np.arange(first.size), first] = BIG
    rows[np.arange(first.size), second] = -BIG
    return rows


def layout(rows: int, count: int, parts: int) -> Array:
    """Which of `probe_rows` each row of a matrix is in each call, (calls, rows), so that each of
    `parts` equal parts of the rows, which may have orders of their own, gets all of them."""
    width, pairs = rows // parts, count * (count - 1) // 2
    calls = -(-pairs // width)
    first: Array = np.arange(calls)[:, None] * width
    return (first + np.arange(rows) % width) % pairs


def trees_of(results: Array, count: int, parts: int) -> list[Tree | None]:
    """The tree of each part of the rows, from the decoded results of the calls of `layout`, (calls,
    rows)."""
    rows = results.shape[1]
    width, probes = rows // parts, layout(rows, count, parts)
    trees = list[Tree | None]()
    for first in range(0, width * parts, width):
        own, got = (each[:, first : first + width] for each in (probes, results))
        by_probe = np.empty(count * (count - 1) // 2)
        by_probe[own] = got
        is_fixed = np.array_equal(by_probe[own], got)  # those that were made twice
        trees.append(tree_of(sizes_of(by_probe, count)) if is_fixed else None)
    return trees


def sizes_of(results: Array, count: int) -> Array:
    """How many of `count` samples the smallest subtree with each two of them has, (count, count),
    from the decoded results of `probe_rows`; 0 where a result is no count."""
    units = results.astype(np.float64) / UNIT
    is_count = (units >= 0) & (units <= count - 2) & (units == np.round(units))
    sizes = np.ones((count, count), int)
    pairs = np.triu_indices(count, 1)
    sizes[pairs] = np.where(is_count, count - np.where(is_count, units, 0), 0)
    sizes.T[pairs] = sizes[pairs]
    return sizes


def tree_of(sizes: Array) -> Tree | None:
    """The tree with the sizes of `sizes_of`. None if there is none: the order changes from probe to
    probe, units are lost, the sum is exact, or it is no sum."""
    count = len(sizes)
    if count > MOST_AT_ONCE and (sizes[np.triu_indices(count, 1)] == count).all():
        return None

    def over(places: Array) -> Tree | None:
        if places.size == 1:
            return int(places[0])
        own = sizes[np.ix_(places, places)]
        is_near, left, branches = own < places.size, np.ones(places.size, bool), list[Tree]()
        if not (own[~is_near] == places.size).all():
            return None
        while left.any():
            # The places of a branch are near each other, and no others are near them.
            near = is_near[left.argmax()]
            if near.all() or not (is_near[near] == near).all():
                return None
            branch = over(places[near])
            if branch is None:
                return None
            branches.append(branch)
            left &= ~near
        return tuple(branches)

    return over(np.arange(count))


def lowest(tree: Tree) -> int:
    """Its lowest sample."""
    while not isinstance(tree, int):
        tree = tree[0]
    return tree


def node(branches: Iterable[Tree | None]) -> Tree | None:
    """The sum of those branches that exist, at once."""
    found = [each for each in branches if each is not None]
    if len(found) > 1:
        return tuple(sorted(found, key=lowest))
    return found[0] if found else None


@lru_cache(maxsize=256)
def subtrees(tree: Tree) -> dict[frozenset[int], Tree]:
    """Each subtree by its samples, the whole last."""
    if isinstance(tree, int):
        return {frozenset([tree]): tree}
    found = dict[frozenset[int], Tree]()
    own = frozenset[int]()
    for branch in tree:
        found |= subtrees(branch)
        own |= next(reversed(found))
    return {**found, own: tree}


def of_parts(tree: Tree, parts: Sequence[Tree]) -> Tree:
    """The tree over the numbers of `parts`, subtrees that have all its samples."""
    if tree in parts:
        return parts.index(tree)
    assert not isinstance(tree, int)
    branches = [of_parts(branch, parts) for branch in tree]
    return tuple(sorted(branches, key=lowest))


def rounding_rows(tree: Tree, count: int) -> tuple[list[frozenset[int]], Array]:
    """The samples in each sum of the tree but the last, and the weights that tell whether it is
    rounded to a 16-bit type, (sums, count): 1 and TINY meet there, and -1 in the next sum. A sum
    whose result is not TINY is rounded."""
    places = {each: own for own, each in subtrees(tree).items()}
    sums = [
        (branch, whole[branch is whole[0]])
        for whole in places
        if not isinstance(whole, int)
        for branch in whole
        if not isinstance(branch, int)
    ]
    rows = np.zeros((len(sums), count))
    for row, (branch, other) in zip(rows, sums, strict=True):
        row[[lowest(branch[0]), lowest(branch[1]), lowest(other)]] = 1, TINY, -1
    return [places[branch] for branch, _ in sums], rows


def causes(
    alone: Mapping[int, Sequence[Tree | None]],
    split: Mapping[int, Sequence[Tree | None]],
    owners: Sequence[int],
    *,
    rounds_parts: bool,
    differs: bool,
) -> list[str]:
    """Why a layer has other bits than at TP 1, by the names of CAUSES. `alone` and `split` are the
    trees of `trees_of` at TP 1 and at this TP by the tokens of a batch; `owners` are the ranks of
    the samples. Equal trees whose parts are not rounded are no cause."""
    every = np.array(owners)
    own = [frozenset(np.flatnonzero(every == rank).tolist()) for rank in np.unique(every)]
    found = set[str]()
    for tokens in alone.keys() & split.keys():
        for one, other in zip(alone[tokens], split[tokens], strict=True):
            if one is not None and other is not None:
                found |= changes(one, other, own)
    if rounds_parts:
        found.add("rounding")
    for part in (part for trees in (alone, split) for part in zip(*trees.values(), strict=True)):
        if len({*part} - {None}) > 1:
            found.add("choice")
    if differs and not found:
        found.add("unknown")
    return [name for name in CAUSES if name in found]


def changes(one: Tree, other: Tree, own: Sequence[frozenset[int]]) -> set[str]:
    """What differs between the tree of one rank and that of several with their `own` samples."""
    alone, sent = ([subtrees(tree).get(places) for places in own] for tree in (one, other))
    # A rank without a sum of its own sends several.
    known = [(part, each) for part, each in zip(alone, sent, strict=True) if each is not None]
    wholes = [part for part in alone if part is not None]
    found = set[str]()
    if len(wholes) < len(own) or any(part != each for part, each in known):
        found.add("product")
    if len(wholes) == len(own):
        parts = [each for _, each in known]
        if len(parts) < len(own) or of_parts(one, wholes) != of_parts(other, parts):
            found.add("ranks")
    return found if one != other else set()
