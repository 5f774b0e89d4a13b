"""The parts of a wire, from runs of `bench.link` on one card, and the all-reduces of two cards that
it joins; a wire in four figures, and those of its cards. Both by formulas over these and what each
algorithm moves (docs/advise.md).

Host memory that a GPU maps crosses PCIe for every access: so one card has all parts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from collectives import registry
from collectives.collective import COLLECTIVES, DATATYPES, Traffic
from collectives.operation import CollectiveCase
from reports.advice.reduce_times import ReduceTimes
from reports.advice.spans import Cases, Span
from reports.advice.specs import Gpu, Route
from reports.references import published
from reports.tables.plot import time_span_of
from reports.tables.sentences import left_out_lines, number, size_text
from wiretax.common.grouped import grouped
from wiretax.common.program import on_ranks
from wiretax.record.folder import in_order
from wiretax.record.manifest import files_of
from wiretax.record.observations import entry_of
from wiretax.record.result import ResultError, read
from wiretax.record.schema import Case, NotNegative, Positive, Result

MEASURE = f"{on_ranks(2, 'link')} --ranks-share-gpus --memory host_staged -e 16M measures them"
# A read's round trip goes on from the root complex into memory, a store into another card does not:
# less than the latency of DRAM.
MEMORY_US = 0.1
LEAST_MOVED_BYTES = 4 << 20  # of fewer stored or loaded bytes a launch is more than 5 %
TAKE_TURNS = 10  # from so many round trips of a load on a flag waits for the scheduler
# Of bench.link: what it times, and what moves bytes.
MEASURED = "graph_kernel", "dependent_loads", "ping_pong", "fenced_stores", "unfenced_stores"
MOVED = "stores", "loads", "stores_and_loads"
SIZES = [1 << power for power in range(10, 28)]
# Seven times of another owner's kernels lie within 18 % of what the formulas say of them
# (tests/reports/advice/test_wire.py).
GIVEN_SPREAD = 0.2
ALGORITHMS = registry.ALGORITHMS["all_reduce"]
# Those that a wire's formula compares.
OVER_GIVEN = [name for name, each in ALGORITHMS.items() if "wire" in each.formulas]
# The algorithms whose formulas were checked, on an H100 through host memory, and the least and the
# most that these say over what was measured (tests/reports/advice/test_predict.py).
CHECKED = [name for name, each in ALGORITHMS.items() if "parts" in each.formulas]
FORMULA_OVER_MEASURED = 0.91, 1.13


def traffic_of(name: str, size_bytes: int, ranks: int = 2) -> Traffic | None:
    """What each rank moves in an all-reduce; None of a size that the algorithm does not take."""
    all_reduce, algorithm = COLLECTIVES["all_reduce"], ALGORITHMS[name]
    if size_bytes > algorithm.limits.most(ranks):
        return None
    case = CollectiveCase(all_reduce, size_bytes, DATATYPES["int8"], "sum", send=0, receive=0)
    return algorithm.traffic(ranks, case)


@dataclass(frozen=True)
class Parts:
    """Spans of what one `card` takes over its wire, over all ranks and launches. In us: a kernel in
    a graph, the round trip of a dependent load, a flag one way through host memory, the drain of
    stores before a flag. In us a byte: stores and loads alone, and each of both at once."""

    card: str
    launches: int
    kernel: Span
    load: Span
    flag: Span
    drain: Span
    store_byte: Span
    load_byte: Span
    both_byte: Span

    @property
    def is_shared_in_turns(self) -> bool:
        """Whether the ranks did not run at once: then no flag tells of the wire."""
        return self.flag.value > TAKE_TURNS * self.load.value

    def drain_of(self, name: str) -> Span:
        """How long an algorithm's stores take to end before its flag, in us."""
        if ALGORITHMS[name].flags_in_data:
            return Span(0.0, low=0.0, high=0.0)
        return self.drain

    def between_cards(self, route: Route, gpu: Gpu, name: str, traffic: Traffic) -> Span:
        """The time of an all-reduce of two cards in us. What a rank stores into its own memory, and
        loads from there, is local: at worst both inputs and the sum are not hidden."""
        hop_factor = route.hop.low_is_best()
        hop = (self.load - MEMORY_US).at_least(0) * hop_factor
        stored_bytes, loaded_bytes = map(sum, zip(*traffic.stages, strict=True))
        if ALGORITHMS[name].pushes:
            wait = self.drain_of(name)
            moved_bytes, byte = stored_bytes, self.store_byte / route.store.high_is_best()
        else:
            wait = self.load * hop_factor  # a read of the peer's memory after the flag
            moved_bytes, byte = loaded_bytes, self.load_byte / route.load.high_is_best()

        # At worst both directions are busy.
        byte = replace(byte, high=max(byte.high, self.both_byte.high))
        us = self.kernel + traffic.hops * (hop + wait) + moved_bytes * byte
        memory_us = 3 * traffic.memory_bytes / gpu.bandwidth_gb_s / 1e3
        return replace(us, high=us.high + memory_us)

    def through_host(self, name: str, traffic: Traffic, cards: int = 2) -> Span:
        """The time of an all-reduce of two ranks through host memory in us, on two cards or on one,
        whose wire then has the bytes of both. Typically only the stores and loads of one stage
        overlap, at best both are always busy."""
        typical = 0.0
        for stored_bytes, loaded_bytes in traffic.stages:
            overlapping_bytes = min(stored_bytes, loaded_bytes)
            typical += (
                overlapping_bytes * self.both_byte.value
                + (stored_bytes - overlapping_bytes) * self.store_byte.value
                + (loaded_bytes - overlapping_bytes) * self.load_byte.value
            )
        crossed_bytes = sum(stored for stored, _ in traffic.stages)
        in_turn, both_byte = self.store_byte + self.load_byte, self.both_byte
        best = crossed_bytes * min(both_byte.low, in_turn.low)
        worst = crossed_bytes * max(2 * both_byte.high, in_turn.high)
        waits = self.load + traffic.hops * (self.flag + self.drain_of(name))
        moves = Cases(typical, best, worst).low_is_best()
        return self.kernel + waits + moves * 2 / cards

    def fastest(self, route: Route | None, gpu: Gpu, size_bytes: int) -> tuple[str, Span]:
        """The checked algorithm with the least typical time in us of an all-reduce of two cards, by
        a route or, with None, through host memory; and the least of all times, end by end: where a
        route is at its worst, bench.tune takes another one."""
        spans = {
            name: self.between_cards(route, gpu, name, traffic)
            if route
            else self.through_host(name, traffic)
            for name in CHECKED
            if (traffic := traffic_of(name, size_bytes))
        }
        name = min(spans, key=lambda name: spans[name].value)
        least = spans[name]
        for span in spans.values():
            least = least.at_most(span)
        return name, least


class Wire(NamedTuple):
    """A wire in four figures: us of a kernel in a graph; us of a handshake, from the store of a
    flag until a peer has seen it; GB/s one way of the narrowest link; the cards that share it."""

    kernel_us: NotNegative
    handshake_us: NotNegative
    gb_s: published.Positive
    cards: Positive = 1

    def time_us(self, name: str, size_bytes: int, gpus: int) -> float:
        """Of an all-reduce. `crowd` is how many times the bytes of a card's own link pass the
        narrowest link, through which each of these cards reaches the others; ranks that send to
        their neighbours alone are in order, so that only one of them does."""
        traffic = traffic_of(name, size_bytes, gpus)
        assert traffic, "it takes every size"
        stored_bytes = sum(stored for stored, _ in traffic.stages)
        crowd = 1.0
        if not ALGORITHMS[name].to_neighbours:
            crowd = max(crowd, self.cards * (gpus - self.cards) / (gpus - 1))
        waits_us = self.kernel_us + traffic.hops * self.handshake_us
        return waits_us + stored_bytes * crowd / self.gb_s / 1e3

    def times(self, gpus: int, size_bytes: int) -> ReduceTimes:
        """The fastest algorithm at each size, one of them `size_bytes`. Raises ResultError if there
        are fewer GPUs than two or than share a link."""
        least = max(2, self.cards)
        if gpus < least:
            raise ResultError(f"--wire joins at least {least} GPUs, not {gpus}")
        if not OVER_GIVEN:
            raise ResultError("--wire: no all-reduce here has a formula over a wire")

        spread = Span(1, low=1 - GIVEN_SPREAD, high=1 + GIVEN_SPREAD)
        spans = dict[int, Span]()
        fastest = dict[str, int]()  # the least size of each

        for size in sorted({*SIZES, size_bytes}):
            times_us = {name: self.time_us(name, size, gpus) for name in OVER_GIVEN}
            name = min(times_us, key=lambda name: times_us[name])
            spans[size] = times_us[name] * spread
            fastest.setdefault(name, size)

        by = ", ".join(f"{name} from {size_text(size)}" for name, size in fastest.items())
        source = (
            f"PREDICTED, not measured: {number(self.kernel_us)} us a kernel of a graph, "
            f"{number(self.handshake_us)} us a handshake, {number(self.gb_s)} GB/s of a link that "
            f"{self.cards} of {gpus} cards share; {by}; brackets: +-{GIVEN_SPREAD:.0%}"
        )
        return ReduceTimes(gpus, source, spans)


def runs_of_one_card(names: Iterable[Path]) -> tuple[list[Result], list[str]]:
    """The runs of bench.link and of all-reduces that count, and sentences on those that do not.
    Raises ResultError for runs that are not of one GPU."""
    results = {path: read(path) for name in names for path in files_of(name)}
    entries = in_order(map(entry_of, results.values()))
    notes = left_out_lines((each.path, each.left_out) for each in entries)
    counted = [
        results[each.path]
        for each in entries
        if not each.left_out and each.run.benchmark in ("link", "allreduce")
    ]
    machines = dict[Any, Result]()

    for result in counted:
        ranks = result.run.ranks
        cards = {(rank.get("host"), rank.get("pci_bus_id")) for rank in ranks}
        if not ranks or not all(rank.get("gpu") for rank in ranks):
            raise ResultError(f"{result.path} is no run on a GPU: predict needs one card's")
        if len(cards) > 1:
            raise ResultError(
                f"{result.path} is a run of {len(cards)} GPUs: what predict would guess is "
                "measured there; advise reads it"
            )
        machines[result.run.machine_id, ranks[0]["gpu"]] = result

    if len(machines) > 1:
        first, second, *_ = machines.values()
        raise ResultError(f"{first.path} and {second.path} are of several machines")

    return counted, notes


def parts_of(results: Sequence[Result], notes: Sequence[str] = ()) -> Parts:
    """The parts that these runs measured through host memory. Raises ResultError, with the notes on
    runs that do not count, if one is missing."""
    timed = [
        (result.run, case)
        for result in results
        for case in result.cases
        if result.run.benchmark == "link"
        and case.memory == "host_staged"
        and case.status == "ok"
        and case.time_us
        and case.time_us.median > 0
        and (case.algorithm not in MOVED or case.size_bytes >= LEAST_MOVED_BYTES)
    ]
    found = grouped((case for _, case in timed), attrgetter("algorithm"))
    if missing := sorted({*MEASURED, *MOVED} - found.keys()):
        lack = (
            f"no run measured {', '.join(missing)} through host memory, and moved bytes from "
            f"{size_text(LEAST_MOVED_BYTES)} on: {MEASURE}"
        )
        raise ResultError("; ".join([lack, *notes]))

    spans = {name: spread_of(own) for name, own in found.items()}
    kernel, load, flag, fenced, unfenced = (spans[name] for name in MEASURED)
    drain = (fenced - unfenced).at_least(0)
    if not CHECKED:
        raise ResultError("no all-reduce here has a formula over these parts")
    card, launches = timed[0][0].ranks[0]["gpu"], len({run.run_id for run, _ in timed})
    return Parts(card, launches, kernel, load, flag, drain, *(spans[name] for name in MOVED))


def spread_of(cases: Iterable[Case]) -> Span:
    """The median of the cases' times, and their least and largest end, or time where a case has no
    interval; in us, or in us a byte of what moves bytes."""
    spans = []
    for case in cases:
        span = np.array(time_span_of(case.time_us))
        if case.algorithm in MOVED:
            span /= case.size_bytes
        spans.append(span)
    middles = [middle for middle, _, _ in spans]
    return Span(float(np.median(middles)), float(np.nanmin(spans)), float(np.nanmax(spans)))


@dataclass
class Tested:
    """An all-reduce on the card itself, and what the same parts say of it, in us."""

    algorithm: str
    size_bytes: int
    measured_us: float
    model_us: float


def error_of(checks: Iterable[Tested]) -> Span:
    """The factor from a formula's time to a measured one, typically, at best and at worst: of the
    H100 and of these checks."""
    ratios = [*FORMULA_OVER_MEASURED, *(each.model_us / each.measured_us for each in checks)]
    return Span(1.0, low=1 / max(ratios), high=1 / min(ratios))


def checks_of(parts: Parts, results: Sequence[Result]) -> list[Tested]:
    """Chains of two ranks over host memory from a graph, where the runs have them: the median over
    launches, with the link: the formulas have no kernel that makes the next input, so they are
    checked with a second kernel."""
    chains = (
        case
        for result in results
        for case in result.cases
        if result.run.benchmark == "allreduce"
        and result.run.method.get("graph")
        and result.run.world_size == 2
        and case.mode == "chained"
        and case.memory == "host_staged"
        and case.time_us
        and case.algorithm in CHECKED
    )
    checks = []
    measured = grouped(chains, attrgetter("algorithm", "size_bytes"))
    for (name, size_bytes), own in sorted(measured.items()):
        if traffic := traffic_of(name, size_bytes):
            stamped_us = [time_span_of(case.with_link_us or case.time_us)[0] for case in own]
            measured_us = float(np.median(stamped_us))
            model_us = (parts.through_host(name, traffic, cards=1) + parts.kernel).value
            checks.append(Tested(name, size_bytes, measured_us, model_us))

    return checks
