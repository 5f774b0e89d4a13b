"""Builds by name, the search for the best build, and `auto`, which uses this machine's table."""

import json
import os
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import tune
from bench.harness import tuned
from bench.harness.head import Machine
from bench.harness.iteration import Iteration
from bench.harness.session import MEASURED, program_digest
from collectives.algorithm import (
    ALGORITHMS,
    STATES_NS,
    Cores,
    choices_for,
    choose,
    choose_through_host,
    named,
)
from collectives.build import Build
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.operation import Case, TunedChoice, Unsupported, World
from reports.store.result import ResultError, read
from reports.store.schema import Block
from reports.tables.tune import FINALISTS, winners
from tests import fake_gpu
from tests.launch import SLOW_TEST, mpirun
from tests.reports.synthetic_run import write_run

pytestmark = pytest.mark.alone

ANY = {
    "collective": "all_reduce",
    "ranks": 2,
    "size_bytes": 16384,
    "variant": "copied",
    "link_rtt_ns": 100.0,
    "algorithm": "ring",
}
QUICK = ("-b", "16K", "-e", "16K", "--max-time", "6")
KNOWN = ALGORITHMS["all_reduce"]
# The search among few candidates, without chains of calls: launches of the software GPU are slow.
TWO_CANDIDATES = """
import bench.harness.suite as suite
import bench.tune as tune
suite.MOST_CHAINED_BYTES = 0
tune.candidates = lambda size, far_peers, memory: ["one_shot_push+2b", "two_shot"]
tune.main()
"""
FEW_CANDIDATES = """
import bench.tune as tune
tune.candidates = lambda size, far_peers, memory: ["one_shot_pull", "two_shot", "ring", "two_shot_direct+nt"]
tune.main()
"""
# The algorithms behind `auto` without a table, and with one.
AUTO_OVER_HOST_MEMORY = """
from dataclasses import replace
from collectives.algorithm import ALGORITHMS
from collectives.collective import COLLECTIVES, DATATYPES
from collectives.communicator import Communicator
from collectives.operation import Case
from collectives.peer_buffer import WaitPolicy
from collectives.world import open_device, open_world
from kernels.devices.device import Watch
ranks = Communicator()
device, _ = open_device(ranks, "cuda", False)
world = open_world(ranks, device, WaitPolicy(device.watch(Watch()), yields=True), "host_staged")
case = Case(COLLECTIVES["all_reduce"], 4096, DATATYPES["float32"], "sum", device.private(16384).address,
            device.private(16384).address)
choices = [TunedChoice("all_reduce", 2, 16384, "copied", 100.0, name, memory)
           for name, memory in (("ring", "mapped"), ("two_shot+2b", "host_staged"))]
chosen = [ALGORITHMS["all_reduce"]["auto"].bind(world, case).chosen for world in
          (world, replace(world, choices=choices))]
if ranks.rank == 0:
    print(world.memory, *chosen)
"""


def run(folder, *options, command="allreduce", ranks=2):
    lean = [] if command == "tune" else ["--lean"]
    done = mpirun(ranks, "-m", f"bench.{command}", "--out", str(folder), *lean, *options)
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = folder.glob("*.jsonl")
    return done.stdout, read(path)


# -- builds


def test_a_name_says_how_a_kernel_is_built():
    assert Build.parse("") == Build()
    assert Build.parse("nt+ntr+128K") == Build(
        stream_slab=True, stream_receive=True, chunk_bytes=128 << 10
    )
    assert Build.parse("1M+16b+256t") == Build(chunk_bytes=1 << 20, blocks=16, threads=256)
    assert Build.parse("swap") == Build(swap=1)
    assert Build.parse("noswap+nt") == Build(stream_slab=True, swap=0)
    assert Build.parse("slabs") == Build(slabs=True)
    assert named(KNOWN, "two_shot+nt").name == "two_shot+nt"


@pytest.mark.parametrize("words", ["nt+", "Swap", "NT", "128", "0K", "-1K", "128k", "b", "999999K"])
def test_a_name_with_an_unknown_build_is_refused(words):
    with pytest.raises(
        ValueError, match="is not one of nt, ntr, swap, noswap, slabs, 128K, 16b and 256t"
    ):
        named(KNOWN, f"two_shot+{words}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("2M+4M", "'4M' sets chunk_bytes a second time"),
        ("nt+16b+nt", "'nt' sets stream_slab a second time"),
        ("swap+noswap", "'noswap' sets swap a second time"),
        ("", "no word follows the plus"),
    ],
)
def test_a_name_with_a_build_that_says_two_things_or_none_is_refused(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        named(KNOWN, f"two_shot+{words}")


def test_builds_are_measured_by_name_with_right_results(tmp_path):
    """16392 B leave a tail in every build, and no whole number of packs in the receive buffer."""
    names = (
        "one_shot_ll+noswap,one_shot_sentinel+swap,one_shot_push+nt+noswap,one_shot_pull+swap,two_shot+nt+ntr+64K,"
        "two_shot_direct+swap,ring+32K+noswap,ring+ntr,two_shot+slabs,one_shot_push+slabs"
    )
    options = (
        "--sizes",
        "16392,1M",
        "-d",
        "half",
        "--algorithm",
        names,
        "-n",
        "2",
        "--mode",
        "isolated",
    )
    _, result = run(tmp_path, *options)
    assert {case.algorithm for case in result.cases} == set(names.split(","))
    measured = [case for case in result.cases if case.status != "unsupported"]
    assert {(case.status, case.n_wrong) for case in measured} == {("ok", 0)}
    reasons = {
        (case.algorithm, case.size_bytes): case.reason for case in result.cases if case.reason
    }
    swaps_nowhere = {
        ("one_shot_sentinel+swap", 16392),
        *(
            (f"{name}+swap", size)
            for name in ("two_shot_direct", "one_shot_pull")
            for size in (16392, 1 << 20)
        ),
    }
    assert {reasons[case] for case in swaps_nowhere} == {
        "swap and noswap change nothing here: no rank writes where it has read"
    }
    assert set(reasons) - swaps_nowhere == {
        ("one_shot_ll+noswap", 1 << 20),
        ("one_shot_sentinel+swap", 1 << 20),
        ("two_shot+nt+ntr+64K", 16392),
        ("ring+ntr", 16392),
    }
    assert reasons["one_shot_ll+noswap", 1 << 20] == "a slab has room for 32 KiB in packets"
    assert reasons["ring+ntr", 16392].startswith("stores around the caches take whole packs")


def test_a_build_over_slabs_sums_registered_buffers_in_place(tmp_path):
    options = (
        "--sizes",
        "16392",
        "--algorithm",
        "one_shot_pull+slabs",
        "--in-place",
        "-n",
        "2",
        "--mode",
        "isolated",
    )
    _, result = run(tmp_path, *options)
    assert [(case.variant, case.status, case.n_wrong) for case in result.cases] == [
        ("registered", "ok", 0)
    ]


def test_auto_takes_messages_that_are_no_whole_packs(tmp_path):
    """From 16 MiB on it stores results around the caches, which takes whole packs."""
    _, result = run(
        tmp_path, "--sizes", "17825796", "--algorithm", "auto", "-n", "2", "--mode", "isolated"
    )
    assert {(case.variant, case.status) for case in result.cases} == {
        ("copied", "ok"),
        ("registered", "ok"),
    }
    assert {case.variant: case.chosen for case in result.cases} == {
        "copied": "two_shot+128K",
        "registered": "two_shot_direct+nt",
    }


# -- the search


def test_an_unwritable_table_is_refused_before_the_search(tmp_path):
    done = mpirun(
        2, "-m", "bench.tune", *QUICK, "--table", "/nowhere/table.json", "--out", str(tmp_path)
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "bench.tune: rank 0: cannot write /nowhere/table.json: No such file or directory\n"
    )


@pytest.mark.parametrize(
    ("gpu", "memory"), [(False, "mapped"), (True, "mapped"), (True, "host_staged")]
)
def test_every_candidate_has_a_meaning_and_a_unique_name(gpu, memory):
    for size in (1 << power for power in range(10, 27)):
        names = list(tune.candidates(size, gpu, memory))
        assert len(set(names)) == len(names) >= 4
        for name in names:
            build = Build.parse(named(KNOWN, name).name.partition("+")[2])
            assert (build.chunk_bytes or 0) < size
            assert gpu or build.blocks is build.threads is None
        assert any(name.startswith("two_shot_push") for name in names) == gpu
        assert ("one_shot_ll" in names) == (size <= 32 << 10)


FAST, SLOW = (100.0, 101.0), (500.0, 505.0)  # round trips


def go_on(costs_us, *rounds, cases=None):
    """Returns the candidates that go on after `rounds`, each a state of the link and the candidates it measured.
    `costs_us` has each candidate's cost in each state, `cases` the algorithms of some."""
    everyone = range(len(costs_us[FAST]))
    headers = [
        SimpleNamespace(
            size_bytes=1 << 20,
            variant="copied",
            mode="isolated",
            **(cases or {}).get(number, {"algorithm": f"a{number}"}),
        )
        for number in everyone
    ]
    suite = SimpleNamespace(headers=headers, iterations=dict.fromkeys(everyone))
    blocks = [
        Block(
            case=number,
            block=turn,
            round=turn,
            n=3,
            time_us=costs_us[state][number],
            link_rtt_ns=state,
        )
        for turn, (state, numbers) in enumerate(rounds)
        for number in numbers
    ]
    session = SimpleNamespace(communicator=SimpleNamespace(broadcast=lambda numbers: numbers))
    run = SimpleNamespace(session=session, suite=suite, blocks=blocks, file=True)
    return tune.go_on(cast(Any, run), list(rounds[-1][1]), len(rounds))


def test_the_better_half_goes_on_and_the_finalists_are_measured_to_the_end():
    """Without this, the search would spend most of its time on clear losers."""
    costs = {FAST: [float(10 + number) for number in range(16)]}
    everyone, half, last = (list(range(n)) for n in (16, 8, FINALISTS))
    begun = [(FAST, everyone)] * 3
    assert go_on(costs, *begun[:2]) == everyone, "two blocks must not drop a candidate"
    assert go_on(costs, *begun) == half
    assert go_on(costs, *begun, *[(FAST, half)] * 3) == last
    assert go_on(costs, *begun, *[(FAST, half)] * 3, *[(FAST, last)] * 3) == last
    to_the_end = tune.LAST_ROUNDS - 6
    assert go_on(costs, *begun, *[(FAST, half)] * 3, *[(FAST, last)] * to_the_end) == [0], (
        "after the last round only the best must go on"
    )


def test_a_state_of_the_link_that_appears_later_starts_its_own_search():
    """The first search may have dropped the best candidate of the second state. Neither search continues only because
    the other one does."""
    costs = {
        FAST: [float(10 + number) for number in range(16)],
        SLOW: [float(40 - number) for number in range(16)],
    }
    everyone, last = list(range(16)), list(range(FINALISTS))
    fast = [*[(FAST, everyone)] * 3, *[(FAST, list(range(8)))] * 3, *[(FAST, last)] * 2]
    assert go_on(costs, *fast, (SLOW, last)) == everyone
    slow = [(SLOW, everyone)] * 3
    assert go_on(costs, *fast, *slow) == list(range(8, 16))
    assert go_on(costs, *fast, *slow, (FAST, last)) == last, (
        "the search for the current state of the link must go on"
    )
    best = list(range(16 - FINALISTS, 16))
    slow += [*[(SLOW, list(range(8, 16)))] * 3, *[(SLOW, best)] * (tune.LAST_ROUNDS - 6)]
    assert go_on(costs, *fast, *slow) == [15]


def test_after_a_round_in_which_the_link_changed_the_search_for_the_longest_state_goes_on():
    changing = (100.0, 500.0)
    costs = {
        SLOW: [float(40 - number) for number in range(16)],
        **{state: [float(10 + number) for number in range(16)] for state in (FAST, changing)},
    }
    everyone = list(range(16))
    assert go_on(costs, (FAST, everyone), *[(SLOW, everyone)] * 3, (changing, everyone)) == list(
        range(8, 16)
    )


def test_a_table_keeps_its_entries_for_other_sizes_and_states(tmp_path):
    """A link that changes once in several minutes needs more than one search."""
    machine = cast(Any, SimpleNamespace(machine_id="m", software_id="s"))
    path = tmp_path / "tables" / "table.json"

    def add(*triples, program="1.0 (a)"):
        choices = [
            TunedChoice("all_reduce", 2, size, "copied", ns, name) for size, ns, name in triples
        ]
        tuned.add(path, machine, "run", choices, program)
        return {
            (choice.size_bytes, choice.link_rtt_ns): choice.algorithm
            for choice in tuned.load(path, machine).picks
        }

    assert add((1024, 100.0, "ring")) == {(1024, 100.0): "ring"}
    assert add((1024, 120.0, "two_shot"), (2048, 500.0, "ring+nt")) == {
        (1024, 120.0): "two_shot",
        (2048, 500.0): "ring+nt",
    }
    assert add((1024, 500.0, "ring")) == {
        (1024, 120.0): "two_shot",
        (2048, 500.0): "ring+nt",
        (1024, 500.0): "ring",
    }
    unsettled = [
        TunedChoice("all_reduce", 2, 1024, "copied", ns, "two_shot") for ns in (510.0, 2000.0)
    ]
    tuned.add(path, machine, "run", [], "1.0 (a)", unsettled)
    picks = {(choice.link_rtt_ns, choice.algorithm) for choice in tuned.load(path, machine).picks}
    assert {(500.0, "ring"), (2000.0, "two_shot")} <= picks, (
        "a short look at a state must not undo a search in it"
    )
    assert (510.0, "two_shot") not in picks
    assert add((2048, 100.0, "ring"), program="1.0 (b)") == {(2048, 100.0): "ring"}, (
        "choices of other code must go"
    )
    path.write_text("spoiled")
    assert add((1024, 100.0, "ring")) == {(1024, 100.0): "ring"}


def test_the_untuned_choice_goes_on_to_the_end_and_its_copy_does_not():
    """Only rounds that both were measured in show whether a candidate is faster."""
    costs = {FAST: [float(10 + number) for number in range(16)]}
    everyone, last = list(range(16)), [1, 2, 3, 4, 15]
    cases = {15: {"algorithm": "auto", "chosen": "a0"}}
    begun = [(FAST, everyone)] * 3
    assert 0 not in go_on(costs, *begun, cases=cases)
    assert go_on(costs, *begun, *[(FAST, last)] * 9, cases=cases) == last
    assert go_on(costs, *begun, *[(FAST, last)] * (tune.LAST_ROUNDS - 3), cases=cases) == [1]


@pytest.mark.parametrize(
    ("costs_us", "rounds", "winner"),
    [
        ({"ring": [5.0], "two_shot": [4.0]}, 12, "two_shot"),
        ({"ring": [5.9, 6.2], "two_shot": [6.5]}, 12, "one_shot_pull"),
        ({"ring": [5.0], "two_shot": [4.0]}, 5, "one_shot_pull"),  # too few rounds for an interval
        (
            {"ring": [4.0] * 7 + [20.0] * 5, "two_shot": [5.0]},
            12,
            "two_shot",
        ),  # the ring's median is the lowest
    ],
)
def test_the_default_wins_unless_another_is_clearly_faster(tmp_path, costs_us, rounds, winner):
    """Otherwise a table would make `auto` slower than it is without one. The default costs 6 us."""
    result = write_run(
        tmp_path,
        sizes=[16384],
        algorithms=["one_shot_pull", *costs_us],
        modes=["isolated"],
        n_blocks=12,
    )
    cases = {case.algorithm: case for case in result.cases if case.variant == "copied"}
    cases["one_shot_pull"].algorithm, cases["one_shot_pull"].chosen = "auto", "one_shot_pull"
    costs_us = {"one_shot_pull": [6.0]} | costs_us
    result.blocks = [
        Block(
            case=cases[name].case,
            block=turn,
            round=turn,
            n=3,
            time_us=of[turn % len(of)],
            link_rtt_ns=FAST,
        )
        for turn in range(rounds)
        for name, of in costs_us.items()
    ]
    (best,) = winners(result)
    assert best.is_settled == (rounds > 5)
    gain = None if winner == "one_shot_pull" else pytest.approx(6 / costs_us[winner][0])
    assert (best.name, best.gain and best.gain[0]) == (winner, gain)


def test_direct_sums_and_on_gpus_swapped_builds_are_candidates():
    for size in (16 << 10, 4 << 20):
        cpu, gpu = (set(tune.candidates(size, far_peers)) for far_peers in (False, True))
        direct = {
            "two_shot_direct",
            "two_shot_direct+nt",
            "two_shot_direct+ntr",
            "two_shot_direct+nt+ntr",
        }
        assert direct <= cpu & gpu
        assert not any("swap" in name for name in cpu)
        assert "two_shot+slabs" in cpu
        assert ("one_shot_push+slabs" in cpu) == (size <= 2 << 20)
        assert {"two_shot+swap", "two_shot_push+swap"} <= gpu


def test_each_state_has_a_winner_and_a_lucky_early_loser_never_wins(tmp_path):
    result = write_run(
        tmp_path,
        sizes=[16384],
        algorithms=["ring", "two_shot", "one_shot_pull"],
        modes=["isolated"],
        n_blocks=12,
    )
    cases = {case.algorithm: case.case for case in result.cases}
    result.blocks = [
        Block(case=cases[name], block=turn, round=turn, n=3, time_us=cost, link_rtt_ns=(rtt, rtt))
        for turn in range(12)
        for rtt in [100.0 if turn % 2 else 500.0]
        for name, cost in (
            ("ring", 5.0 if turn % 2 else 9.0),
            ("two_shot", 6.0),
            ("one_shot_pull", 1.0),
        )
        if name != "one_shot_pull" or turn < 4
    ]
    best = {round(w.link_rtt_ns): (w.name, w.cost_us) for w in winners(result)}
    assert best == {100: ("ring", 5.0), 500: ("two_shot", 6.0)}


def test_auto_uses_the_choices_that_the_search_stored(tmp_path):
    """Without this, the search would have no effect."""
    table = tmp_path / "table.json"
    done = mpirun(
        2, "-c", FEW_CANDIDATES, *QUICK, "--table", str(table), "--out", str(tmp_path / "tune")
    )
    assert (done.returncode, done.stderr) == (0, "")
    (path,) = (tmp_path / "tune").glob("*.jsonl")
    printed, search = done.stdout, read(path)
    assert search.complete
    assert {case.n_wrong for case in search.cases} == {0}
    assert f"table: {table}\n" in printed
    assert str(table) not in json.dumps(search.run.argv)
    content = json.loads(table.read_text())
    assert (content["machine_id"], content["software_id"]) == (
        search.run.machine_id,
        search.run.software_id,
    )
    assert {(pick["variant"], pick["mode"]) for pick in content["picks"]} == {
        (variant, mode) for variant in ("copied", "registered") for mode in ("isolated", "chained")
    }
    for pick in content["picks"]:
        assert pick["algorithm"] in printed
    _, result = run(
        tmp_path / "auto",
        "--sizes",
        "16K",
        "--algorithm",
        "auto",
        "--tuned",
        str(table),
        "--mode",
        "isolated",
        "-n",
        "2",
    )
    made = f"bench.tune made in {content['run_id']} with Wiretax {content['program']}"
    assert f"auto uses the table that {made}." in result.run.notes
    for case in result.cases:
        assert (case.status, case.n_wrong) == ("ok", 0)
        picks = {pick["algorithm"] for pick in content["picks"] if pick["variant"] == case.variant}
        # The link can have changed meanwhile into a state that was not tuned.
        assert case.chosen in picks | {
            choose(16384, 2, Cores(trip_ns), case.variant == "registered") for trip_ns in STATES_NS
        }


# -- the table


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The ids of this machine."""
    _, result = run(
        tmp_path_factory.mktemp("here"),
        "--sizes",
        "16K",
        "--algorithm",
        "ring",
        "-n",
        "2",
        "--mode",
        "isolated",
    )
    return {
        "machine_id": result.run.machine_id,
        "software_id": result.run.software_id,
        "run_id": "2026-tune",
    }


def test_auto_follows_the_link(tmp_path, here):
    """In a state without its own choice, the choice for another state can cost up to three times as much."""
    choices = [
        TunedChoice("all_reduce", 2, 16384, "copied", rtt_ns, name)
        for rtt_ns, name in (
            (1.0, "two_shot+nt"),
            (100.0, "ring"),
            (400.0, "ring"),
            (1e12, "two_shot"),
        )
    ]
    table = tmp_path / "table.json"
    table.write_text(json.dumps(here | {"picks": [vars(choice) for choice in choices]}))
    _, result = run(
        tmp_path / "out",
        "--sizes",
        "16K",
        "--algorithm",
        "auto",
        "--tuned",
        str(table),
        "--mode",
        "isolated",
        "-n",
        "2",
    )
    copied = next(case for case in result.cases if case.variant == "copied")
    assert copied.chosen == "ring"
    assert {block.chosen for block in result.blocks if block.case == copied.case} == {"ring"}
    others = result.run.cases[copied.case].other_bound_parts
    assert {"two_shot+nt", "two_shot"} <= others.keys()
    assert others["two_shot"]["hops"] == 2
    nothing = cast(Any, None)
    iteration = Iteration(
        0, "", nothing, nothing, nothing, nothing, by_link=cast(Any, {100.0: "fast", 500.0: "slow"})
    )
    for rtt_ns, expected in ((90.0, "fast"), (220.0, "fast"), (230.0, "slow"), (2000.0, "slow")):
        iteration.follow_link(rtt_ns)
        assert cast(Any, iteration.operation) == expected


def test_in_a_state_that_was_not_tuned_auto_keeps_its_default(tmp_path, here):
    choices = [TunedChoice("all_reduce", 2, 16384, "copied", 1e12, "ring")]
    table = tmp_path / "table.json"
    table.write_text(json.dumps(here | {"picks": [vars(choice) for choice in choices]}))
    _, result = run(
        tmp_path / "out",
        "--sizes",
        "16K",
        "--algorithm",
        "auto",
        "--tuned",
        str(table),
        "--mode",
        "isolated",
        "-n",
        "2",
    )
    assert {case.chosen for case in result.cases if case.variant == "copied"} == {"one_shot_pull"}


def test_the_default_in_a_heat_is_the_one_of_its_state(tmp_path):
    """On CPUs the untuned choice depends on the state of the link."""
    result = write_run(
        tmp_path, sizes=[16384], algorithms=["ring", "two_shot"], modes=["isolated"], n_blocks=12
    )
    cases = {case.algorithm: case for case in result.cases if case.variant == "copied"}
    cases["two_shot"].algorithm, cases["two_shot"].chosen = "auto", "fast"
    result.blocks = [
        Block(
            case=case.case,
            block=turn,
            round=turn,
            n=3,
            time_us=9.0 if name == "ring" else 5.0,
            link_rtt_ns=state,
            chosen={FAST: "fast", SLOW: "slow"}[state] if name != "ring" else None,
        )
        for turn in range(24)
        for state in [(FAST, SLOW)[turn % 2]]
        for name, case in cases.items()
    ]
    assert [(round(best.link_rtt_ns), best.name) for best in winners(result)] == [
        (100, "fast"),
        (502, "slow"),
    ]


def test_auto_uses_the_nearest_size_with_the_same_number_of_ranks():
    choices = [
        TunedChoice("all_reduce", ranks, size, "copied", 100.0, name)
        for ranks, size, name in ((2, 16384, "a"), (2, 1 << 20, "b"), (4, 1 << 20, "c"))
    ]

    def picks(count, ranks, collective="all_reduce"):
        case = Case(COLLECTIVES[collective], count, DATATYPES["float32"], "sum", 0, 0)
        return [pick.algorithm for pick in choices_for(choices, case, ranks, "mapped")]

    assert [picks(count, 2) for count in (512, 4096, 32000, 33000, 1 << 21)] == [
        ["a"],
        ["a"],
        ["a"],
        ["b"],
        ["b"],
    ]
    assert picks(511, 2) == picks((1 << 21) + 1, 2) == [], (
        "far from all tuned sizes the default may be faster"
    )
    assert picks(1 << 18, 4) == ["c"]
    assert picks(4096, 3) == picks(0, 2) == picks(4096, 2, "all_gather") == []


def test_each_state_uses_its_own_nearest_size():
    """A search may see a state at one size only; the other sizes use that choice."""
    choices = [
        TunedChoice("all_reduce", 2, size, "copied", ns, name)
        for size, ns, name in ((16384, 100.0, "a"), (1 << 20, 115.0, "b"), (65536, 500.0, "c"))
    ]
    case = Case(COLLECTIVES["all_reduce"], 1 << 18, DATATYPES["float32"], "sum", 0, 0)
    nearest = choices_for(choices, case, 2, "mapped")
    assert [(choice.algorithm, choice.link_rtt_ns) for choice in nearest] == [
        ("b", 115.0),
        ("c", 500.0),
    ]


def test_each_kind_of_memory_uses_its_own_choices():
    choices = [
        TunedChoice("all_reduce", 2, 16384, "copied", 100.0, name, memory)
        for name, memory in (("a", "mapped"), ("b", "host_staged"))
    ]
    case = Case(COLLECTIVES["all_reduce"], 4096, DATATYPES["float32"], "sum", 0, 0)
    best = {
        memory: [choice.algorithm for choice in choices_for(choices, case, 2, memory)]
        for memory in ("mapped", "host_staged", "same_device")
    }
    assert best == {"mapped": ["a"], "host_staged": ["b"], "same_device": []}


def test_each_mode_uses_its_own_choices():
    """A choice that won in a chain made single calls 1.2 to 1.4 times slower than without a table."""
    choices = [
        TunedChoice("all_reduce", 2, size, "copied", 100.0, name, mode=mode)
        for size, name, mode in (
            (16384, "a", "isolated"),
            (16384, "b", "chained"),
            (1 << 20, "c", "any"),
        )
    ]
    case = Case(COLLECTIVES["all_reduce"], 4096, DATATYPES["float32"], "sum", 0, 0)
    cases = [
        replace(case, count=count, mode=mode)
        for count in (4096, 1 << 18)
        for mode in ("isolated", "chained")
    ]
    assert [
        [pick.algorithm for pick in choices_for(choices, each, 2, "mapped")] for each in cases
    ] == [["a"], ["b"], ["c"], ["c"]]
    # Far, a registered chain of 1 MiB took 2.9 times as long with what had won in single calls.
    registered = [replace(choice, variant="registered") for choice in choices]
    picks = [
        choices_for(
            registered,
            replace(case, count=count, mode="chained", variant="registered"),
            2,
            "mapped",
        )
        for count in (4096, 1 << 18)
    ]
    assert [[pick.algorithm for pick in each] for each in picks] == [["b"], []]


def test_a_run_binds_the_choice_of_each_mode(tmp_path, here):
    choices = [
        TunedChoice("all_reduce", 2, 16384, "copied", rtt_ns, name, mode=mode)
        for rtt_ns in (100.0, 400.0)
        for name, mode in (("ring", "isolated"), ("two_shot", "chained"))
    ]
    table = tmp_path / "table.json"
    table.write_text(json.dumps(here | {"picks": [vars(choice) for choice in choices]}))
    _, result = run(
        tmp_path / "out",
        "--sizes",
        "16K",
        "--algorithm",
        "auto",
        "--tuned",
        str(table),
        "--mode",
        "both",
        "-n",
        "2",
    )
    assert {case.mode: case.chosen for case in result.cases if case.variant == "copied"} == {
        "isolated": "ring",
        "chained": "two_shot",
    }


def test_without_a_table_two_ranks_push_small_messages_through_the_host():
    sizes = 16 << 10, 128 << 10, 256 << 10
    assert [choose_through_host(size, 2, False) for size in sizes] == [
        "one_shot_push",
        "one_shot_push",
        "two_shot",
    ]
    assert choose_through_host(16 << 10, 4, False) == "one_shot_pull"


def test_the_search_stores_the_kind_of_memory(tmp_path):
    result = write_run(
        tmp_path, sizes=[16384], algorithms=["ring", "two_shot"], modes=["isolated"], n_blocks=12
    )
    for case in result.cases:
        case.memory = "host_staged"
    machine = cast(Any, SimpleNamespace(machine_id="m", software_id="s"))
    assert tune.conclude(str(tmp_path / "table.json"), "1.0 (a)", result, machine) == (
        f"table: {tmp_path / 'table.json'}\n"
    )
    picks = tuned.load(tmp_path / "table.json", machine).picks
    assert {(choice.memory, choice.mode) for choice in picks} == {("host_staged", "any")}


def test_the_search_stores_the_mode(tmp_path):
    sizes, modes = [16384, 1 << 20], ["isolated", "chained"]
    result = write_run(tmp_path, sizes=sizes, algorithms=["ring"], modes=modes, n_blocks=12)
    result.cases = [
        case for case in result.cases if (case.size_bytes, case.mode) != (1 << 20, "chained")
    ]
    machine = cast(Any, SimpleNamespace(machine_id="m", software_id="s"))
    tune.conclude(str(tmp_path / "table.json"), "1.0 (a)", result, machine)
    picks = tuned.load(tmp_path / "table.json", machine).picks
    assert {(choice.size_bytes, choice.mode) for choice in picks} == {
        (16384, "isolated"),
        (16384, "chained"),
        (1 << 20, "any"),
    }


def test_auto_over_host_memory_uses_its_own_default_and_choices_on_a_fake_gpu():
    done = mpirun(2, "-c", AUTO_OVER_HOST_MEMORY, **cast(Any, fake_gpu.environment()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["host_staged", "one_shot_push", "two_shot+2b"]


@pytest.mark.parametrize(
    ("memory", "ranks", "sentence"),
    [
        (
            "host_staged",
            2,
            "nothing was tuned over mapped memory; run python -m bench.tune --memory mapped.",
        ),
        ("mapped", 3, "nothing was tuned with 3 ranks; run bench.tune with these ranks."),
    ],
)
def test_a_run_says_if_its_memory_or_its_ranks_were_not_tuned(tmp_path, memory, ranks, sentence):
    table = tmp_path / "table.json"
    choice = TunedChoice("all_reduce", 2, 4096, "copied", 100.0, "ring", memory)
    machine = Machine({}, [], None, "m", "s")
    tuned.add(table, machine, "run", [choice], "1.0 (a)")
    ours = SimpleNamespace(
        rank=0,
        size=ranks,
        hosts=1,
        broadcast=lambda value: value,
        together=lambda *errors: nullcontext(),
    )
    world = World(
        cast(Any, ours), cast(Any, None), Unsupported("none"), cast(Any, None), cast(Any, None)
    )
    session = SimpleNamespace(
        options=SimpleNamespace(tuned=str(table)), communicator=ours, world=world, notes=[]
    )
    tuned.use_table(cast(Any, session), machine)
    assert session.notes == [f"auto uses its defaults: {sentence}"]


@SLOW_TEST
def test_the_search_over_host_memory_on_a_fake_gpu(tmp_path):
    table, options = (
        tmp_path / "table.json",
        ("-b", "4K", "-e", "4K", "--max-time", "90", "--device", "cuda"),
    )
    done = mpirun(
        2,
        "-c",
        TWO_CANDIDATES,
        *options,
        "--memory",
        "host_staged",
        "--table",
        str(table),
        "--out",
        str(tmp_path / "tune"),
        **cast(Any, fake_gpu.environment(closed=0)),
    )
    assert done.returncode == 0, done.stderr
    picks = json.loads(table.read_text())["picks"]
    assert {(pick["memory"], pick["variant"]) for pick in picks} == {("host_staged", "copied")}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"machine_id": "0" * 12},
            "was made on another machine or with other software (000000000000, ",
        ),
        ({"software_id": "0" * 12}, ", 000000000000; this is "),
        ({"picks": [{"collective": "all_reduce"}]}, "is not a table of bench.tune: "),
        (
            {"picks": [ANY | {"algorithm": "two_shot+fast"}]},
            "is not a table of bench.tune: 'fast' is not one of nt, ntr",
        ),
        (
            {"picks": [ANY | {"algorithm": "three_shot"}]},
            "is not a table of bench.tune: three_shot does not exist",
        ),
        (
            {"picks": [ANY | {"mode": "as_used"}]},
            "is not a table of bench.tune: 'as_used' is not one of isolated, ",
        ),
        (
            {"picks": [ANY | {"link_rtt_ns": 0}]},
            "is not a table of bench.tune: a size of 16384 B, a round trip of 0.0 ns",
        ),
        (
            {"picks": [ANY | {"size_bytes": 10**400}]},
            "is not a table of bench.tune: a size of 1000",
        ),
        (None, "table.json cannot be read: No such file or directory"),
    ],
    ids=["machine", "software", "fields", "build", "algorithm", "mode", "state", "size", "absent"],
)
def test_a_table_from_another_machine_or_a_damaged_table_is_refused(tmp_path, changed, sentence):
    """Otherwise the run would measure another machine's best choice as this machine's."""
    table, machine = tmp_path / "table.json", Machine({}, [], None, "a1b2c3", "d4e5f6")
    right = {"machine_id": "a1b2c3", "software_id": "d4e5f6", "run_id": "2026-tune", "picks": []}
    if changed is not None:
        table.write_text(json.dumps(right | changed))
    with pytest.raises(ResultError) as refusal:
        tuned.load(table, machine)
    assert sentence in str(refusal.value)


def test_a_table_that_is_a_pipe_is_refused(tmp_path):
    """The ranks would wait for a writer until the watchdog ends them."""
    os.mkfifo(tmp_path / "table.json")
    with pytest.raises(ResultError, match="it is not an ordinary file"):
        tuned.load(tmp_path / "table.json", Machine({}, [], None, "m", "s"))


def test_this_machines_table_is_used_only_by_the_code_that_made_it(tmp_path, monkeypatch):
    """A table of another checkout was used silently: it chose up to 1.35 times slower than the best."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    machine, own = Machine({}, [], None, "a1b2c3", "d4e5f6"), program_digest(*MEASURED)
    path, choice = (
        tuned.default_path(machine),
        TunedChoice("all_reduce", 2, 4096, "copied", 100.0, "ring"),
    )
    assert tuned.find(None, machine) == (None, "")

    def found(name, program):
        tuned.add(path, machine, "2026-tune", [choice], program)
        table, sentence = tuned.find(name, machine)
        return table and table.picks, sentence

    made = "the table that bench.tune made in 2026-tune with"
    assert found(None, own) == ([choice], f"auto uses {made} Wiretax {own}.")
    assert found(None, "0.1.0 (0000000)") == (
        None,
        (
            f"auto uses its defaults: this code is {own}, and {made} Wiretax 0.1.0 (0000000). Run python -m bench.tune "
            "for a new one."
        ),
    )
    assert found(str(path), "0.1.0 (0000000)") == (
        [choice],
        (f"auto uses {made} Wiretax 0.1.0 (0000000); this code is {own}."),
    )
    # An older version knew algorithms that are gone, and neither the modes nor its own code.
    old = {"machine_id": "a1b2c3", "software_id": "d4e5f6", "run_id": "2026-tune", "picks": [ANY]}
    path.write_text(json.dumps(old))
    table, sentence = tuned.find(str(path), machine)
    assert table
    assert (table.picks[0].mode, sentence) == (
        "any",
        f"auto uses {made} an older Wiretax; this code is {own}.",
    )
    path.write_text(json.dumps(old | {"picks": [ANY | {"algorithm": "three_shot"}]}))
    assert tuned.find(None, machine)[0] is None


def test_the_program_of_a_table_depends_on_kernels_and_collectives_alone():
    programs = {
        program_digest(*packages)
        for packages in (
            ("collectives", "kernels"),
            ("kernels", "collectives"),
            ("collectives",),
            ("bench", "collectives", "kernels"),
        )
    }
    assert len(programs) == 3


def test_a_run_with_a_refused_table_prints_one_sentence_and_measures_nothing(tmp_path):
    table, out = tmp_path / "table.json", tmp_path / "out"
    done = mpirun(
        2, "-m", "bench.allreduce", "--tuned", str(table), "--out", str(out), "--sizes", "16K"
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "table.json cannot be read: No such file or directory" in done.stderr
    assert list(out.iterdir()) == []
