"""In which order a layer adds its columns, from the results of probes (see `fprev`), where the
order changes between batches, and why its bits differ from those of TP 1."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import gcd

import numpy as np

from bench.stability.fprev import (
    TINY,
    Tree,
    causes,
    layout,
    probe_rows,
    rounding_rows,
    samples,
    trees_of,
)
from bench.stability.layer_data import DISTINCT, TOKENS, Room
from bench.stability.order_words import words_of
from bench.stability.subject import PLAIN, Subject
from bench.stability.sums import changes
from collectives.collective import Array
from collectives.operation import Bound, Unsupported
from wiretax.record.bits_record import TpBits

Trees = dict[int, list[Tree | None]]  # of each part of a message, by the tokens of the batch
Key = tuple[str | int | None, ...]  # of a LayerBits


@dataclass
class Orders:
    """Probes a layer between the ranks of `room`. All ranks call each method together; only rank 0
    uses what they return."""

    room: Room
    failures: dict[int, str] = field(default_factory=dict)  # of a library or contender, by its id

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """The sampled ones, of all ranks."""
        return tuple(samples(self.room.layer.inner))

    @property
    def ranks(self) -> int:
        return self.room.session.world.ranks

    def fill(self, weights: Array) -> None:
        """Stores these weights of the samples, (rows, samples), in the first rows, and zeros in the
        other columns."""
        room, own = self.room, self.room.own
        is_own = [own.start <= column < own.stop for column in self.columns]
        places = np.array(self.columns)[is_own] - own.start
        rows: Array = np.zeros((DISTINCT, room.columns), room.weight_type.storage)
        for first in range(0, len(weights), DISTINCT):
            encoded = room.weight_type.encode(weights[first : first + DISTINCT, is_own])
            rows[: len(encoded), places] = encoded
            room.fill_weights(rows[: len(encoded)], first)

    def bind(self, subject: Subject, batch: int) -> Bound:
        """The form for a batch whose activations are 1."""
        ones = np.ones((batch, self.room.columns))
        self.room.activations.write(subject.datatype.encode(ones))
        return subject.bind(batch * self.room.layer.hidden, [PLAIN])

    def result(self, subject: Subject, batch: int) -> Array:
        """The decoded results of a batch whose activations are 1, (tokens, hidden)."""
        world, own = subject.world, subject
        if subject.collective.name in subject.algorithm.contender_collectives:
            subject = replace(subject)  # its file may have kept the last weights in another form
        self.bind(subject, batch)
        got = subject.performed(batch * self.room.layer.hidden)
        if subject.algorithm.is_baseline and (
            reason := world.communicator.first_reason(subject.failure())
        ):
            self.failures[id(own)], world.watch.stop = reason, 0
        return subject.datatype.decode(got).reshape(batch, -1)

    def trees(self, subjects: Sequence[Subject], batch: int) -> list[list[Tree | None]]:
        """Of each subject the trees of as many equal parts of a message as there are ranks: some
        algorithms add each in an order of its own. A part begins at a fraction of a token."""
        hidden, count, ranks = self.room.layer.hidden, len(self.columns), self.ranks
        shared = gcd(batch, ranks)
        fractions, rows = ranks // shared, probe_rows(count)
        results: list[list[Array]] = [[] for _ in subjects]
        for probes in layout(hidden, count, fractions):
            self.fill(rows[probes])
            for subject, own in zip(subjects, results, strict=True):
                own.append(self.result(subject, batch))
        if self.room.session.world.rank:
            return [[] for _ in subjects]
        found = list[list[Tree | None]]()
        for own in results:
            by_token = [trees_of(each, count, fractions) for each in np.stack(own, axis=1)]
            starts = [divmod(part * batch, ranks) for part in range(ranks)]
            found.append([by_token[token][rest // shared] for token, rest in starts])
        return found

    def words(self, trees: Sequence[Tree | None], alone: Sequence[Tree | None]) -> str:
        """The orders of all parts, the same words for an order that is also that of TP 1, `alone`;
        "" if one is unknown."""
        words = [
            words_of(tree, self.columns, self.room.layer.inner, 1 if tree in alone else self.ranks)
            for tree in dict.fromkeys(trees)
            if tree is not None
        ]
        return "" if None in trees else "; ".join(words)

    def rounds_parts(self, subject: Subject, tree: Tree | None) -> bool | None:
        """Whether a sum in this tree is rounded to the datatype before it is added further."""
        weights = rounding_rows(tree, len(self.columns))[1] if tree is not None else None
        weights = self.room.session.communicator.broadcast(weights)
        if weights is None:
            return None
        self.fill(weights)
        return bool((self.result(subject, 1)[0, : len(weights)] != TINY).any())

    def by_batch(self, subject: Subject, trees: Trees, alone: Trees) -> dict[str, str]:
        """The order in words by the tokens of a batch, from those of the least and the greatest
        batch; where they differ, also from which batch on it is another. `alone`: those of TP 1."""
        communicator = self.room.session.communicator

        def orders(batch: int) -> list[str] | None:
            if batch not in trees:
                if isinstance(self.bind(subject, batch), Unsupported):
                    return None
                [trees[batch]] = self.trees([subject], batch)
            same = [tree for own in alone.values() for tree in own]
            words = communicator.broadcast(self.words(trees[batch], same))
            return [words] if words else []

        least, most = min(trees), max(trees)
        found = {str(batch): orders(batch) or [] for batch in (least, most)}
        found |= {str(batch): after for batch, _, after in changes([least, most], orders)}
        return {batch: words for batch, known in found.items() for words in known}


def add_orders(
    room: Room, measured: Sequence[tuple[Key, Subject, TpBits]], alone: dict[Key, Trees]
) -> None:
    """Adds to each form at this number of ranks its orders, and why its bits differ from those of
    TP 1, whose trees are `alone`. At TP 1 it adds them there. All ranks call it; rank 0 gets it.
    Raises Refusal."""
    orders, every = Orders(room), [Trees() for _ in measured]
    ranks = orders.ranks
    owners = [column * ranks // room.layer.inner for column in orders.columns]
    for batch in TOKENS:
        ends = [
            (subject, trees)
            for (_, subject, tp), trees in zip(measured, every, strict=True)
            if batch in (tp.batches[0].tokens, tp.batches[-1].tokens)
        ]
        found = orders.trees([subject for subject, _ in ends], batch) if ends else []
        for (_, trees), own in zip(ends, found, strict=True):
            trees[batch] = own
    for (key, subject, tp), trees in zip(measured, every, strict=True):
        tp.orders = orders.by_batch(subject, trees, alone.get(key, {}))
        if ranks == 1:
            alone[key] = trees
        else:
            tp.rounds_parts = orders.rounds_parts(subject, next(iter(trees[min(trees)]), None))
        tp.reason = orders.failures.get(id(subject))
        differs = any("tp" in each.compared and each.compared["tp"].differ for each in tp.batches)
        if room.session.world.rank or key not in alone:
            continue
        one = {batch: own * ranks for batch, own in alone[key].items()}
        # The bits of another order may be the same by chance, in all that was compared.
        if differs or not same_trees(one, trees):
            rounds_parts = bool(tp.rounds_parts) and differs
            tp.causes = causes(one, trees, owners, rounds_parts=rounds_parts, differs=differs)


def same_trees(one: Trees, other: Trees) -> bool:
    """Whether no part that is known in both has another order."""
    return all(
        None in pair or pair[0] == pair[1]
        for batch in one.keys() & other.keys()
        for pair in zip(one[batch], other[batch], strict=True)
    )
