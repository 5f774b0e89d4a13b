"""NVIDIA's axioms of PTX's memory consistency model, for litmus tests of a few threads.

`executions` returns every choice of the writes that the reads return which the axioms of the PTX
ISA ("Memory Consistency Model") allow. The reference is the formal version cat/ptx-v6.0.cat of
Dat3M (hernanponcedeleon/Dat3M). No-thin-air and the order of fence.sc are left out: no kernel
depends on them, and without them the model only allows more.

A relation is a list of integers: bit j of row i says that event i is related to event j. Coherence
is a partial order: weak writes without causality between them stay unordered."""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import product
from typing import NamedTuple

Relation = list[int]
INITIAL = -1  # the thread of the writes before all others


class Event(NamedTuple):
    """One operation. `kind`: R, W, F for a fence or B for a block barrier. `order`: weak, relaxed,
    acquire, release or acq_rel. `scope`: cta, gpu or sys. `updates`: a write in one atomic
    operation with the read before it."""

    kind: str
    location: object = None
    value: int | None = None  # of a write; of a read the only value that it may return, None: any
    order: str = "weak"
    scope: str = "sys"
    updates: bool = False
    thread: int = INITIAL


class Place(NamedTuple):
    """Where a thread runs."""

    gpu: int
    block: int = 0


def union(*relations: Relation) -> Relation:
    return [reduce(int.__or__, rows) for rows in zip(*relations, strict=True)]


def both(first: Relation, second: Relation) -> Relation:
    return [a & b for a, b in zip(first, second, strict=True)]


def then(first: Relation, second: Relation) -> Relation:
    return [
        reduce(int.__or__, (second[j] for j in range(len(second)) if row >> j & 1), 0)
        for row in first
    ]


def closure(relation: Relation) -> Relation:
    closed = list(relation)
    for k in range(len(closed)):
        closed = [row | closed[k] if row >> k & 1 else row for row in closed]
    return closed


def irreflexive(relation: Relation) -> bool:
    return not any(row >> i & 1 for i, row in enumerate(relation))


class Litmus:
    """The events of some threads, initial writes of 0 first, and the relations that no read's value
    changes."""

    def __init__(self, threads: Sequence[Sequence[Event]], places: Sequence[Place]) -> None:
        locations = {
            event.location: None
            for thread in threads
            for event in thread
            if event.location is not None
        }
        self.events = [Event("W", location, 0) for location in locations]
        self.events += [
            event._replace(thread=number)
            for number, thread in enumerate(threads)
            for event in thread
        ]
        events, self.places = self.events, places
        self.po = self._related(
            lambda i, j: i < j and events[i].thread == events[j].thread != INITIAL
        )
        self.same = self._related(
            lambda i, j: events[i].location is not None and events[i].location == events[j].location
        )
        self.strong = self._related(self._morally_strong)
        self.rmw = self._related(lambda i, j: j == i + 1 and events[j].updates)
        number = [
            sum(e.kind == "B" and e.thread == events[i].thread for e in events[:i])
            for i in range(len(events))
        ]
        self.barrier = self._related(
            lambda i, j: (
                events[i].kind == events[j].kind == "B"
                and i != j
                and number[i] == number[j]
                and self._includes(i, j, "cta")
            )
        )
        self.release = self._related(
            lambda i, j: (
                events[j].kind == "W"
                and events[j].order != "weak"
                and self._ordering(i, j, i, "W", "release")
            )
        )
        self.acquire = self._related(
            lambda i, j: (
                events[i].kind == "R"
                and events[i].order != "weak"
                and self._ordering(i, j, j, "R", "acquire")
            )
        )

    def _related(self, holds: Callable[[int, int], object]) -> Relation:
        indices = range(len(self.events))
        return [sum(1 << j for j in indices if holds(i, j)) for i in indices]

    def _includes(self, i: int, j: int, scope: str) -> bool:
        """Whether the thread of j is in this scope of the thread of i."""
        if INITIAL in (self.events[i].thread, self.events[j].thread):
            return False
        a, b = self.places[self.events[i].thread], self.places[self.events[j].thread]
        return scope == "sys" or (a.gpu == b.gpu and (scope == "gpu" or a == b))

    def _morally_strong(self, i: int, j: int) -> bool:
        a, b = self.events[i], self.events[j]
        if (
            i == j
            or "B" in (a.kind, b.kind)
            or ("F" not in (a.kind, b.kind) and not self.same[i] >> j & 1)
        ):
            return False
        in_scope = self._includes(i, j, a.scope) and self._includes(j, i, b.scope)
        return bool((self.po[i] | self.po[j]) & (1 << i | 1 << j) and a.thread == b.thread) or (
            "weak" not in (a.order, b.order) and in_scope
        )

    def _ordering(self, i: int, j: int, by: int, kind: str, order: str) -> bool:
        """Whether i and j are a release or acquire pattern, with `by` as the fence or the ordered
        access."""
        orders = self.events[by].order in (order, "acq_rel")
        before = self.po[i] >> j & 1
        return bool(
            orders
            and (
                (self.events[by].kind == "F" and before)
                or (self.events[by].kind == kind and (i == j or before & self.same[i] >> j))
            )
        )

    def _allows(self, sources: dict[int, int]) -> bool:
        n = len(self.events)
        rf = [sum(1 << read for read, write in sources.items() if write == i) for i in range(n)]
        strong_rf = both(rf, self.strong)
        observation = strong_rf
        for _ in range(n):
            longer = union(observation, then(then(observation, self.rmw), observation))
            if longer == observation:
                break
            observation = longer
        sync = both(then(then(self.release, observation), self.acquire), self.strong)
        po = union(self.po, [1 << i for i in range(n)])
        base = closure(then(then(po, union(sync, self.barrier)), po))
        cause = union(base, then(observation, union(base, both(self.po, self.same))))
        return any(self._coherent(rf, cause, co) for co in self._coherence_orders(cause))

    def _coherence_orders(self, cause: Relation) -> Iterator[Relation]:
        """The least coherence orders: causality, and one direction for each morally strong pair."""
        writes = [i for i, event in enumerate(self.events) if event.kind == "W"]
        mask = sum(1 << i for i in writes)
        first = [mask if event.thread == INITIAL else 0 for event in self.events]
        least = [
            row & self.same[i] & mask & ~(1 << i) if i in writes else 0
            for i, row in enumerate(union(cause, self.po, first))
        ]
        pairs = [
            (i, j)
            for i in writes
            for j in writes
            if i < j
            and both(self.strong, self.same)[i] >> j & 1
            and not (least[i] >> j | least[j] >> i) & 1
        ]
        for directions in product((True, False), repeat=len(pairs)):
            co = list(least)
            for (i, j), forwards in zip(pairs, directions, strict=True):
                co[i if forwards else j] |= 1 << (j if forwards else i)
            yield closure(co)

    def _coherent(self, rf: Relation, cause: Relation, co: Relation) -> bool:
        fr = [
            reduce(int.__or__, (co[w] for w, readers in enumerate(rf) if readers >> read & 1), 0)
            for read in range(len(self.events))
        ]
        communication = both(union(rf, co, fr), self.strong)
        return (
            irreflexive(co)  # Coherence
            and irreflexive(then(union(rf, fr), cause))  # Causality
            and irreflexive(
                closure(union(communication, both(self.po, self.same)))
            )  # SC per location
            and not any(both(then(both(fr, self.strong), both(co, self.strong)), self.rmw))
        )  # Atomicity

    def executions(self) -> Iterator[dict[int, int]]:
        """The write that each read returns, {index of the read: index of the write}, for each
        allowed execution."""
        writes = [i for i, event in enumerate(self.events) if event.kind == "W"]
        choices = {
            i: [
                w
                for w in writes
                if self.same[i] >> w & 1 and read.value in (None, self.events[w].value)
            ]
            for i, read in enumerate(self.events)
            if read.kind == "R"
        }
        for chosen in product(*choices.values()):
            sources = dict(zip(choices, chosen, strict=True))
            if self._allows(sources):
                yield sources


def allowed(threads: Sequence[Sequence[Event]], places: Sequence[Place]) -> bool:
    """Whether all reads together may return the values that they name."""
    return next(Litmus(threads, places).executions(), None) is not None
