"""Inputs whose sums round, the distance of a result from the exact sum, and the order of a sum,
from its bits alone: each way to put parentheses around the ranks' parts rounds differently, so over
some tens of elements only one has the bits of the result."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from collectives.collective import Array, Datatype
from kernels.devices.device import MOST_RANKS
from wiretax.record.bits_record import Difference, Error

# The raw integers of PCG64 are part of numpy's promise; what its Generator makes of them is not.
DATA, MOST = "PCG64 raw, magnitudes 1 to 16, one message of each size", 16
MANTISSA_BITS = {"float32": 23, "float64": 52, "float16": 10, "bfloat16": 7}
ONE = np.uint64(1023)  # the exponent of 1.0 in float64
SIGNED, POSITIVE = "signed", "positive"

# A rank (or a column), or the sum of two trees, or of more that an adder takes at once. A sum is
# commutative: the tree with the lowest rank stands left.
Tree = int | tuple["Tree", ...]

LEAST_ELEMENTS = 32  # fewer may have the bits of several orders
SEARCHED = 48  # elements: of 135,135 trees of eight ranks no two agree in as many
WINDOW, MOST_WINDOWS = 96, 96  # elements of a message that stand for their surroundings
GOLDEN = (5**0.5 - 1) / 2  # its multiples hit no period of a message's parts again and again
TELLS = 2048  # elements; in a shorter message the parts may be shorter than a window
MOST_FAILED = 4  # searches of a message that find nothing, 0.2 s each for eight ranks
UNEXPLAINED = "no order explains"
ROUNDED_ONCE = "rounded once"


def drawn(seed: tuple[int, ...], count: int) -> Array:
    """`count` numbers in float64, of four binades; a longer draw begins with a shorter one."""
    raw = np.random.PCG64(list(seed)).random_raw(count)
    exponent = (raw >> 61 & 3) + ONE
    sign = raw >> 63 << 63
    numbers: Array = (sign | exponent << 52 | raw & (1 << 52) - 1).view(np.float64)
    numbers.flags.writeable = False  # the cache of `draw` has it
    return numbers


draw = cache(drawn)


def difference(one: Array, other: Array, datatype: Datatype, rounding: float | Array) -> Difference:
    """How two stored results of one shape differ; beyond `rounding` one is wrong."""
    integers = f"i{datatype.size_bytes}"
    differs = one.view(integers) != other.view(integers)
    bits = [each[differs].view(integers).astype(np.int64) for each in (one, other)]
    # The place of each among all floats of its type, 0 for +0 and -0.
    least = -(1 << 8 * datatype.size_bytes - 1)
    places = [np.where(own < 0, least - own, own) for own in bits]
    with np.errstate(invalid="ignore"):  # of NaN and infinity, which are wrong
        apart = np.abs(datatype.decode(one[differs]) - datatype.decode(other[differs]))
    return Difference(
        elements=one.size,
        differ=int(differs.sum()),
        wrong=int((~(apart <= np.broadcast_to(rounding, one.shape)[differs])).sum()),
        ulp=int(np.abs(places[0] - places[1]).max(initial=0)),
    )


def exact_sums(parts: Array) -> Array:
    """The sums over the first axis in float64, rounded once."""
    return np.array([math.fsum(column) for column in parts.T.tolist()])


def error_of(parts: Array, got: Array, datatype: Datatype) -> Error:
    """The error of a stored result against the sum of decoded parts, (ranks, elements)."""
    exact, decoded = exact_sums(parts), datatype.decode(got)
    error = np.abs(exact_sums(np.vstack([parts, -decoded])))
    ulp = np.exp2(np.frexp(exact)[1] - 1.0 - MANTISSA_BITS[datatype.name])
    is_right = datatype.rounded(exact) == decoded
    return Error(mean_ulp=float((error / ulp).mean()), right=float(is_right.mean()))


def splits(ranks: int) -> Iterator[tuple[int, int]]:
    """Each way to divide a set of ranks, a bit for each, in two; the first has the lowest rank."""
    rest = other = ranks & (ranks - 1)
    while other:
        yield ranks ^ other, other
        other = (other - 1) & rest


@cache
def trees_over(ranks: int) -> list[Tree]:
    """All trees over a set of ranks, in the order of the sums in `find_tree`: 1, 1, 3, 15, 105, ...
    10,395 for seven."""
    return [
        (first, second)
        for one, other in splits(ranks)
        for first in trees_over(one)
        for second in trees_over(other)
    ] or [ranks.bit_length() - 1]


def value(tree: Tree, parts: Array, datatype: Datatype) -> Array:
    """The sum of the decoded parts, (ranks, elements), in this order, rounded to the datatype after
    each addition. In float64, of two elements with half as many bits, that is one rounding."""
    if isinstance(tree, int):
        return np.asarray(parts[tree])
    first, second = (value(branch, parts, datatype) for branch in tree)
    return datatype.rounded(first + second)


def text(tree: Tree) -> str:
    """`0+1+2+3`, `(0+1)+(2+3)`; sums are read from the left, and in brackets they are made at once,
    `[0+1+2+3]`."""
    if isinstance(tree, int):
        return str(tree)
    terms = sorted(tree, key=lambda branch: isinstance(branch, int))
    if len(terms) == 2 and isinstance(terms[1], int):
        return f"{text(terms[0])}+{terms[1]}"
    total = "+".join(text(each) if isinstance(each, int) else f"({text(each)})" for each in terms)
    return total if len(terms) == 2 else f"[{total}]"


def find_tree(parts: Array, got: Array, datatype: Datatype) -> Tree | None:
    """The tree that sums the parts, (ranks, elements), to `got`; None if none does. It makes the
    sums of all trees, those of each set of ranks from those of its halves."""
    everyone = (1 << len(parts)) - 1
    sums = {1 << rank: part[None] for rank, part in enumerate(parts)}

    def of_split(one: int, other: int) -> Array:
        pairs = sums[one][:, None] + sums[other][None]
        return datatype.rounded(pairs).reshape(-1, parts.shape[1])

    for ranks in sorted(range(1, everyone), key=int.bit_count):
        if ranks not in sums:
            sums[ranks] = np.concatenate([of_split(*split) for split in splits(ranks)])
    for one, other in splits(everyone):
        fits = (of_split(one, other) == got).all(axis=1)
        if fits.any():
            first, second = divmod(int(fits.argmax()), len(trees_over(other)))
            return trees_over(one)[first], trees_over(other)[second]
    return None


def windows(count: int) -> list[slice]:
    """Pieces of a message of `count` elements, LEAST_ELEMENTS or more, one in each of equal parts
    of it."""
    number = min(MOST_WINDOWS, count // LEAST_ELEMENTS)
    edges = np.linspace(0, count, number + 1).astype(int)
    found = list[slice]()
    for at, (low, high) in enumerate(pairwise(edges.tolist())):
        width = min(WINDOW, high - low)
        start = low + int((high - low - width) * (at * GOLDEN % 1))
        found.append(slice(start, start + width))
    return found


class Explainer:
    """Finds the order of each part of a message; orders found before are tried first."""

    def __init__(self, datatype: Datatype) -> None:
        self.datatype, self.known, self.failed = datatype, dict[str, Tree](), 0

    def order(self, parts: Array, got: Array) -> str:
        """The order that explains decoded elements, from decoded parts, (ranks, elements)."""
        for name, tree in self.known.items():
            if np.array_equal(value(tree, parts, self.datatype), got):
                return name
        exact = self.datatype.rounded(exact_sums(parts))
        if len(parts) > 2 and np.array_equal(exact, got):
            return ROUNDED_ONCE
        if len(parts) > MOST_RANKS or self.failed >= MOST_FAILED:
            return UNEXPLAINED
        found = find_tree(parts[:, :SEARCHED], got[:SEARCHED], self.datatype)
        if found is None or not np.array_equal(value(found, parts, self.datatype), got):
            self.failed += 1
            return UNEXPLAINED
        self.known[text(found)] = found
        return text(found)

    def explain(self, parts: Array, got: Array) -> list[tuple[int, str]]:
        """The first element and the order of each window of a message, from stored parts, (ranks,
        elements), and the stored result; [] for a message that is too short to tell. A window
        without an order between two with different ones lies over the border of two parts."""
        if got.size < LEAST_ELEMENTS:
            return []
        self.failed = 0
        places = windows(got.size)
        orders = [
            self.order(self.datatype.decode(parts[:, place]), self.datatype.decode(got[place]))
            for place in places
        ]
        around = zip(["", *orders], orders, [*orders[1:], ""], strict=False)
        found = [
            (place.start, order)
            for place, (before, order, after) in zip(places, around, strict=True)
            if order != UNEXPLAINED or before == after or {"", UNEXPLAINED} & {before, after}
        ]
        if got.size < TELLS and any(order == UNEXPLAINED for _, order in found):
            return []
        return found


def changes(
    counts: Sequence[int], order_of: Callable[[int], list[str] | None]
) -> list[tuple[int, list[str], list[str]]]:
    """Where the orders of sums change between ascending counts of elements, by bisection: the first
    count with other orders, those before, and those from there on. Between the counts, orders may
    be None where there is no sum, and [] where they are unknown: then no first count is known."""
    found, orders = [], [order_of(count) for count in counts]
    for (low, high), (before, after) in zip(pairwise(counts), pairwise(orders), strict=True):
        if before == after or not before or not after:
            continue
        is_known = True
        while high - low > 1:
            middle = (low + high) // 2
            at_middle = order_of(middle)
            if at_middle and at_middle != before:
                high, after = middle, at_middle
            else:
                low, is_known = middle, at_middle == before or (is_known and at_middle is None)
        if is_known:
            found.append((high, before, after))
    return found
