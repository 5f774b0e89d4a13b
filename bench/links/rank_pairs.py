"""Which ranks move data at once: groups of pairs, of the ranks of each host."""

from collections.abc import Sequence
from itertools import chain, combinations, permutations, product

MOST_FAR_RANKS = 8  # with more, only ranks at the same place of their hosts exchange messages
Pairs = tuple[tuple[int, int], ...]  # (source, destination)
Hosts = Sequence[Sequence[int]]  # the ranks of each


def within_hosts(hosts: Hosts) -> list[Pairs]:
    """Each rank to each other one of its host."""
    return [(pair,) for ranks in hosts for pair in permutations(ranks, 2)]


def between_hosts(hosts: Hosts) -> list[Pairs]:
    """Each rank to those of the other hosts: to all, or with many ranks to its counterparts."""
    are_many = sum(map(len, hosts)) > MOST_FAR_RANKS
    pairs = list[tuple[int, int]]()
    for own, others in permutations(hosts, 2):
        if are_many:
            pairs += zip(own, others, strict=False)
        else:
            pairs += product(own, others)
    return [(pair,) for pair in pairs]


def both_ways(groups: Sequence[Pairs]) -> list[Pairs]:
    """Of groups of one pair, each two ranks once: from the lower one and back."""
    pairs = [pair for [pair] in groups]
    return [((low, high), (high, low)) for low, high in pairs if low < high]


def alone(hosts: Hosts) -> list[Pairs]:
    """Each rank with itself."""
    return [((rank, rank),) for rank in sorted(chain(*hosts))]


def disjoint(hosts: Hosts) -> list[Pairs]:
    """Several pairs of a host, of which no two share a rank."""
    return [pairs for ranks in hosts for pairs in matchings(ranks)]


def matchings(ranks: Sequence[int]) -> list[Pairs]:
    """Sets of at least two disjoint pairs in which every pair occurs once: the circle method of
    round-robin tournaments. With an odd number of ranks one rank rests in each set."""
    n_sets = len(ranks) - 1 + len(ranks) % 2
    sets: list[Pairs] = [()] * n_sets
    for low, high in combinations(range(len(ranks)), 2):
        # With an even number the last rank meets the rank that would rest.
        number = (low + (high if high < n_sets else low)) % n_sets
        sets[number] += ((ranks[low], ranks[high]),)
    return [pairs for pairs in sets if len(pairs) > 1]
