"""The order of a layer's sum in words: those of the usual order that has the same tree over the
samples."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, reduce
from itertools import groupby, product, zip_longest

from bench.stability.fprev import Tree, node, of_parts, subtrees
from bench.stability.sums import text

MOST_CHAINS = 1024  # as many as a GPU's block has threads
PACKS = 1, 2, 4, 8, 16, 32  # columns that a thread loads, or a tensor core adds, at once
CUT = 64  # blocks of BLAS libraries are multiples of it

Sums = Sequence[Tree | None]  # None without a sample
Adder = Callable[[Sums], Tree | None]
Columns = list[tuple[int, int]]  # the column, from the block's first one on, and the sample's place
Block = tuple[Tree, Columns]


def in_sequence(sums: Sums) -> Tree | None:
    return reduce(lambda total, each: node([total, each]), sums, None)


def halves(sums: Sums) -> Tree | None:
    while len(sums) > 1:
        half = (len(sums) + 1) // 2
        sums = [node(two) for two in zip_longest(sums[:half], sums[half:])]
    return sums[0]


def pairs(sums: Sums) -> Tree | None:
    while len(sums) > 1:
        sums = [node(two) for two in zip_longest(sums[::2], sums[1::2])]
    return sums[0]


# The first of them that fits names a sum: two or three terms are one after another in most of them.
ADDERS: dict[str, Adder] = {
    "one after another": in_sequence,
    "halves": halves,
    "pairs": pairs,
    "all at once": node,
}


def backwards(sums: Sums) -> Tree | None:
    return in_sequence([sums[0], *reversed(sums[1:])])


# What a chain does with a pack of columns, after the sum before it: a tensor core adds all at once,
# and x86's VDPBF16PS the second of two columns first.
STEPS: dict[str, Adder] = {
    "packs of {}": in_sequence,
    "packs of {}, each backwards": backwards,
    "{} columns at once": node,
}


def along(inner: int, first: Adder, second: Adder, is_strided: bool) -> Adder:
    """Adds sums in a grid with rows of `inner`, first along its columns (strided) or its rows."""

    def add(sums: Sums) -> Tree | None:
        if is_strided:
            return second([first(sums[at::inner]) for at in range(inner)])
        return second([first(sums[at : at + inner]) for at in range(0, len(sums), inner)])

    return add


def endings(count: int) -> Iterator[tuple[str, Adder]]:
    """Ways to add so many chains, all alike or as vectors and their lanes."""
    yield from ADDERS.items()
    inner = 2
    while inner < count:
        for (one, first), (other, second) in product(ADDERS.items(), repeat=2):
            yield f"every {inner}th {one}, then {other}", along(inner, first, second, True)
            yield f"each {inner} {one}, then {other}", along(inner, first, second, False)
        inner *= 2


def rules(width: int) -> Iterator[tuple[int, int, str]]:
    """Ways for `chains_of` to deal so many columns, few chains first. A chain has several steps."""
    for power in range(MOST_CHAINS.bit_length()):
        for pack, step in product(PACKS, STEPS):
            if (pack << power) * 2 <= width or pack << power == 1:
                yield 1 << power, pack, step


def dealt_words(count: int, pack: int, step: str) -> str:
    chains = f"{count} chains" if count > 1 else ""
    packs = step.format(pack) if pack > 1 else ""
    return " of ".join(filter(None, (chains, packs))) or "one after another"


def chains_of(
    columns: Columns, count: int, pack: int = 1, step: str = next(iter(STEPS))
) -> list[Tree | None]:
    """Packs of columns are dealt to chains in turn, by ascending column."""
    chains: list[Tree | None] = [None] * count
    for at, group in groupby(columns, key=lambda each: each[0] // pack):
        chains[at % count] = STEPS[step]([chains[at % count], *(place for _, place in group)])
    return chains


def common_order(blocks: Sequence[Block], width: int) -> str | None:
    """The order in words in which each of these blocks of `width` columns is added."""
    known = [{*subtrees(tree).values()} for tree, _ in blocks]
    for rule in rules(width):
        dealt = [chains_of(columns, *rule) for _, columns in blocks]
        if not all({*chains} - {None} <= own for chains, own in zip(dealt, known, strict=True)):
            continue
        for ending, add in endings(rule[0]):
            if all(add(chains) == tree for chains, (tree, _) in zip(dealt, blocks, strict=True)):
                return dealt_words(*rule) + (f", then {ending}" if rule[0] > 1 else "")
    for name, add in ADDERS.items():
        if all(add(chains_of(columns, width)) == tree for tree, columns in blocks):
            return f"{name}, over all columns"
    return None


def cuts(width: int) -> Iterator[tuple[str, list[int]]]:
    """Ways to cut so many columns into parts, in words and by the first column of each, round
    sizes first."""
    sizes = {width >> power for power in range(1, 8)} | {*range(CUT, width // 2 + 1, CUT)}
    for size in sorted(sizes - {0}, key=lambda size: (-(size & -size), size)):
        firsts = [*range(0, width, size)]
        yield f"{len(firsts)} parts of {size}", firsts
        if len(firsts) > 1 and width % size:  # as OpenBLAS does: GEMM_Q
            last = (width - firsts[-2] + 1) // 2
            yield (
                f"{len(firsts)} parts of {size}, the last two equal",
                [*firsts[:-1], firsts[-2] + last],
            )


def parts_of(block: Block, firsts: Sequence[int]) -> list[Block | None]:
    """The block in parts from these columns on, None for one without samples. Raises KeyError if
    the samples of a part are no subtree."""
    tree, columns = block
    known = subtrees(tree)
    parts: list[Block | None] = [None] * len(firsts)
    for part, group in groupby(columns, key=lambda each: bisect_right(firsts, each[0]) - 1):
        own = [(column - firsts[part], place) for column, place in group]
        parts[part] = known[frozenset(place for _, place in own)], own
    return parts


def order_in_parts(blocks: Sequence[Block], width: int) -> str | None:
    """The order in words of blocks of `width` columns, each whole or in parts."""
    if words := common_order(blocks, width):
        return words
    for many, firsts in cuts(width):
        try:
            split = [parts_of(block, firsts) for block in blocks]
        except KeyError:
            continue
        sums = [[part and part[0] for part in parts] for parts in split]
        for name, add in ADDERS.items():
            if all(add(own) == tree for own, (tree, _) in zip(sums, blocks, strict=True)):
                flat = [part for parts in split for part in parts if part]
                if words := common_order(flat, firsts[1]):
                    return f"{many}, each {words}; parts {name}"
    return None


def words_of(tree: Tree, columns: Sequence[int], inner: int, ranks: int) -> str:
    """The order in words, of sampled `columns` of `inner`, which `ranks` have in equal shares.
    Different trees have different words: an order without a name has a digest. A tree that is also
    that of TP 1 has the same words as there with `ranks` of 1."""
    return words_of_samples(tree, tuple(columns), inner, ranks)


@lru_cache(maxsize=256)
def words_of_samples(tree: Tree, columns: tuple[int, ...], inner: int, ranks: int) -> str:
    unnamed = f"another order {hashlib.sha256(repr(tree).encode()).hexdigest()[:8]}"
    places = [*zip(columns, range(len(columns)), strict=True)]
    try:
        parts = [*filter(None, parts_of((tree, places), range(0, inner, inner // ranks)))]
    except KeyError:
        return f"ranks mixed, {unnamed}"
    words = order_in_parts(parts, inner // ranks) or unnamed
    if ranks == 1:
        return words
    return f"each rank: {words}; ranks {text(of_parts(tree, [part for part, _ in parts]))}"
