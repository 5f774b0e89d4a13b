"""What `auto` chooses without a tuned table, and what a collective promises about itself."""

from dataclasses import replace
from functools import partial
from itertools import groupby, product
from types import SimpleNamespace
from typing import Any, cast

import pytest

from collectives.algorithm import (
    ALGORITHMS,
    STATES_NS,
    Cores,
    choose,
    choose_direct,
    choose_message,
    choose_on_gpus,
    choosing_among,
    named,
    untuned_states,
)
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.library.mpi import types_of
from collectives.operation import Algorithm, Case, Operation, TunedChoice, build_macros
from collectives.peer_buffer import half_for
from kernels.devices.device import HALF_BYTES

pytestmark = pytest.mark.unit

ALL_REDUCE, FLOAT32 = COLLECTIVES["all_reduce"], DATATYPES["float32"]
SIZES = [1 << power for power in range(12, 28)]
# Up to 128 MiB. Few steps for short messages, the longer the slower a flag is; few bytes for long
# ones.
CHOICES = """
2 ranks, 100 ns, copied: one_shot_pull to 16K, two_shot to 256K, two_shot+128K to 8M, \
two_shot+ntr+128K to 128M
2 ranks, 225 ns, copied: one_shot_pull to 32K, two_shot to 256K, two_shot+128K to 8M, \
two_shot+ntr+128K to 128M
2 ranks, 512 ns, hold a MiB, copied: \
one_shot_pull to 128K, two_shot to 1M, two_shot+128K to 8M, two_shot+ntr+128K to 128M
2 ranks, 225 ns, hold a MiB, registered: \
two_shot to 512K, two_shot_direct to 8M, two_shot_direct+nt to 16M, two_shot_direct+nt+ntr to 128M
2 ranks, 380 ns, hold a MiB, registered: one_shot_pull+slabs to 32K, two_shot_direct+nt to 128M
2 ranks, 380 ns, share a cache, registered: \
one_shot_pull+slabs to 32K, two_shot to 256K, two_shot+128K to 512K, two_shot_direct+nt to 128M
2 ranks, 512 ns, hold a MiB, registered in place: one_shot_pull+slabs to 32K, \
two_shot_direct to 128M
2 ranks, 512 ns, share a cache, registered in place: two_shot_direct to 128M
2 ranks, 512 ns, hold a MiB, share a cache, registered in place: two_shot_direct to 128M
3 ranks, 512 ns, hold a MiB, registered in place: two_shot_direct to 128M
2 ranks, 100 ns, registered chained: one_shot_pull+slabs to 16K, two_shot+slabs to 128K, \
two_shot to 512K, \
two_shot_direct to 8M, two_shot_direct+nt to 16M, two_shot_direct+nt+ntr to 128M
2 ranks, 380 ns, hold a MiB, registered chained: one_shot_pull+slabs to 64K, two_shot+slabs to 1M, \
two_shot+128K+slabs to 8M, two_shot+ntr+128K+slabs to 128M
4 ranks, 100 ns, copied: one_shot_pull to 32K, two_shot to 8M, two_shot+ntr to 128M
4 ranks, 380 ns, copied: one_shot_pull to 32K, two_shot_push to 4M, two_shot to 8M, \
two_shot+ntr to 128M
8 ranks, 380 ns, copied: one_shot_pull to 32K, two_shot to 8M, two_shot+ntr to 128M
3 ranks, 100 ns, hold a MiB, copied: one_shot_push to 64K, two_shot_push to 256K, \
two_shot to 8M, two_shot+ntr to 128M
8 ranks, 100 ns, hold a MiB, copied: one_shot_pull to 32K, two_shot to 512K, \
two_shot+128K to 8M, two_shot+ntr to 128M
8 ranks, 380 ns, hold a MiB, copied: one_shot_push to 16K, two_shot_push to 128K, \
two_shot+nt to 4M, two_shot+ntr to 128M
4 ranks, 100 ns, registered: \
one_shot_pull+slabs to 32K, two_shot_push to 256K, two_shot_direct to 8M, two_shot_direct+nt to 128M
8 ranks, 380 ns, registered: one_shot_pull+slabs to 32K, two_shot+slabs to 2M, \
two_shot_direct+nt to 128M
4 ranks, 100 ns, hold a MiB, registered: one_shot_push+slabs to 32K, two_shot_push+slabs to 128K, \
two_shot_push to 256K, two_shot_direct to 8M, two_shot_direct+nt to 128M
4 ranks, 380 ns, hold a MiB, registered: one_shot_push+slabs to 32K, two_shot_push+slabs to 256K, \
two_shot+nt+slabs to 512K, two_shot_push+nt to 4M, two_shot_direct+nt to 128M
2 GPUs, copied: one_shot_ll to 32K, one_shot_push to 512K, two_shot_push to 128M
8 GPUs, copied: one_shot_ll to 8K, one_shot_push to 64K, two_shot_push to 128M
4 GPUs, registered: one_shot_pull to 32K, two_shot_push to 128M
a message, 225 ns, copied: direct_pull to 16M, direct_push+ntr to 128M
a message, 225 ns, copied answered: direct_pull to 8M, direct_push+ntr to 128M
a message, 380 ns, copied answered: direct_pull to 128M
a message, 225 ns, registered: direct_pull to 128M
a message, 380 ns, registered: direct_pull to 512K, direct_pull+slabs to 8M, direct_pull to 128M
a message, 512 ns, registered: direct_pull to 128M
segments, copied: direct_pull to 2M, direct_pull+128K to 128M
segments, registered: direct_pull to 128M
"""


def chosen(words: str, size: int) -> str:
    """The choice for a situation in the words of CHOICES."""
    what, *facts = words.split(", ")
    ranks, registered = what.partition(" ")[0], "registered" in words
    trip_ns = next((float(fact[:-3]) for fact in facts if fact.endswith(" ns")), 0.0)
    if what == "segments":
        return choose_direct(size, registered)
    if what == "a message":
        return choose_message(size, trip_ns, registered, "answered" in words)
    if what.endswith("GPUs"):
        return choose_on_gpus(size, int(ranks), registered)
    cores = Cores(trip_ns, "hold a MiB" in facts, "share a cache" in facts)
    return choose(size, int(ranks), cores, registered, "in place" in words, "chained" in words)


@pytest.mark.parametrize("line", CHOICES.strip().splitlines())
def test_auto_follows_the_table(line):
    words, _, expected = line.partition(": ")
    names = []
    for name, sizes in groupby(SIZES, key=partial(chosen, words)):
        *_, last = sizes
        names.append(f"{name} to {last >> 20}M" if last >> 20 else f"{name} to {last >> 10}K")
    assert ", ".join(names) == expected


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_auto_on_cpus_chooses_what_has_the_variant(ranks):
    caches, flags = ((False, False), (True, False), (False, True)), (False, True)
    for trip_ns, cache, size, registered, in_place in product(
        STATES_NS, caches, SIZES, flags, flags
    ):
        name = choose(size, ranks, Cores(trip_ns, *cache), registered, in_place)
        variants = named(ALGORITHMS["all_reduce"], name).variants(cast(Any, None))
        assert ("registered" if registered else "copied") in variants, (name, trip_ns, cache, size)


def test_a_build_over_slabs_has_only_a_registered_variant_and_moves_what_the_copied_one_moves():
    algorithms = ALGORITHMS["all_reduce"]
    built = named(algorithms, "two_shot+slabs")
    assert built.variants(cast(Any, None)) == ("registered",)
    case = Case(ALL_REDUCE, 1024, FLOAT32, "sum", 0, 0, variant="registered")
    copied = built.traffic(2, case)
    assert copied == algorithms["two_shot"].traffic(2, replace(case, variant="copied"))
    assert copied != algorithms["two_shot"].traffic(2, case)
    with pytest.raises(ValueError, match="two_shot_direct uses no slabs"):
        named(algorithms, "two_shot_direct+slabs")


def test_a_tuned_state_replaces_all_defaults_of_its_state():
    """Round trips of 380 and 512 ns are one state of the link, in which tables hold either."""
    assert (
        untuned_states(STATES_NS, [340.0]) == untuned_states(STATES_NS, [600.0]) == [100.0, 225.0]
    )
    assert untuned_states(STATES_NS, [95.0]) == [225.0, 380.0, 512.0]
    assert untuned_states(STATES_NS, [222.0]) == [100.0, 380.0, 512.0]


def chosen_by_auto(case: Case, *choices: TunedChoice) -> str | None:
    """The algorithm that `auto` runs between two near cores, if every build of every algorithm
    fits."""
    stubs = [
        Algorithm(name, "", lambda world, case: Operation(cast(Any, None), lambda: None))
        for name in ("two_shot", "direct_pull", "direct_push")
    ]
    device = SimpleNamespace(is_cpu=True, holds_a_mebibyte=True, shares_a_cache=False)
    ranks = SimpleNamespace(size=2, hosts=1)
    world: Any = SimpleNamespace(
        choices=choices, node=None, memory="mapped", device=device, communicator=ranks
    )
    bound = choosing_among(stubs, case.collective is ALL_REDUCE).bind(world, case)
    assert isinstance(bound, Operation)
    return bound.by_link[min(bound.by_link)].chosen if bound.by_link else bound.chosen


@pytest.mark.parametrize(
    ("collective", "tuned", "in_place_too"),
    [
        ("all_reduce", "two_shot+ntr", "two_shot"),
        ("all_gather", "direct_pull+ntr", "direct_pull+ntr"),
    ],
)
def test_auto_sums_in_place_without_stores_around_the_caches(collective, tuned, in_place_too):
    """They would throw out lines that the rank has just read: 16 MiB took 1.5 to 1.9 times as
    long."""
    out = Case(COLLECTIVES[collective], 4 << 20, FLOAT32, "none", 0, 0)
    choice = TunedChoice(collective, 2, 16 << 20, "copied", 100.0, tuned)
    assert chosen_by_auto(out, choice) == tuned
    assert chosen_by_auto(replace(out, in_place=True), choice) == in_place_too


def message(way: str) -> Case:
    return Case(COLLECTIVES["sendrecv"], 4 << 20, FLOAT32, "none", 0, 0, shape={"way": way})


@pytest.mark.parametrize("name", ["library", "direct_pull"])
def test_the_bound_of_a_message_there_and_back_counts_both_legs(name):
    traffic = ALGORITHMS["sendrecv"][name].traffic
    one_way, ping_pong = (traffic(2, message(way)) for way in ("one_way", "ping_pong"))
    assert one_way
    assert ping_pong
    assert (ping_pong.stages, ping_pong.hops) == (2 * one_way.stages, one_way.hops + 1)


def test_sums_walk_several_pages_at_once_only_if_they_are_long():
    device = SimpleNamespace(far_sums_bytes=8 << 20, far_copies_bytes=float("inf"))
    world: Any = SimpleNamespace(communicator=SimpleNamespace(size=2), device=device)
    walks = [
        (name, size)
        for name, size in product(("reduce_scatter", "all_gather"), (4 << 20, 8 << 20))
        if "WT_SEVERAL_PAGES"
        in build_macros(world, Case(COLLECTIVES[name], size // 8, FLOAT32, "sum", 0, 0))
    ]
    assert walks == [("reduce_scatter", 8 << 20)]


def test_slabs_hold_four_chunks_of_a_message_and_stay_small_on_a_cpu():
    assert half_for(1 << 30, 512 << 10) == HALF_BYTES
    halves = [half_for(size << 20, 8 << 20) >> 20 for size in (1, 2, 3, 8, 32)]
    assert halves == [4, 8, 16, 32, 32]


def test_a_collective_gives_its_least_bytes_and_its_reason_against_a_chain():
    least = {name: collective.least_bytes(300, 3) for name, collective in COLLECTIVES.items()}
    assert (least.pop("all_reduce"), least.pop("sendrecv")) == ((400, 300), (300, 0))
    assert set(least.values()) == {(600, 300)}

    def reason(collective: str, redop: str = "none", datatype: str = "float32", **shape: str):
        types = DATATYPES[datatype]
        return COLLECTIVES[collective].reason_against_chain(shape, redop, types) or ""

    assert reason("all_reduce", "sum") == reason("sendrecv", way="ping_pong") == ""
    assert reason("alltoall", way="round_trip") == ""
    assert "range" in reason("all_reduce", "prod")
    assert "rounds in float8_e5m2" in reason("all_reduce", "sum", "float8_e5m2")
    assert reason("sendrecv", way="one_way")
    assert reason("alltoall", way="combine")


def test_a_table_of_versions_gives_the_types_that_a_library_reduces():
    assert types_of("MPICH 5.0.2")["float16"] == "FLOAT16_T"
    assert "float16" not in types_of("MPICH 4.3.1")
    assert "bfloat16" not in types_of("MPICH 5.0.2")
    assert types_of("Open MPI of unknown version")["float32"] == "FLOAT"
