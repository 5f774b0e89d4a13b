"""Tests every algorithm against numpy in float64: any count, type, operation and alignment, in place or not, one to
eight ranks."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from bench.harness import verify
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
from collectives.collective import COLLECTIVES, DATATYPES, REDOPS, combined
from collectives.library.mpi import types_of
from collectives.operation import Algorithm, Case, Operation, TunedChoice, World, build_macros
from collectives.peer_buffer import HALF_BYTES, half_for
from kernels.devices.device import Step
from tests.kernels.broken_kernels import SENTINEL, Patch, apply, tree
from tests.launch import ROOT, count, few, mpirun
from tests.ranks.world import ROUNDING

pytestmark = pytest.mark.alone

ALL_REDUCE = COLLECTIVES["all_reduce"]


@pytest.mark.parametrize("ranks", few([2, 3], 1))
def test_every_algorithm_is_right_for_fixed_messages(ranks):
    """Drawn examples try more, but may leave an algorithm out."""
    done = mpirun(ranks, "tests/ranks/collective_ranks.py", "fixed", str(ranks))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"fixed examples right on {ranks} ranks" in done.stdout


FENCES = "without the fence before the flag", "without the fence after the launch"


@pytest.mark.parametrize("missing", few([(FENCES[0],), (), (FENCES[1],)], 2))
def test_streaming_stores_are_fenced_before_a_flag_and_at_the_end_of_a_launch(missing, tmp_path):
    """A rank that sees a flag must see the data. On a real CPU a missing fence shows only in rare launches."""
    delayed = tree(tmp_path / "tree", "delayed streaming stores", *missing)
    done = mpirun(
        2,
        "tests/ranks/collective_ranks.py",
        "fixed",
        "3",
        "cpu",
        "auto",
        "all_reduce",
        tree=delayed,
    )
    assert (done.returncode == 0) == (not missing), done.stderr[-3000:]
    assert missing or "fixed examples right on 2 ranks" in done.stdout
    # The ranks' lines mix.
    assert not missing or (
        "AssertionError" in done.stderr
        and "all_reduce" in done.stderr
        and ": element (" in done.stderr
    )


@pytest.mark.parametrize(
    ("ranks", "examples"), few([(2, 250), (8, 20), (3, 200), (1, 60), (4, 80), (5, 80)], 2)
)
def test_every_collective_is_correct_and_equal_results_have_equal_bits(ranks, examples):
    examples = count(examples)
    done = mpirun(ranks, "tests/ranks/collective_ranks.py", str(examples), str(ranks))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{examples} examples right on {ranks} ranks" in done.stdout


SENT = "word = ~word ? word : word >> 1;"


@pytest.mark.parametrize("replaces", few([True, False], 1))
def test_data_equal_to_the_sentinel_arrive_as_nan(replaces, tmp_path):
    where = tree(tmp_path / "tree") if not replaces else ROOT
    if not replaces:
        apply(where, [Patch(SENTINEL, SENT, "word = word;")])
    done = mpirun(2, "tests/ranks/sentinel_ranks.py", tree=where)
    assert (done.returncode == 0) == replaces, done.stderr[-3000:]
    assert ("36 launches right" in done.stdout) == replaces


@pytest.mark.parametrize("redop", REDOPS)
@pytest.mark.parametrize("datatype", DATATYPES.values(), ids=DATATYPES)
@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_expected_result_is_exact_and_no_error_matches_it(datatype, redop, ranks):
    data = verify.Data(ALL_REDUCE, datatype, redop, ranks, seed=5)
    tables = [data.table(rank, 0) for rank in range(ranks)]

    def result(inputs):
        values = combined(inputs, redop, datatype)
        return values if datatype.is_float else datatype.decode(datatype.encode(values))

    exact, expected = result(tables), datatype.decode(data.received({})[0, 0])
    tolerance = 2 * np.abs(exact) * (ROUNDING[datatype.name] + 2.0**-24) if redop == "avg" else 0
    assert np.all(np.abs(expected - exact) <= tolerance)
    stale = [np.roll(tables[0], -1), *tables[1:]]
    adds = redop in ("sum", "avg")
    # Sums of fp8 have two to sixteen exact values, and a quotient of a sum that wraps may lose the difference.
    least_stale = 0.3 if datatype.float8 and adds else 1.0
    least = 0.9 if redop == "avg" and datatype.size_bytes == 1 else 1.0
    assert np.mean(tables[0] != stale[0]) >= least_stale
    if adds or redop == "prod":
        assert np.mean(result(stale) != exact) >= min(least, least_stale), "one stale contribution"
        missing = [*tables[1:], tables[0] * 0 + (redop == "prod")]
        assert np.mean(result(missing) != exact) >= least, "a missing contribution"
        doubled = [*tables[1:], tables[0] * (tables[0] if redop == "prod" else 2)]
        assert np.mean(result(doubled) != exact) >= least, "a doubled contribution"
    elif datatype.is_float or datatype.name.startswith("int"):
        by_size = combined([np.abs(table) for table in tables], redop)
        assert np.any(by_size != np.abs(exact)), "a comparison of sizes"
    if not adds and redop != "prod" and datatype.name in ("int8", "uint8"):
        other_sign = DATATYPES["int8" if datatype.name == "uint8" else "uint8"]
        seen = [
            other_sign.decode(datatype.encode(table).view(other_sign.storage)) for table in tables
        ]
        misread = datatype.decode(other_sign.encode(combined(seen, redop)).view(datatype.storage))
        assert np.any(misread != exact), "a comparison of the other sign"


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan():
    bf16 = DATATYPES["bfloat16"]
    values = np.array([1.0, 1.00390625, 1.01171875, -1.00390625, np.nan, np.inf, 3.4e38, 1e-40])
    decoded = bf16.decode(bf16.encode(values))
    assert decoded[:4].tolist() == [1.0, 1.0, 1.015625, -1.0]
    assert np.isnan(decoded[4])
    assert np.isinf(decoded[5:7]).all()
    assert decoded[7] == pytest.approx(1e-40, rel=0.01)


@pytest.mark.parametrize("name", ["float8_e4m3", "float8_e5m2"])
def test_fp8_has_the_values_of_ocp_and_rounds_to_nearest_even_and_saturates(name):
    """OCP 8-bit Floating Point Specification, tables 1 and 2. The nearest code is found here by trying all."""
    fp8, (mantissa, largest, least) = (
        DATATYPES[name],
        {"float8_e4m3": (3, 448.0, 2.0**-9), "float8_e5m2": (2, 57344.0, 2.0**-16)}[name],
    )
    values = fp8.decode(np.arange(256, dtype=np.uint8))
    finite = values[np.isfinite(values)]
    assert (finite.max(), finite[finite > 0].min(), np.isinf(values).sum()) == (
        largest,
        least,
        2 * (mantissa == 2),
    )
    assert np.isnan(values).sum() == (2 if mantissa == 3 else 6)
    positive = finite[: len(finite) // 2]
    assert np.all(np.diff(positive) > 0)
    assert np.array_equal(values[128:][np.isfinite(values[128:])], -positive)
    middles = (positive[1:] + positive[:-1]) / 2
    drawn = np.exp2(np.random.default_rng(1).uniform(-20, 18, 3000))
    for tried in (positive, middles, np.nextafter(middles, 0), np.nextafter(middles, 1e9), drawn):
        distances = np.abs(np.minimum(tried, largest)[:, None] - positive)
        codes = [
            min(np.flatnonzero(of_one == of_one.min()), key=lambda code: code % 2)
            for of_one in distances
        ]
        assert np.array_equal(fp8.encode(tried), codes)
        assert np.array_equal(fp8.encode(-tried), np.array(codes) | 128)
    assert np.isnan(fp8.decode(fp8.encode(np.array([np.nan])))).all()
    assert fp8.decode(fp8.encode(np.array([np.inf, -np.inf]))).tolist() == [largest, -largest]


def test_a_mean_of_integers_is_the_quotient_of_the_sum_that_wraps():
    """As NCCL divides: towards 0."""
    inputs = [np.array([100, -7, -128]), np.array([100, 2, -128])]
    assert combined(inputs, "avg", DATATYPES["int8"]).tolist() == [-28, -2, 0]
    assert combined(inputs, "avg", DATATYPES["int32"]).tolist() == [100, -2, -128]


def test_a_table_of_versions_gives_the_types_that_a_library_reduces():
    assert types_of("MPICH 5.0.2")["float16"] == "FLOAT16_T"
    assert "float16" not in types_of("MPICH 4.3.1")
    assert "bfloat16" not in types_of("MPICH 5.0.2")
    assert types_of("Open MPI of unknown version")["float32"] == "FLOAT"


def test_auto_prefers_few_steps_for_small_messages_and_few_bytes_for_large_ones():
    """The slower a flag is, the longer one step beats two."""
    near, middle, far, farther = (
        [choose(1 << power, 2, Cores(trip_ns), registered=False) for power in range(12, 26)]
        for trip_ns in STATES_NS
    )
    steps = [names.count("one_shot_pull") for names in (near, middle, far, farther)]
    assert steps == [3, 4, 5, 6]  # up to 16, 32, 64 and 128 KiB
    for names in (near, middle, far, farther):
        assert list(dict.fromkeys(names)) == [
            "one_shot_pull",
            "two_shot",
            "two_shot+128K",
            "two_shot+ntr+128K",
        ]


def test_auto_cuts_copied_messages_that_a_core_does_not_hold_and_keeps_long_chains_in_slabs_that_it_does():
    sizes = 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20
    small, large = (
        [choose(size, 2, Cores(100.0, held), registered=False) for size in sizes]
        for held in (False, True)
    )
    assert small == ["two_shot"] * 2 + ["two_shot+128K"] * 3
    assert large == ["two_shot"] * 4 + ["two_shot+128K"]
    small, large = (
        [choose(size, 2, Cores(100.0, held), registered=True, chained=True) for size in sizes[:3]]
        for held in (False, True)
    )
    assert small == ["two_shot+slabs"] + ["two_shot"] * 2
    assert large == ["two_shot+slabs"] * 2 + ["two_shot"]


def test_auto_with_more_ranks_than_two_chooses_by_the_link_too():
    sizes = 32 << 10, 256 << 10, 1 << 20, 8 << 20, 32 << 20
    chosen = {
        (ranks, trip_ns, registered): [
            choose(size, ranks, Cores(trip_ns), registered) for size in sizes
        ]
        for ranks in (4, 8)
        for trip_ns in (100.0, 512.0)
        for registered in (False, True)
    }
    copied = ["one_shot_pull", "two_shot", "two_shot", "two_shot", "two_shot+ntr"]
    assert chosen[4, 100.0, False] == chosen[8, 100.0, False] == chosen[8, 512.0, False] == copied
    assert choose(256 << 10, 4, Cores(380.0), registered=False) == "two_shot_push"
    assert chosen[4, 512.0, False] == [
        "one_shot_pull",
        "two_shot_push",
        "two_shot_push",
        *copied[3:],
    ]
    direct, around = ["two_shot_direct"] * 2, ["two_shot_direct+nt"] * 2
    assert chosen[4, 100.0, True] == [
        "one_shot_pull+slabs",
        "two_shot_push",
        *direct,
        "two_shot_direct+nt",
    ]
    assert chosen[8, 512.0, True] == [f"{name}+slabs" for name in copied[:3]] + around


def test_many_ranks_on_cores_that_hold_a_mebibyte_store_for_each_peer_or_around_the_caches():
    sizes = 16 << 10, 64 << 10, 256 << 10, 1 << 20, 8 << 20, 32 << 20
    chosen = {
        (ranks, trip_ns, registered): [
            choose(size, ranks, Cores(trip_ns, True), registered) for size in sizes
        ]
        for ranks in (3, 4, 8)
        for trip_ns in (100.0, 380.0)
        for registered in (False, True)
    }
    short, long = (
        ["one_shot_push", "two_shot_push", "two_shot_push"],
        ["two_shot+nt", "two_shot+ntr", "two_shot+ntr"],
    )
    assert chosen[4, 380.0, False] == [*short, *long]
    assert chosen[8, 380.0, False] == [*short[:2], "two_shot+nt", *long]
    assert chosen[3, 100.0, False] == [
        "one_shot_push",
        *short[:2],
        "two_shot",
        "two_shot",
        "two_shot+ntr",
    ]
    assert chosen[4, 100.0, False] == [*short, "two_shot", "two_shot", "two_shot+ntr"]
    cut = ["two_shot+128K", "two_shot+128K", "two_shot+ntr"]
    assert chosen[8, 100.0, False] == ["one_shot_pull", "two_shot", "two_shot", *cut]
    around = ["two_shot_push+nt", "two_shot_direct+nt", "two_shot_direct+nt"]
    assert chosen[4, 380.0, True] == [f"{name}+slabs" for name in short] + around
    direct = ["two_shot_direct", "two_shot_direct", "two_shot_direct+nt"]
    assert chosen[4, 100.0, True] == [f"{name}+slabs" for name in short[:2]] + [
        "two_shot_push",
        *direct,
    ]


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_auto_on_cpus_chooses_what_has_the_variant(ranks):
    sizes, flags = [1 << power for power in range(4, 31)], (False, True)
    caches = (False, False), (True, False), (False, True)
    for trip_ns, cache, size, registered, in_place in itertools.product(
        STATES_NS, caches, sizes, flags, flags
    ):
        name = choose(size, ranks, Cores(trip_ns, *cache), registered, in_place)
        variants = named(ALGORITHMS["all_reduce"], name).variants(cast(World, None))
        assert ("registered" if registered else "copied") in variants, (name, trip_ns, cache, size)


def test_a_build_over_slabs_has_only_a_registered_variant_and_moves_what_the_copied_one_moves():
    algorithms = ALGORITHMS["all_reduce"]
    built = named(algorithms, "two_shot+slabs")
    assert built.variants(cast(World, None)) == ("registered",)
    case = Case(ALL_REDUCE, 1024, DATATYPES["float32"], "sum", 0, 0, variant="registered")
    copied = built.traffic(2, case)
    assert copied == algorithms["two_shot"].traffic(2, replace(case, variant="copied"))
    assert copied != algorithms["two_shot"].traffic(2, case)
    assert named(algorithms, "one_shot_push+slabs").variants(cast(World, None)) == ("registered",)
    with pytest.raises(ValueError, match="two_shot_direct uses no slabs"):
        named(algorithms, "two_shot_direct+slabs")


def test_direct_sums_have_no_copied_variant():
    variants = {
        name: ALGORITHMS["all_reduce"][name].variants(cast(World, None))
        for name in ("two_shot_direct", "two_shot", "ring")
    }
    assert variants == {
        "two_shot_direct": ("registered",),
        "two_shot": ("copied", "registered"),
        "ring": ("copied",),
    }


def test_auto_on_cpus_stores_into_peers_receive_buffers_only_if_messages_are_long_or_in_place():
    sizes = 128 << 10, 256 << 10, 512 << 10, 1 << 20, 8 << 20, 16 << 20, 32 << 20
    states = [Cores(trip_ns, True) for trip_ns in STATES_NS]
    near, middle, far, farther = (
        [choose(size, 2, cores, registered=True) for size in sizes] for cores in states
    )
    direct, around = "two_shot_direct", "two_shot_direct+nt"
    assert near == middle == ["two_shot"] * 3 + [direct] * 2 + [around, f"{around}+ntr"]
    assert far == farther == [around] * 7
    assert [choose(size << 10, 2, states[-1], registered=True) for size in (32, 63, 64)] == [
        "one_shot_pull+slabs"
    ] * 2 + [around]
    in_place = [
        choose(size << 10, 2, cores, registered=True, in_place=True)
        for cores in (states[0], Cores(380.0), states[2])
        for size in (32, 64)
    ]
    assert in_place == [direct] * 4 + ["one_shot_pull+slabs", direct]
    intels = Cores(380.0, True, share_a_cache=True)
    others = [
        choose(16 << 10, ranks, cores, True, in_place=True, chained=chained)
        for ranks, cores, chained in (
            (3, states[2], False),
            (2, intels, False),
            (2, states[2], True),
        )
    ]
    assert others == [direct, direct, "one_shot_pull+slabs"]


def test_far_cores_that_share_a_cache_read_each_others_registered_buffers_up_to_512_kib():
    """As Intel's: there direct sums around the caches took 1.1 to 1.3 times as long."""
    sizes = 32 << 10, 64 << 10, 256 << 10, 512 << 10, 1 << 20, 32 << 20
    cores = Cores(380.0, share_a_cache=True)
    assert [choose(size, 2, cores, registered=True) for size in sizes] == [
        "one_shot_pull+slabs",
        "two_shot",
        "two_shot",
        "two_shot+128K",
        "two_shot_direct+nt",
        "two_shot_direct+nt",
    ]
    assert choose(256 << 10, 2, cores, registered=True, chained=True) == "two_shot+slabs"


def test_chains_on_cpus_go_over_slabs():
    """A rank sends what it has just received: lines that its peer holds as well."""
    sizes = 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 8 << 20, 16 << 20, 32 << 20
    near, far = (
        [choose(size, 2, Cores(trip_ns, True), registered=True, chained=True) for size in sizes]
        for trip_ns in (100.0, 512.0)
    )
    direct, around = "two_shot_direct", "two_shot_direct+nt"
    assert near == ["two_shot+slabs"] * 3 + ["two_shot"] + [direct] * 2 + [around, f"{around}+ntr"]
    long = ["two_shot+128K+slabs"] + ["two_shot+ntr+128K+slabs"] * 2
    assert far == ["one_shot_pull+slabs"] * 2 + ["two_shot+slabs"] * 3 + long


def test_a_tuned_state_replaces_all_defaults_of_its_state():
    """Round trips of 380 and 512 ns are one state of the link, in which tables hold either."""
    assert (
        untuned_states(STATES_NS, [340.0]) == untuned_states(STATES_NS, [600.0]) == [100.0, 225.0]
    )
    assert untuned_states(STATES_NS, [95.0]) == [225.0, 380.0, 512.0]
    assert untuned_states(STATES_NS, [222.0]) == [100.0, 380.0, 512.0]


def test_auto_reads_one_message_from_the_sender_or_far_through_slabs():
    sizes = 16 << 10, 512 << 10, 1 << 20, 8 << 20, 16 << 20
    chosen = {
        (trip_ns, registered): [
            choose_message(size, trip_ns, registered, answered=False) for size in sizes
        ]
        for trip_ns in STATES_NS
        for registered in (False, True)
    }
    plain, slabs = "direct_pull", "direct_pull+slabs"
    assert {trip_ns for trip_ns in STATES_NS if chosen[trip_ns, False] == [plain] * 5} == {
        *STATES_NS
    }
    assert chosen[100.0, True] == chosen[225.0, True] == chosen[512.0, True] == [plain] * 5
    assert chosen[380.0, True] == [plain] * 2 + [slabs] * 2 + [plain]


@pytest.mark.parametrize(("answered", "least"), [(True, 16 << 20), (False, 32 << 20)])
def test_auto_pushes_a_long_message_around_near_caches(answered, least):
    chosen = {
        (trip_ns, registered): choose_message(least, trip_ns, registered, answered)
        for trip_ns in STATES_NS
        for registered in (False, True)
    }
    pushed = {key for key, choice in chosen.items() if choice == "direct_push+ntr"}
    assert pushed == {(100.0, False), (225.0, False)}
    assert {*chosen.values()} == {"direct_push+ntr", "direct_pull"}
    assert choose_message(least // 2, 100.0, False, answered) == "direct_pull"


def chosen_by_auto(case: Case, *choices: TunedChoice) -> str | None:
    """The algorithm that `auto` runs between two near cores, if every build of every algorithm fits."""
    stubs = [
        Algorithm(name, "", lambda world, case: Operation(cast(Step, None), lambda: None))
        for name in ("two_shot", "direct_pull", "direct_push")
    ]
    device = SimpleNamespace(near_peers=True, holds_a_mebibyte=True, shares_a_cache=False)
    world = cast(
        World,
        SimpleNamespace(
            choices=choices,
            node=None,
            memory="mapped",
            device=device,
            communicator=SimpleNamespace(size=2, hosts=1),
        ),
    )
    bound = choosing_among(stubs, case.collective.name == "all_reduce").bind(world, case)
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
    """They would throw out lines that the rank has just read: 16 MiB took 1.5 to 1.9 times as long."""
    out, in_place = (
        Case(COLLECTIVES[collective], 4 << 20, DATATYPES["float32"], "none", 0, 0, place)
        for place in (False, True)
    )
    choice = TunedChoice(collective, 2, 16 << 20, "copied", 100.0, tuned)
    assert [chosen_by_auto(case, choice) for case in (out, in_place)] == [tuned, in_place_too]
    if collective == "all_reduce":
        assert [chosen_by_auto(case) for case in (out, in_place)] == [
            "two_shot+ntr+128K",
            "two_shot+128K",
        ]


def test_auto_pushes_a_long_message_sooner_if_it_is_answered():
    chosen = {
        way: chosen_by_auto(
            Case(
                COLLECTIVES["sendrecv"],
                4 << 20,
                DATATYPES["float32"],
                "none",
                0,
                0,
                shape={"way": way},
            )
        )
        for way in ("one_way", "ping_pong")
    }
    assert chosen == {"one_way": "direct_pull", "ping_pong": "direct_push+ntr"}


def test_auto_cuts_long_segments_into_short_chunks():
    assert [choose_direct(size, registered=False) for size in (2 << 20, 4 << 20)] == [
        "direct_pull",
        "direct_pull+128K",
    ]
    assert choose_direct(4 << 20, registered=True) == "direct_pull"


def test_sums_walk_several_pages_at_once_only_if_they_are_long():
    device = SimpleNamespace(far_sums_bytes=8 << 20, far_copies_bytes=float("inf"))
    world = cast(World, SimpleNamespace(communicator=SimpleNamespace(size=2), device=device))
    walks = {
        (collective, size): "SEVERAL_PAGES"
        in build_macros(
            world, Case(COLLECTIVES[collective], size // 8, DATATYPES["float32"], "sum", 0, 0)
        )
        for collective in ("reduce_scatter", "all_gather")
        for size in (1 << 20, 2 << 20, 4 << 20, 8 << 20)
    }
    assert [key for key, walked in walks.items() if walked] == [("reduce_scatter", 8 << 20)]


def test_auto_on_gpus_stores_first_and_sends_fewer_bytes_the_longer_a_message_is():
    for ranks in range(2, 9):
        names = [choose_on_gpus(1 << power, ranks, False) for power in range(8, 27)]
        assert list(dict.fromkeys(names)) == ["one_shot_ll", "one_shot_push", "two_shot_push"]
        assert all(ALGORITHMS["all_reduce"][name].pushes for name in names)
        registered = {choose_on_gpus(1 << power, ranks, True) for power in range(8, 27)}
        assert registered == {"one_shot_pull", "two_shot_push"}
    assert choose_on_gpus(32 << 10, 2, False) == "one_shot_ll"
    assert choose_on_gpus(33 << 10, 2, False) == "one_shot_push", "packets have no room for more"


@pytest.mark.parametrize("variant", ["copied", "registered"])
def test_the_bound_of_a_message_there_and_back_counts_both_legs(variant):
    for name in ("library", "direct_pull"):
        one_way, ping_pong = (
            ALGORITHMS["sendrecv"][name].traffic(
                2,
                Case(
                    COLLECTIVES["sendrecv"],
                    1024,
                    DATATYPES["float32"],
                    "none",
                    0,
                    0,
                    variant=variant,
                    shape={"way": way},
                ),
            )
            for way in ("one_way", "ping_pong")
        )
        assert one_way
        assert ping_pong
        assert ping_pong.stages == 2 * one_way.stages
        assert ping_pong.hops == one_way.hops + 1


def test_slabs_hold_four_chunks_of_a_message_and_stay_small_on_a_cpu():
    assert half_for(1 << 30, 512 << 10) == HALF_BYTES
    assert [half_for(size << 20, 8 << 20) >> 20 for size in (1, 2, 3, 8, 32, 256)] == [
        4,
        8,
        16,
        32,
        32,
        32,
    ]


def test_a_collective_gives_its_least_bytes_and_its_reason_against_a_chain():
    least = {name: collective.least_bytes(300, 3) for name, collective in COLLECTIVES.items()}
    assert least == {
        "all_reduce": (400, 300),
        "all_gather": (600, 300),
        "reduce_scatter": (600, 300),
        "alltoall": (600, 300),
        "sendrecv": (300, 0),
    }
    fp32, fp8 = DATATYPES["float32"], DATATYPES["float8_e5m2"]
    assert ALL_REDUCE.reason_against_chain({}, "sum", fp32) is None
    assert "range" in (ALL_REDUCE.reason_against_chain({}, "prod", fp32) or "")
    assert "rounds in float8_e5m2" in (ALL_REDUCE.reason_against_chain({}, "sum", fp8) or "")
    for name, way, meaningless in (
        ("sendrecv", "one_way", True),
        ("sendrecv", "ping_pong", False),
        ("alltoall", "combine", True),
        ("alltoall", "round_trip", False),
    ):
        assert (
            bool(COLLECTIVES[name].reason_against_chain({"way": way}, "none", fp32)) == meaningless
        )
